"""Which log lines there are, by time, level, asset, partition and run, over the files of every process.

Files are chosen by their path. Of those, DuckDB reads each line as text and keeps what names the level and the asset;
only these lines are parsed. A million lines take less than a second on two cores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb

from pattern_platform.errors import MissingLogsError, UnreadableLogsError
from pattern_platform.orchestration.json_logs import RANGE, TIME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from pathlib import Path

LEVELS = ("debug", "info", "warning", "error", "critical")
_HOUR = "date=%Y-%m-%d/hour=%H"
# JSON holds no control character, so every line is one field. A process that was killed leaves half a line at most.
_LINES = r"""read_csv(
    $files, columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '', escape = '', header = false, auto_detect = false,
    new_line = '\n', ignore_errors = true, null_padding = false
)"""
_IS_IN_RANGE = f"""(
    contains(partition, '{RANGE}')
    AND $partition BETWEEN split_part(partition, '{RANGE}', 1) AND split_part(partition, '{RANGE}', 2)
)"""


@dataclass(frozen=True)
class LogQuery:
    """Which lines are wanted.

    Args:
        last: How long ago the oldest may be.
        level: The least level, one of :data:`LEVELS`.
        asset: Key of an asset, or the last part of it, which may be that of several assets.
        partition: Partition key; runs over several partitions count when theirs begin and end around it.
        run: A run id, or how it begins.
        limit: The most lines; the newest are kept.
    """

    last: timedelta
    level: str = LEVELS[0]
    asset: str | None = None
    partition: str | None = None
    run: str | None = None
    limit: int = 1_000

    def lines(self, folder: Path, *, now: datetime | None = None) -> list[str]:
        """The lines, as they were written, the oldest first.

        Args:
            folder: Folder of the logs.
            now: The time; that of the machine when absent.

        Raises:
            MissingLogsError: There is no such folder.
            UnreadableLogsError: A file cannot be read.
        """
        since = (now or datetime.now(UTC)).astimezone(UTC) - self.last
        files = _files(folder, since)
        if not files:
            return []
        texts, conditions, values = self._conditions()
        # A line begins with {"time":"2024-05-07T13:00:00.000Z", so that its time is a part of the text.
        query = f"""
            WITH lines AS (SELECT line FROM {_LINES} WHERE {" AND ".join(["line >= $since", *texts])}),
            parsed AS (
                SELECT line, line->>'$.time' AS time, line->>'$.partition' AS partition, line->>'$.run_id' AS run_id,
                    TRY_CAST(line->'$.asset' AS VARCHAR[]) AS assets, line->>'$.level' AS level
                FROM lines WHERE json_valid(line)
            )
            SELECT line FROM parsed WHERE {" AND ".join(["time IS NOT NULL", *conditions])}
            ORDER BY time DESC LIMIT $limit"""  # noqa: S608 - what is put together is ours, what is asked for a value
        values |= {"files": [str(file) for file in files], "since": f'{{"time":"{since:{TIME}}', "limit": self.limit}
        try:
            with duckdb.connect() as connection:
                found = connection.execute(query, values).fetchall()
        except duckdb.Error as error:
            raise UnreadableLogsError(
                f"the logs below {folder} could not be read",
                why=str(error).splitlines()[0],
                mend="see that every file there is one that the platform wrote, and that you may read it",
            ) from error
        return [line for (line,) in reversed(found)]

    def _conditions(self) -> tuple[list[str], list[str], dict[str, Any]]:
        """Conditions on the text of a line, on what it says, and their values."""
        texts, conditions, values = [], [], {}
        if self.level != LEVELS[0]:
            wanted = [level.upper() for level in LEVELS[LEVELS.index(self.level) :]]
            texts.append("(" + " OR ".join(f'contains(line, \'"level":"{level}"\')' for level in wanted) + ")")
            conditions.append("list_contains($levels, level)")
            values["levels"] = wanted
        if self.asset is not None:
            texts.append("contains(line, $asset_text)")
            conditions.append("len(list_filter(assets, lambda key: key = $asset OR ends_with(key, '/' || $asset))) > 0")
            values |= {"asset": self.asset, "asset_text": json.dumps(self.asset)[1:]}
        if self.partition is not None:
            conditions.append(f"(partition = $partition OR {_IS_IN_RANGE})")
            values["partition"] = self.partition
        if self.run is not None:
            texts.append("contains(line, $run_text)")
            conditions.append("starts_with(run_id, $run)")
            values |= {"run": self.run, "run_text": f'"run_id":{json.dumps(self.run)[:-1]}'}
        return texts, conditions, values


def _files(folder: Path, since: datetime) -> Sequence[Path]:
    if not folder.is_dir():
        raise MissingLogsError(
            f"the logs below {folder} were refused",
            why="there is no such folder: nothing was logged there yet",
            mend="start the platform by `make dev` or `make demo`, whose dagster.yaml names the folder",
        )
    oldest = f"{since:{_HOUR}}"
    hours = (hour for hour in folder.glob("date=*/hour=*") if hour.relative_to(folder).as_posix() >= oldest)
    return [file for hour in sorted(hours) for file in sorted(hour.glob("*.jsonl")) if file.stat().st_size]
