"""What a clean visit is."""

from __future__ import annotations

import dataframely as dy
import polars as pl


class Visit(dy.Schema):
    """One page view of the blog."""

    visit_id = dy.String(primary_key=True, description="Identity of the page view, given by the browser.")
    event_time = dy.Datetime(time_unit="us", time_zone="UTC", description="When the page was opened.")
    append_time = dy.Datetime(time_unit="us", time_zone="UTC", description="When the event reached the log.")
    user_id = dy.String(min_length=1, description="Who opened the page.")
    page = dy.String(min_length=1, description="Which page, without host and slash.")
    keep_private = dy.Bool(nullable=True, description="Whether the visitor asked not to be shown.")
    referral = dy.String(
        nullable=True, description="Where the visitor came from.", metadata={"source": "context.referral"}
    )
    ad_id = dy.String(nullable=True, description="Advertisement that was shown.", metadata={"source": "context.ad_id"})
    ip = dy.String(nullable=True, description="Address of the visitor.", metadata={"source": "context.user.ip"})
    login = dy.String(nullable=True, description="Login of the visitor.", metadata={"source": "context.user.login"})
    connected_since = dy.Datetime(
        nullable=True,
        time_unit="us",
        time_zone="UTC",
        description="Start of the visitor's connection.",
        metadata={"source": "context.user.connected_since"},
    )
    browser = dy.String(nullable=True, description="Browser.", metadata={"source": "context.technical.browser"})
    browser_version = dy.String(
        nullable=True, description="Version of the browser.", metadata={"source": "context.technical.browser_version"}
    )
    network_type = dy.String(
        nullable=True, description="Kind of network.", metadata={"source": "context.technical.network_type"}
    )
    device_type = dy.String(
        nullable=True, description="Kind of device.", metadata={"source": "context.technical.device_type"}
    )
    device_version = dy.String(
        nullable=True, description="Version of the device.", metadata={"source": "context.technical.device_version"}
    )

    @dy.rule()
    def event_of_the_day_it_arrived(cls) -> pl.Expr:  # noqa: N805 - dataframely passes the class
        """Events of another day belong to a cube that is closed; they wait in quarantine."""
        return pl.col("event_time").dt.date() == pl.col("append_time").dt.date()

    @dy.rule()
    def event_before_it_arrived(cls) -> pl.Expr:  # noqa: N805
        """An event cannot reach the log before it happened."""
        return pl.col("event_time") <= pl.col("append_time")
