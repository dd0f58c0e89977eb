"""Rows by key in Redis: a JSON document a row, a whole batch in one ``MULTI``.

``{asset}:row:<key>`` is a row, ``{asset}:partition:<partition>`` the set of the keys that it wrote, ``{asset}:loads``
the record of its partitions, ``{asset}:schema`` the types as an empty Arrow file. The braces keep the names of an asset
on one node of a cluster.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, cast

import dagster as dg
import polars as pl

from pattern_platform.errors import CommitConflictError, LossyCastError, MissingDriverError, UnsupportedTableError
from pattern_platform.lake.checks import listed
from pattern_platform.lake.mentions import names
from pattern_platform.warehouse.keyed_store import PARTITION, KeyedTable, ServedStore, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from redis import Redis
    from redis.client import Pipeline

    from pattern_platform.lake.subject import Subject


_ROWS = """
local rows, seen = {}, {}
for _, set in ipairs(KEYS) do
    for _, key in ipairs(redis.call('SMEMBERS', set)) do
        local row = not seen[key] and redis.call('GET', ARGV[1] .. key)
        seen[key] = true
        if row then rows[#rows + 1] = row end
    end
end
return rows
"""  # one step for the server, so that no run comes between the keys and their rows


_GLOB, _ESCAPED = re.compile(r"([*?\[\]\\^])"), r"\\\1"  # what Redis takes for a pattern in a name
_AT_ONCE = 1000


class RedisStore(ServedStore):
    """Documents in Redis.

    Args:
        url: As ``redis://:password@host:6379/0``; take the password from the environment.
    """

    kind: Literal["redis"] = "redis"
    url: str

    @property
    def uri(self) -> str:
        """The server and the database, without user and password."""
        return without_secrets(self.url)

    @contextmanager
    def opened(self, asset: dg.AssetKey, key_name: str, *, writing: bool) -> Generator[KeyedTable]:  # noqa: ARG002 - as of the store
        """Open the documents.

        Raises:
            CommitConflictError: Another run wrote rows of the asset meanwhile.
        """
        name = asset.to_user_string()
        with self._client() as client, client.pipeline(transaction=True) as pipeline:
            import redis  # noqa: PLC0415 - an extra, which the client has asked for

            try:
                yield _RedisTable(client, pipeline, f"{{{name}}}", key_name)
            except redis.WatchError as error:
                raise CommitConflictError(
                    f"the rows of asset {name!r} were not written",
                    why="another run wrote rows of this asset meanwhile",
                    mend="run again",
                ) from error

    def find(self, subject: Subject) -> dict[str, int]:
        """Count the documents with the key in one of the subject's fields."""
        return self._of_each(lambda table: len(table.rows_of(subject)))

    def erase(self, subject: Subject) -> dict[str, int]:
        """Delete those documents, and their keys from the sets of the partitions."""
        return self._of_each(lambda table: table.erase(subject))

    def left(self, subject: Subject) -> list[str]:
        """The assets of which a key, a document or the member of a set names the subject."""
        return list(self._of_each(lambda table: table.mentions(subject)))

    def _of_each(self, count: Callable[[_RedisTable], int]) -> dict[str, int]:
        """A count by asset, where it is not zero."""
        found = {}
        with self._client() as client:
            import redis  # noqa: PLC0415 - an extra, which the client has asked for

            try:
                schemas = [name.decode() for name in client.scan_iter("{*}:schema")]
                for name in sorted(schema.removeprefix("{").removesuffix("}:schema") for schema in schemas):
                    with self.opened(dg.AssetKey.from_user_string(name), "", writing=True) as table:
                        found[name] = count(cast("_RedisTable", table))
            except redis.RedisError as error:
                raise self.unreachable(error) from error
        return {name: rows for name, rows in found.items() if rows}

    def _client(self) -> Redis:
        try:
            import redis  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingDriverError(
                "a store in Redis was refused", why=str(error), mend='install "pattern-platform[redis]"'
            ) from error
        try:
            return redis.Redis.from_url(self.url)
        except ValueError as error:  # of a port that is no number
            raise self.unreachable(error) from error


@dataclass(frozen=True)
class _RedisTable:
    client: Redis
    pipeline: Pipeline
    prefix: str
    key_name: str

    def __post_init__(self) -> None:
        self.pipeline.watch(f"{self.prefix}:loads")  # each write changes it: a write that was faster stops this one

    @property
    def stored(self) -> pl.Schema | None:
        found = cast("bytes | None", self.client.get(f"{self.prefix}:schema"))
        return pl.read_ipc(BytesIO(found)).schema if found else None

    @property
    def schema(self) -> pl.Schema | None:
        stored = self.stored
        return stored and pl.Schema({column: dtype for column, dtype in stored.items() if column != PARTITION})

    @property
    def partitions(self) -> list[str]:
        return [name.decode() for name in cast("dict[bytes, bytes]", self.client.hgetall(f"{self.prefix}:loads"))]

    def keys(self, partitions: Sequence[str]) -> set[str]:
        rows = self._rows(partitions)
        return set() if rows is None else set(rows[self.key_name])

    def write(self, rows: pl.DataFrame, *, delete: Sequence[str], counted: Mapping[str, int], run_id: str) -> None:
        if lost := [c for c, t in rows.schema.items() if _floats(t) and not _finite(rows[c])]:
            raise LossyCastError(
                f"column(s) {listed(lost)} were refused",
                why="Redis keeps a row as JSON, which has no NaN and no infinity",
                mend="replace them in the asset, by null for example",
            )
        self._refuse_names_of_others(counted)
        known = self.stored or {}
        schema = pl.Schema({**known, **rows.schema})
        lines = rows.write_ndjson().encode().split(b"\n")[:-1]  # lines of JSON hold no other b"\n"; U+2028 they may
        self.pipeline.multi()
        if rows.height:
            documents = dict(zip((self._row(key) for key in rows[self.key_name]), lines, strict=True))
            self.pipeline.mset(cast("dict[Any, Any]", documents))
        for partition, in_partition in rows.group_by(PARTITION):
            self.pipeline.sadd(self._keys_of(str(partition[0])), *in_partition[self.key_name])
        if delete:
            self.pipeline.delete(*map(self._row, delete))
            for partition in counted:
                self.pipeline.srem(self._keys_of(partition), *delete)
        empty = BytesIO()
        pl.DataFrame(schema=schema).write_ipc(empty)
        self.pipeline.set(f"{self.prefix}:schema", empty.getvalue())
        for partition, count in counted.items():
            self.pipeline.hset(f"{self.prefix}:loads", partition, json.dumps({"run_id": run_id, "rows": count}))
        self.pipeline.execute()

    def read(self, partitions: Sequence[str] | None) -> pl.DataFrame:
        rows = self._rows(self.partitions if partitions is None else partitions)
        return pl.DataFrame() if rows is None else rows.drop(PARTITION)

    def rows_of(self, subject: Subject) -> dict[str, str]:
        """The names of the documents of a subject, each with its partition."""
        found = {}
        names = list(self.client.scan_iter(f"{_GLOB.sub(_ESCAPED, self._row(''))}*"))
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            documents = cast("list[bytes | None]", self.client.mget(some))
            for name, document in zip(some, documents, strict=True):
                if document and subject.in_text(document.decode()):
                    found[name.decode()] = json.loads(document)[PARTITION]
        return found

    def erase(self, subject: Subject) -> int:
        """Delete the documents of a subject."""
        gone = self.rows_of(subject)
        if not gone:
            return 0
        loads = cast("dict[bytes, bytes]", self.client.hgetall(f"{self.prefix}:loads"))
        self.pipeline.multi()
        self.pipeline.delete(*gone)
        keys = [name.removeprefix(self._row("")) for name in gone]
        for partition, told in loads.items():
            self.pipeline.srem(self._keys_of(partition.decode()), *keys)
            load = json.loads(told)
            load["rows"] -= sum(partition.decode() == of for of in gone.values())
            self.pipeline.hset(f"{self.prefix}:loads", partition.decode(), json.dumps(load))
        self.pipeline.execute()
        return len(gone)

    def mentions(self, subject: Subject) -> int:
        """How many names, documents and members of sets name a subject."""
        found = 0
        for name in self.client.scan_iter(f"{_GLOB.sub(_ESCAPED, self.prefix)}:*"):
            kind = cast("bytes", self.client.type(name))
            values = [name]
            values += cast("set[bytes]", self.client.smembers(name)) if kind == b"set" else []
            values += [cast("bytes", self.client.get(name))] if kind == b"string" else []
            values += (
                [v for pair in cast("dict[bytes, bytes]", self.client.hgetall(name)).items() for v in pair]
                if kind == b"hash"
                else []
            )
            found += any(names(value.decode(errors="replace"), subject) for value in values)
        return found

    def _rows(self, partitions: Sequence[str]) -> pl.DataFrame | None:
        """The rows that some partitions wrote last: a key may have gone to another partition since."""
        if (schema := self.stored) is None:
            return None
        sets = [self._keys_of(partition) for partition in partitions]
        lines = cast("list[bytes]", self.client.eval(_ROWS, len(sets), *sets, self._row("")))
        readable = {c: _readable(t) for c, t in schema.items()}
        rows = (
            pl.read_ndjson(b"\n".join(lines), schema=readable).cast(dict(schema))
            if lines
            else pl.DataFrame(schema=schema)
        )
        return rows.filter(pl.col(PARTITION).is_in(list(partitions)))

    def _refuse_names_of_others(self, partitions: Iterable[str]) -> None:
        """Refuse before ``MULTI``: what fails inside it does not take the rest back.

        Raises:
            UnsupportedTableError: A name is taken by something of another type.
        """
        expected = {self._keys_of(partition): b"set" for partition in partitions}
        expected |= {f"{self.prefix}:loads": b"hash", f"{self.prefix}:schema": b"string"}
        taken = [name for name, kind in expected.items() if self.client.type(name) not in (kind, b"none")]
        if taken:
            raise UnsupportedTableError(
                f"the rows of {self.prefix} were refused",
                why=f"{listed(taken)} is of another type, so the platform did not make it",
                mend="give the asset another key, or remove it",
            )

    def _row(self, key: str) -> str:
        return f"{self.prefix}:row:{key}"

    def _keys_of(self, partition: str) -> str:
        return f"{self.prefix}:partition:{partition}"


def _readable(dtype: pl.DataType) -> pl.DataType:
    """The type as Polars reads it from JSON: of short integers it cannot."""
    if isinstance(dtype, pl.List):
        return pl.List(_readable(cast("pl.DataType", dtype.inner)))
    return pl.Int64() if dtype == pl.Int16 else dtype


def _floats(dtype: pl.DataType) -> bool:
    return (dtype.inner if isinstance(dtype, pl.List) else dtype) in (pl.Float32, pl.Float64)


def _finite(values: pl.Series) -> bool:
    values = values.explode() if isinstance(values.dtype, pl.List) else values
    return bool(values.drop_nulls().is_finite().all())
