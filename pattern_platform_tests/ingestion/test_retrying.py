"""A load that fails is repeated by the policy of its asset, a refusal is not: what the ingestion relies on."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from pattern_platform import DataOverwriteIOManager
from pattern_platform.errors import CommitConflictError, MissingTableError

if TYPE_CHECKING:
    from pathlib import Path

HOURS = dg.HourlyPartitionsDefinition("2024-05-06-00:00", end_offset=1)
HOUR = "2024-05-06-05:00"


@pytest.mark.parametrize(
    ("error", "writes"),
    [
        (OSError(errno.EIO, "the storage did not answer"), 2),
        (ConnectionResetError("the network went"), 2),
        (CommitConflictError("a commit", why="others were faster", mend="run again"), 2),
        (MissingTableError("a table", why="it is not there", mend="make it"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_load_is_repeated_unless_it_is_refused(tmp_path: Path, error: Exception, writes: int) -> None:
    tries: list[str] = []

    class LosesAcknowledgement(DataOverwriteIOManager):
        """Commits, and fails the first time all the same."""

        def handle_output(self, context: dg.OutputContext, obj: object) -> None:
            super().handle_output(context, obj)
            tries.append(context.run_id)
            if len(tries) == 1:
                raise error

    @dg.asset(
        partitions_def=HOURS,
        metadata={"partition_expr": "at"},
        io_manager_key="tables",
        retry_policy=dg.RetryPolicy(max_retries=3),
    )
    def visits() -> pl.DataFrame:
        return pl.DataFrame({"at": [datetime(2024, 5, 6, 5, tzinfo=UTC)], "n": [1]})

    resources = {"tables": LosesAcknowledgement(root_uri=str(tmp_path))}
    result = dg.materialize([visits], partition_key=HOUR, resources=resources, raise_on_error=False)
    assert len(tries) == writes
    assert result.success == (writes == 2)
    assert pl.read_delta(str(tmp_path / "visits")).height == 1
