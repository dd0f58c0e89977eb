"""All checks, in the order in which an operator mends things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_platform.operations.doctor import hosts, instance, workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pattern_platform.operations.doctor.deployment import Deployment
    from pattern_platform.operations.doctor.finding import Finding

CHECKS: tuple[tuple[str, Callable[[Deployment], Finding]], ...] = (
    ("DAGSTER_HOME", instance.dagster_home),
    ("database driver", instance.database_driver),
    ("database and clock", instance.clock),
    ("instance", instance.opens),
    ("daemon", instance.daemon),
    ("queue limits", instance.queue_limits),
    ("run monitoring", instance.run_monitoring),
    ("run retries", instance.run_retries),
    ("secrets", instance.secrets),
    ("instance storage", hosts.instance_storage),
    ("tables", hosts.tables),
    ("object store", hosts.object_store),
    ("local files", hosts.local_files),
    ("compute logs", hosts.compute_logs),
    ("addresses", hosts.addresses),
    ("celery program", workers.celery_program),
    ("worker file", workers.worker_file),
    ("result backend", workers.results),
    ("workers", workers.workers),
    ("executor", workers.executors),
)


def examined(deployment: Deployment) -> dict[str, Finding]:
    """What every check finds.

    Args:
        deployment: What is looked at.
    """
    return {name: check(deployment) for name, check in CHECKS}
