"""What a clean visit is, a clean change of a user, a clean update of a device and a clean like."""

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


class UserChange(dy.Schema):
    """One delivery of a change of a user of the blog: each change comes at least once, in any order."""

    change_id = dy.String(primary_key=True, description="Identity of the change, the same when delivered again.")
    op = dy.String(description="What became of the user: upsert or delete.")
    user_id = dy.String(min_length=1, description="Who changed.")
    sequence = dy.Int64(description="Position of the change in the source, which grows with each.")
    changed_at = dy.Datetime(time_unit="us", time_zone="UTC", description="When the source made the change.")
    append_time = dy.Datetime(
        primary_key=True, time_unit="us", time_zone="UTC", description="When this delivery reached the log."
    )
    login = dy.String(nullable=True, description="Login of the user; null when deleted.")
    email = dy.String(nullable=True, description="Address of the user; null when deleted or not given.")
    country = dy.String(nullable=True, description="Country of the user, two letters; null when deleted.")
    plan = dy.String(nullable=True, description="What the user reads by, free or member; null when deleted.")

    @dy.rule()
    def op_is_upsert_or_delete(cls) -> pl.Expr:  # noqa: N805
        """What else the source may do to a user, nobody here knows how to follow."""
        return pl.col("op").is_in(["upsert", "delete"])

    @dy.rule()
    def changed_before_it_arrived(cls) -> pl.Expr:  # noqa: N805
        """A change cannot reach the log before it was made."""
        return pl.col("changed_at") <= pl.col("append_time")


class DeviceUpdate(dy.Schema):
    """A device that the blog is read on, as it is from a day on."""

    day = dy.Date(primary_key=True, description="Day that the update landed for.")
    id = dy.String(primary_key=True, description="Identity of the device.")
    brand_name = dy.String(nullable=True, description="Brand of the device.")
    full_name = dy.String(nullable=True, description="Name of the device with its variant.")
    processor_brand = dy.String(nullable=True, description="Brand of its processor.")
    is_deleted = dy.Bool(description="Whether the device is withdrawn from that day on.")


class Like(dy.Schema):
    """One like of a post."""

    like_id = dy.String(primary_key=True, description="Identity of the like, given by the blog.")
    liked_at = dy.Datetime(time_unit="us", time_zone="UTC", description="When the post was liked.")
    user_id = dy.String(min_length=1, description="Who liked it.")
    post = dy.String(min_length=1, description="Which post.")
    author = dy.String(min_length=1, description="Who wrote the post.")


class VisitsCube(dy.Schema):
    """Visits of a day by page, by user, by both, and in all, as readers of the cube are promised."""

    day = dy.Date(description="The day, in UTC.")
    page = dy.String(nullable=True, description="Which page; null for all.")
    user_id = dy.String(nullable=True, description="Who opened it; null for all.")
    visits = dy.Int64(min=1, description="Number of visits.")
