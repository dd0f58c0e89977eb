"""What a clean flight is. Source: the New York flights of 2013, US Bureau of Transportation Statistics."""

from __future__ import annotations

import dataframely as dy
import polars as pl

_MIDNIGHT = 2400  # local time is hours * 100 + minutes; midnight ends a day


class Flight(dy.Schema):
    """One scheduled departure from New York."""

    time_hour = dy.Datetime(
        time_unit="us", time_zone="UTC", primary_key=True, description="Scheduled hour of departure."
    )
    carrier = dy.String(primary_key=True, regex="^[A-Z0-9]{2}$", description="Two-letter code of the airline.")
    flight = dy.Int64(primary_key=True, min=1, description="Number of the flight.")
    origin = dy.Enum(["EWR", "JFK", "LGA"], primary_key=True, description="Airport of departure.")
    dest = dy.String(regex="^[A-Z]{3}$", description="Airport of arrival.")
    tailnum = dy.String(nullable=True, description="Tail number of the plane.")
    sched_dep_time = dy.Int64(min=0, max=_MIDNIGHT, description="Scheduled departure, local time as hhmm.")
    dep_time = dy.Int64(nullable=True, min=0, max=_MIDNIGHT, description="Departure; null when cancelled.")
    dep_delay = dy.Int64(nullable=True, description="Delay of the departure in minutes.")
    sched_arr_time = dy.Int64(min=0, max=_MIDNIGHT, description="Scheduled arrival, local time as hhmm.")
    arr_time = dy.Int64(nullable=True, min=0, max=_MIDNIGHT, description="Arrival, local time as hhmm.")
    arr_delay = dy.Int64(nullable=True, description="Delay of the arrival in minutes.")
    air_time = dy.Int64(nullable=True, min=0, description="Time in the air in minutes.")
    distance = dy.Int64(min=0, description="Distance in miles.")

    @dy.rule()
    def delay_only_when_departed(cls) -> pl.Expr:  # noqa: N805 - dataframely passes the class
        """A cancelled flight has neither departure nor delay."""
        return pl.col("dep_time").is_null() == pl.col("dep_delay").is_null()
