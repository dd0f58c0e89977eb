"""The ``dagster.yaml`` of a namespace: the checkout's own, with the limits and places that are configured."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HANDLER = "pattern_platform.orchestration.json_logs.JsonLogHandler"


def instance_config(
    template: Mapping[str, Any], *, runs: int, limits: Mapping[str, int], namespace: str, logs: Path
) -> dict[str, Any]:
    """Settings of a Dagster instance.

    Args:
        template: Content of the ``dagster.yaml`` of the checkout, whose other settings stay.
        runs: How many runs there are at a time.
        limits: How many of them with each tag.
        namespace: Whose runs they are.
        logs: Folder of the structured logs.
    """
    made = deepcopy(dict(template))
    coordinator = made["run_coordinator"]["config"]
    coordinator["max_concurrent_runs"] = runs
    coordinator["tag_concurrency_limits"] = [{"key": key, "limit": limit} for key, limit in limits.items()]
    coordinator |= {"namespace": namespace, "logs": str(logs)}
    handler = {"class": _HANDLER, "folder": str(logs), "namespace": namespace}
    made["python_logs"] = {
        "managed_python_loggers": ["pattern_platform"],
        "dagster_handler_config": {"handlers": {"json": handler}},
    }
    return made
