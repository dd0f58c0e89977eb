"""What the dashboards rely on. Columns beyond these may come and go."""

from __future__ import annotations

import dataframely as dy


class VisitsCube(dy.Schema):
    """Visits of a day by page and user; null stands for all."""

    day = dy.Date()
    page = dy.String(nullable=True)
    user_id = dy.String(nullable=True)
    visits = dy.Int64(min=1)


class AdImpression(dy.Schema):
    """An advertisement that was shown, and billed."""

    visit_id = dy.String(primary_key=True)
    ad_id = dy.String()
    day = dy.Date()


class AdPrice(dy.Schema):
    """What a partner pays for an impression of an advertisement."""

    ad_id = dy.String(primary_key=True)
    cents = dy.Int64(min=0)


class LandedFlight(dy.Schema):
    """A line that landed, whatever it says."""

    partition_start = dy.Datetime(time_unit="us", time_zone="UTC")
    source_file = dy.String()
