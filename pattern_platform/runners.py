"""What runs beside what: the limits of the run queue, as the assets name them. ``dagster.yaml`` holds the same."""

from __future__ import annotations

from pattern_platform.patterns.data_flow.concurrent_runner import concurrent_runner
from pattern_platform.patterns.data_flow.single_runner import single_runner
from pattern_platform.settings import Settings

_limits = Settings().limits

INGESTION = concurrent_runner("ingestion", limit=_limits.ingestion)
LATE_DATA = concurrent_runner("late_data", limit=_limits.late_data)  # a burst of it never holds up current hours
PAGE_SPEED = concurrent_runner("page_speed", limit=_limits.page_speed)
SESSIONS = single_runner("sessions_by_hour")

# No tenant takes all slots of the queue.
TEAM_WEB = concurrent_runner("team_web", limit=_limits.team_web)
TEAM_FLIGHTS = concurrent_runner("team_flights", limit=_limits.team_flights)
TEAMS = {"team:web": TEAM_WEB, "team:flights": TEAM_FLIGHTS}

URGENT = {"dagster/priority": "1"}  # of jobs: what has just landed goes before a backfill

_RUNNERS = (INGESTION, LATE_DATA, TEAM_WEB, TEAM_FLIGHTS, PAGE_SPEED, SESSIONS)
LIMITS = {tag: int(limit) for runner in _RUNNERS for tag, limit in runner.tags.items()}
