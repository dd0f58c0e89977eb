"""What runs beside what: the limits of the run queue, as the assets name them. ``dagster.yaml`` holds the same."""

from __future__ import annotations

from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform.patterns.data_flow.single_runner import single_runner

INGESTION = concurrent_runner("ingestion", limit=3)
PAGE_SPEED = concurrent_runner("page_speed", limit=2)
SESSIONS = single_runner("sessions_by_hour")

# No tenant takes all slots of the queue.
TEAM_WEB = concurrent_runner("team_web", limit=3)
TEAM_FLIGHTS = concurrent_runner("team_flights", limit=3)

URGENT = {"dagster/priority": "1"}  # of jobs: what has just landed goes before a backfill
