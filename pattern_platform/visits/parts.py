"""The blog, part by part: what is ingested, and what is made of it."""

from __future__ import annotations

from pattern_platform.visits import (
    archive,
    assets,
    billing,
    catalogue,
    comments,
    devices,
    estimate,
    hourly_sessions,
    likes,
    migration,
    page_speed,
    sessions,
    users,
    warehouse,
)

INGESTED = (assets, users, devices, likes, comments)
DERIVED = (estimate, warehouse, billing, sessions, hourly_sessions, migration, archive, catalogue)

ASSETS = [asset for part in (*INGESTED, *DERIVED, page_speed) for asset in part.ASSETS]
CHECKS = [check for part in (*INGESTED, *DERIVED) for check in part.CHECKS]
SENSORS = [page_speed.ARRIVALS, hourly_sessions.REPLAYS]
MAINTENANCE = [*warehouse.MAINTENANCE, *catalogue.MAINTENANCE, *likes.MAINTENANCE]
