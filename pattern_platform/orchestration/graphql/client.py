"""Runs of a deployed platform from Python: submit one, wait for it, read what it made.

    client = PlatformClient("http://127.0.0.1:3000")
    run = client.submit("aggregated/visits_cube", partition="2024-05-06").wait()
    run.outputs["visits_cube"].read()  # a LazyFrame

A run goes through the queue as every launch does: tags and limits bind. The client polls, for the run is in another
process, and keeps nothing: with a ``key`` a caller that was killed finds its run again.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from pattern_platform.errors import RunFailedError, RunNotOverError
from pattern_platform.orchestration.graphql.answers import Asset
from pattern_platform.orchestration.graphql.outputs import Outputs
from pattern_platform.orchestration.graphql.submission import Submission, asked, refuse_partitions, resolved
from pattern_platform.orchestration.graphql.webserver import Webserver
from pattern_platform.orchestration.partition_tags import partition_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_KEY = "pattern_platform/run_key"
_FAILED = {"FAILURE", "CANCELED"}
_OVER = {"SUCCESS", *_FAILED}
_SECONDS_BETWEEN_LOOKS = 0.5


class SubmittedRun:
    """A run that was submitted.

    Args:
        webserver: Of the Dagster that has it.
        run_id: Its id.
        name: What it runs.
    """

    def __init__(self, webserver: Webserver, run_id: str, name: str) -> None:
        self._webserver, self.run_id, self.name = webserver, run_id, name

    @property
    def url(self) -> str:
        """Its page in the UI."""
        return f"{self._webserver.url}/runs/{self.run_id}"

    @property
    def status(self) -> str:
        """Its status now, as Dagster writes it, such as ``QUEUED``, ``STARTED`` and ``SUCCESS``."""
        return self._webserver.run(self.run_id).status

    @property
    def outputs(self) -> Outputs:
        """What it made so far, by asset."""
        return Outputs.of(self._webserver.materializations(self.run_id), of=f"run {self.run_id} of {self.name!r}")

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it succeeded.

        Args:
            timeout: For how many seconds at most; without an end where None.

        Returns:
            The run itself.

        Raises:
            RunFailedError: It failed, or was canceled; with the steps that did and what they said first.
            RunNotOverError: It is not over yet, and goes on.
            WebserverError: The webserver is gone; the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.status) not in _OVER:
            if deadline is not None and time.monotonic() > deadline:
                raise RunNotOverError(
                    f"{self.name!r} was given up after {timeout:g} s",
                    why=f"run {self.run_id} is {status}, and goes on",
                    mend=f"wait longer, or see {self.url}",
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if status in _FAILED:
            raise self._failure(status)
        return self

    def _failure(self, status: str) -> RunFailedError:
        said = self._webserver.failures(self.run_id)
        steps = [f"step {step}: {message}" for step, message in said.items() if step] or list(said.values())
        return RunFailedError(
            f"run {self.run_id} of {self.name!r} {'failed' if status == 'FAILURE' else 'was canceled'}",
            why="\n".join(steps) or "it says no more",
            mend=f"see {self.url}, mend the cause, then submit it again",
        )


class PlatformClient:
    """The jobs and assets of a deployed platform.

    Args:
        url: Where its webserver is, such as ``http://127.0.0.1:3000``.
    """

    def __init__(self, url: str) -> None:
        self._webserver = Webserver(url)

    def submit(
        self,
        name: str,
        *,
        partition: str | None = None,
        partitions: tuple[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> SubmittedRun:
        """Put a run into the queue.

        Args:
            name: A job, the key of an asset as ``clean/visits``, or its last part where no other asset has the same.
            partition: The partition.
            partitions: The first and the last of several that one run takes; in place of ``partition``.
            tags: Tags of the run.
            config: Its run config, as the launchpad of the UI takes it.
            key: What the caller calls this piece of work. The same call with the same key finds the run that is under
                way or has succeeded, in place of a second one; one that failed is repeated.

        Raises:
            SubmissionError: No job or asset is called so, or several are; the partitions are missing, unknown, or too
                many for one run.
            WebserverError: The webserver cannot be asked, or Dagster does not take the run.
        """
        target = resolved(self._webserver, name)
        called = target.key if isinstance(target, Asset) else target.name
        first, last = asked(called, partition, partitions)
        refuse_partitions(target, called, first, last)
        all_tags = {**(tags or {}), **(partition_tags(first, last) if first else {})}
        if key is not None:
            task = Submission(called, first, last, json.dumps(config or {}, sort_keys=True), key)
            all_tags[RUN_KEY] = task.key
            known = self._webserver.runs({RUN_KEY: task.key})
            if known and known[0].status not in _FAILED:
                return SubmittedRun(self._webserver, known[0].run_id, called)
        if isinstance(target, Asset):
            run_id = self._webserver.launch([target], all_tags, config)
        else:
            run_id = self._webserver.launch_job(target, all_tags, config)
        return SubmittedRun(self._webserver, run_id, called)
