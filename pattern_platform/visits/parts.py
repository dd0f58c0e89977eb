"""The blog, part by part: what is ingested, and what is made of it."""

from __future__ import annotations

from pattern_platform.visits import (
    archive,
    assets,
    billing,
    catalogue,
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

INGESTED = (assets, users, devices, likes)
DERIVED = (estimate, warehouse, billing, sessions, hourly_sessions, migration, archive, catalogue)

ASSETS = [asset for part in (*INGESTED, *DERIVED, page_speed) for asset in part.ASSETS]
CHECKS = [check for part in (*INGESTED, *DERIVED) for check in part.CHECKS]
JOBS = [part.INGEST for part in INGESTED]
SCHEDULES = [part.SCHEDULE for part in INGESTED]
SENSORS = [page_speed.ARRIVALS, hourly_sessions.REPLAYS]
MAINTENANCE = [*warehouse.MAINTENANCE, *catalogue.MAINTENANCE, *likes.MAINTENANCE]
