"""A row of the registry: what each cell may say, and what its cells may not say together."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import available_timezones

import polars as pl
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt

from pattern_platform.ingestion.timestamps import EPOCHS, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import dataframely as dy

WHOLE_RECORD = "$"  # source of a column that has all of it
OF_THE_PLATFORM = {"partition_start", "source_file", "source_row", "payload", "routed_to", "batch"}  # in raw tables
_FIRST = datetime(2024, 5, 6, 3, tzinfo=UTC)
_APART = {  # from the first; the files of none of them are those of another
    "hour": [timedelta(hours=hours) for hours in (0, 1, 12, 24, 31 * 24, 366 * 24)],
    "day": [timedelta(days=days) for days in (0, 1, 31, 366)],
}


def is_url(source: str) -> bool:
    """Whether a source is fetched, rather than delivered."""
    return source.startswith(("http://", "https://"))


def _zone(name: str) -> str:
    if name not in available_timezones():
        near = get_close_matches(name, available_timezones(), n=1)
        message = f"there is no such time zone; {f'did you mean {near[0]}?' if near else 'write it as Europe/Paris'}"
        raise ValueError(message)
    return name


def _timestamp_format(text: str) -> str:
    if text in EPOCHS:
        return text
    moment = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    frame = pl.DataFrame({"text": [moment.strftime(text)]})
    try:
        parsed = frame.select(parse_timestamp(pl.col("text"), text, "UTC")).item()
    except pl.exceptions.PolarsError:
        parsed = None
    if "%Z" in text or parsed is None or (parsed.year, parsed.month, parsed.day) != (2001, 2, 3):
        message = (
            f"it does not read its own days back; write it as %Y-%m-%d %H:%M:%S, with %z for an offset, "
            f"or as {' or '.join(EPOCHS)}"
        )
        raise ValueError(message)
    return text


def _header(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+=[A-Z][A-Z0-9_]*", text):
        message = "write it as Authorization=NAME_OF_A_VARIABLE of the environment, which holds the whole value"
        raise ValueError(message)
    return text


def _source(text: str) -> str:
    if "://" in text and not is_url(text):
        message = "a source is http://, https:// or a path below the landing folder"
        raise ValueError(message)
    if not is_url(text) and (text.startswith(("/", "~")) or ".." in text.split("/")):
        message = "a path begins below the landing folder and stays there, as sales/date=%Y-%m-%d/*.csv"
        raise ValueError(message)
    return text


_Split = BeforeValidator(lambda cell: [word.strip() for word in cell.split("|") if word.strip()])
_Words = Annotated[list[str], _Split]


class RegistryRow(BaseModel):
    """The cells of a row; an empty cell is one that is not given.

    Args:
        name: Name of the data set, and of its assets.
        description: What a row of it is, one sentence.
        owner: ``team:<name>`` or an e-mail address.
        source: Files below the landing folder, with ``strftime`` fields of the partition and ``*``; or a URL with
            ``{start}`` and ``{end}`` of the partition.
        format: Of the files; text may be compressed, as its name says.
        stage: How far it is brought: ``raw``, or ``clean``.
        primary_key: Columns that identify a record.
        incremental_field: Column that grows with what is new.
        partition_field: Column whose time tells the partition.
        granularity: What a partition is.
        ingestion_style: ``full`` where each load is all of it, ``incremental`` where it is what is new.
        timestamp_format: Of timestamps; ISO 8601 when empty.
        time_zone: Of timestamps that do not say theirs, and of the partitions.
        starts: The first day of partitions.
        ends: The day after the last; open when empty.
        contract: YAML file beside the registry, or ``module:Class`` of a dataframely schema.
        new_columns: What becomes of columns that the source adds.
        header: The columns of a csv or parquet file, where it has more than the contract.
        null_values: Spellings of a missing value in a csv file, beside the empty one.
        personal_data: Columns that hold personal data.
        retention_days: How long personal data is kept.
        allowed_lateness: For how many partitions after its own an event is still brought into it.
        headers: Of requests to a URL, as ``Authorization=VARIABLE``: the value is that of an environment variable.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]
    description: str
    owner: Annotated[str, Field(pattern=r"^(team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
    source: Annotated[str, AfterValidator(_source)]
    format: Literal["jsonl", "csv", "parquet", "json"]
    granularity: Literal["hour", "day", "none"]
    ingestion_style: Literal["full", "incremental"]
    stage: Literal["raw", "clean"] = "clean"
    primary_key: _Words = []
    incremental_field: str | None = None
    partition_field: str | None = None
    timestamp_format: Annotated[str, AfterValidator(_timestamp_format)] = ""
    time_zone: Annotated[str, AfterValidator(_zone)] | None = None
    starts: date | None = None
    ends: date | None = None
    contract: str | None = None
    new_columns: Literal["refuse", "keep", "ignore"] = "refuse"
    header: _Words = []
    null_values: _Words = []
    personal_data: _Words = []
    retention_days: PositiveInt | None = None
    allowed_lateness: NonNegativeInt | None = None
    headers: Annotated[list[Annotated[str, AfterValidator(_header)]], _Split] = []

    @property
    def landing(self) -> str:
        """Where the files of a partition are, below the landing folder."""
        if not is_url(self.source):
            return self.source
        # An hour that a clock change repeats is another folder.
        offset = "" if self.time_zone in (None, "UTC") else "%z"
        hour = f"/hour=%H{offset}" if self.granularity == "hour" else ""
        return f"{self.name}/date=%Y-%m-%d{hour}/page-*.{'csv' if self.format == 'csv' else 'jsonl'}"

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """What the cells may not say together: a column each, and why."""
        if self.granularity == "none":
            yield from self._whole()
        else:
            yield from self._partitioned()
        if self.stage == "clean" and not self.primary_key:
            yield "primary_key", "clean rows are told apart by it: name its columns, or bring it to stage raw alone"
        if self.retention_days and not self.personal_data:
            yield "retention_days", "it is about personal data: name the columns in personal_data"
        yield from self._files()

    def _files(self) -> Iterator[tuple[str, str]]:
        if is_url(self.source) and self.format == "parquet":
            yield "format", "a URL brings jsonl, json or csv"
        if not is_url(self.source) and self.format == "json":
            yield "format", "an array of objects is fetched from a URL; files are jsonl, csv or parquet"
        if not is_url(self.source) and self.headers:
            yield "headers", "they go with requests to a URL"
        if self.timestamp_format and self.format == "parquet":
            yield "timestamp_format", "columns of parquet have types, and text in them is ISO 8601: leave it empty"
        if self.timestamp_format not in ("", *EPOCHS) and "%z" not in self.timestamp_format and not self.time_zone:
            yield "time_zone", "the timestamps say no offset: say which zone they are of, as UTC"
        if self.header and self.new_columns == "keep":
            yield "header", "new columns are kept by what each record has: leave the header empty"
        if self.header and self.format not in ("csv", "parquet"):
            yield "header", "files of csv and parquet have one"

    def _whole(self) -> Iterator[tuple[str, str]]:
        for column in ("partition_field", "starts", "ends", "allowed_lateness", "retention_days"):
            if getattr(self, column) is not None:
                yield column, "there are no partitions with granularity none: leave it empty, or say hour or day"
        if self.ingestion_style == "incremental" and not self.incremental_field:
            yield "incremental_field", "without partitions it tells what is new: name a column that grows"
        if is_url(self.source):
            yield "granularity", "a URL is fetched a partition at a time: hour or day"
        elif datetime(2001, 2, 3, 4, tzinfo=UTC).strftime(self.source) != self.source:
            yield "source", "there are no partitions with granularity none: leave its % fields out"

    def _partitioned(self) -> Iterator[tuple[str, str]]:
        for column in ("partition_field", "starts"):
            if getattr(self, column) is None:
                yield column, f"partitions of granularity {self.granularity} need it"
        if self.ingestion_style == "full":
            yield "ingestion_style", "a full load has no partitions: granularity none, or incremental"
        if self.ends and self.starts and self.ends <= self.starts:
            yield "ends", f"it is the day after the last, later than {self.starts}"
        if is_url(self.source) and "{start" not in self.source:
            yield "source", "a URL says which partition it is for, with {start} and {end}"
        apart = _APART[self.granularity]
        if not is_url(self.source) and len({(_FIRST + by).strftime(self.source) for by in apart}) < len(apart):
            fields = "%Y-%m-%d and %H" if self.granularity == "hour" else "%Y-%m-%d"
            told = f"it does not tell one {self.granularity} from another: write {fields} where the files say it"
            yield "source", told
        if self.allowed_lateness is not None and self.incremental_field in (None, self.partition_field):
            yield (
                "incremental_field",
                "with allowed_lateness it tells when an event arrived: another than partition_field",
            )

    def contradictions_with(self, contract: type[dy.Schema]) -> Iterator[tuple[str, str]]:
        """What the cells say of columns that the contract says otherwise: a column of the registry each, and why."""
        types = pl.Schema(contract)
        named = {
            "primary_key": self.primary_key,
            "incremental_field": [self.incremental_field] if self.incremental_field else [],
            "partition_field": [self.partition_field] if self.partition_field else [],
            "personal_data": self.personal_data,
        }
        for cell, columns in named.items():
            for column in columns:
                if column not in types:
                    yield cell, f"the contract has no column {column!r}; {_close(column, types)}"
        if self.primary_key and set(contract.primary_key()) != set(self.primary_key):
            yield "primary_key", f"the contract says {'|'.join(contract.primary_key())}"
        yield from self._wrong_types(contract)
        yield from self._wrong_sources(contract)

    def _wrong_types(self, contract: type[dy.Schema]) -> Iterator[tuple[str, str]]:
        columns = contract.columns()
        timed = [("partition_field", self.partition_field)]
        timed += [("incremental_field", self.incremental_field)] if self.allowed_lateness is not None else []
        for cell, name in timed:
            dtype = columns[name].dtype if name in columns else None
            if dtype is not None and not dtype.is_temporal():
                yield cell, f"the contract has it as {dtype}; it must be a timestamp"
            if dtype == pl.Date and self.granularity == "hour":
                yield cell, "a date cannot tell the hours of a day apart"
        for name in self.personal_data:
            if name in columns and not columns[name].nullable:
                yield "personal_data", f"retention makes {name!r} null: let the contract have it optional"

    def _wrong_sources(self, contract: type[dy.Schema]) -> Iterator[tuple[str, str]]:
        sources = list(_sources(contract.columns()))
        in_columns = self.format in ("csv", "parquet") and self.contract and self.new_columns != "keep"
        if in_columns and (ours := OF_THE_PLATFORM.intersection(self.header or sources)):
            told = "of that name are the platform's own; with new_columns keep a record is kept whole"
            yield "contract", f"columns {', '.join(sorted(ours))} {told}"
        if self.header and (absent := [s for s in sources if s not in self.header and s != WHOLE_RECORD]):
            yield "header", f"the contract takes {', '.join(absent)} from it, which it does not have"


def _sources(columns: dict[str, dy.Column]) -> Iterator[str]:
    return ((column.metadata or {}).get("source", name) for name, column in columns.items())


def _close(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
