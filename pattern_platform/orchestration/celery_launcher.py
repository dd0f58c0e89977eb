"""Runs on a fleet of machines by Celery, and a machine that went down is noticed.

The health check of ``CeleryRunLauncher`` is what the result backend holds. A task that a worker began is ``STARTED``
there until the worker says otherwise, and a worker whose machine was switched off, cut off or killed as a whole says
nothing: its runs count as running until their age is too high. That a task is acknowledged late does not help, as
Dagster ignores a second worker for a run that has started.

In ``dagster.yaml``; the config is that of ``CeleryRunLauncher``, with ``lost_after_seconds``::

    run_launcher:
      module: pattern_platform.orchestration.celery_launcher
      class: WatchedCeleryRunLauncher
      config:
        broker: {env: BROKER_URL}
        backend: {env: BROKER_URL}
        lost_after_seconds: 60

Needs ``pattern-platform[celery]``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from dagster import Field
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import DagsterRun

_OWN = "lost_after_seconds"
_ANSWER_SECONDS = 2.0  # within which a worker answers; it does so beside its tasks


class WatchedCeleryRunLauncher(CeleryRunLauncher):
    """A ``CeleryRunLauncher`` that asks the worker of a run whether it still has it.

    A worker that answers and does not know the run has been started anew. One that has not answered for
    ``lost_after_seconds`` is lost with its runs: run monitoring marks them failed, and run retries launch them again.
    If it was only cut off it may end such a run later, beside the retry; both write the same, as every pattern allows.
    """

    lost_after_seconds: float = 60.0

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - those of the base
        super().__init__(**given)
        self._silent_since: dict[str, float] = {}  # by task

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The config of its base, and its own."""
        own = Field(float, is_required=False, default_value=cls.lost_after_seconds, description="Silence of a worker.")
        return {**cast("dict[str, Any]", super().config_type()), _OWN: own}

    @classmethod
    def from_config_value(
        cls,
        inst_data: Any,  # noqa: ANN401 - no public type
        config_value: Mapping[str, Any],
    ) -> WatchedCeleryRunLauncher:
        """Made by an instance, as ``dagster.yaml`` says; the base takes what it knows."""
        made = cls(inst_data=inst_data, **{name: value for name, value in config_value.items() if name != _OWN})
        made.lost_after_seconds = config_value[_OWN]
        return made

    def check_run_worker_health(self, run: DagsterRun) -> Any:  # noqa: ANN401 - no public type
        """What the result backend holds; where that is ``STARTED``, what the worker says."""
        health = super().check_run_worker_health(run)
        status = type(health.status)
        if health.status is not status.RUNNING:
            return health
        task = run.tags[DAGSTER_CELERY_TASK_ID_TAG]
        worker = self._worker(task)
        if worker is None:  # it has just ended
            return health
        answer = self.celery.control.inspect(destination=[worker], timeout=_ANSWER_SECONDS).query_task(task)
        if answer is None:
            silent = time.monotonic() - self._silent_since.setdefault(task, time.monotonic())
            if silent < self.lost_after_seconds:
                return health
            return health._replace(status=status.FAILED, msg=f"Worker {worker} has not answered for {silent:.0f} s.")
        self._silent_since.pop(task, None)
        if task in answer[worker] or self._worker(task) != worker:
            return health
        return health._replace(status=status.FAILED, msg=f"Worker {worker} was started anew and does not know the run.")

    def _worker(self, task: str) -> str | None:
        """The worker that began a task and has not ended it; its result is an exit code or an error."""
        info = self.celery.AsyncResult(task).info
        return info.get("hostname") if isinstance(info, dict) else None
