"""Every place where the platform keeps something: what is on the disk, not what is defined."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pattern_platform.ingestion.erased import ERASURES
from pattern_platform.operations.namespaces.objects import tables_of
from pattern_platform.orchestration.namespace import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pattern_platform.lake.object_path import LakePath, ObjectPath

_KEPT = ("dagster_home", "logs", ERASURES)  # folders that are looked through and never rewritten
_KINDS = {"exports": "export"}
_SIDE_TABLES = ("versions", "quarantine")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}(\.wal)?")  # of a file that was to appear whole; of a directory is written
_UNFINISHED_FOLDER = ".writing."
_LOGS = (".wal", "-wal", "-shm", "-journal")  # of DuckDB and SQLite, behind the name of the database
_HEAD_BYTES = 16


class Content(Enum):
    """What is in a place, and with it how it is read."""

    TABLE = "Delta table"
    DATABASE = "DuckDB"
    SQLITE = "SQLite"
    PARQUET = "Parquet"
    CSV = "CSV"
    LINES = "JSON lines"
    JSON = "JSON"
    TEXT = "text"
    UNFINISHED = "unfinished"
    CLOSED = "closed"  # compressed otherwise, or a link to somewhere else: nobody looks into it


# What a file is by how it begins: where, with what.
_BEGINNINGS = (
    (8, b"DUCK", Content.DATABASE),
    (0, b"SQLite format 3\0", Content.SQLITE),
    (0, b"PAR1", Content.PARQUET),
    (0, b"PK\x03\x04", Content.CLOSED),
    (0, b"\x28\xb5\x2f\xfd", Content.CLOSED),
    (0, b"BZh", Content.CLOSED),
    (0, b"\xfd7zXZ\0", Content.CLOSED),
    (0, b"7z\xbc\xaf", Content.CLOSED),
    (0, b"\x04\x22\x4d\x18", Content.CLOSED),
    (0, b"ARROW1", Content.CLOSED),
    (0, b"Obj\x01", Content.CLOSED),
    (0, b"ORC", Content.CLOSED),
)
_SUFFIXES = {
    ".parquet": Content.PARQUET,
    ".duckdb": Content.DATABASE,
    ".csv": Content.CSV,
    ".jsonl": Content.LINES,
    ".ndjson": Content.LINES,
    ".json": Content.JSON,
}


@dataclass(frozen=True)
class Place:
    """A table or a file.

    Args:
        path: Where it is.
        name: Its name below the root or, after ``landing/``, below the landing folder.
        kind: ``landing``, a folder of the lake such as ``raw`` or ``clean``, ``quarantine``, ``versions``,
            ``immutable``, or a folder of the root: ``warehouse``, ``export``, ``steps``, ``logs``.
        content: What is in it.
        kept: Whether it is looked through alone, and never rewritten.
    """

    path: LakePath
    name: str
    kind: str
    content: Content
    kept: bool = False

    @property
    def file(self) -> Path:
        """The path of what is no table: only tables are on object stores."""
        return cast("Path", self.path)


def places_of(root: Path, landing: Path, lake: ObjectPath | None = None) -> Iterator[Place]:
    """Every table and file of a namespace, those in hidden folders too, in the order of their names.

    Other namespaces, which are kept in a folder of the root of ``main``, are left alone.

    Args:
        root: Folder of what the namespace keeps.
        landing: Folder of landed files, which may be in it.
        lake: Where its tables are, where that is an object store.
    """
    root, landing = root.resolve(), landing.resolve()
    for path, content in _walk(landing, (root, landing), skip=set()):
        yield Place(path, f"landing/{path.relative_to(landing).as_posix()}", "landing", content)
    for path, content in _walk(root, (root, landing), skip={landing, root / NAMESPACES}):
        name = path.relative_to(root)
        yield Place(path, name.as_posix(), _kind_of(path, name), content, kept=name.parts[0] in _KEPT)

    for table in tables_of(lake) if lake else ():
        name = Path("lake", str(table).removeprefix(f"{lake}/"))
        yield Place(table, name.as_posix(), _kind_of_table(name), Content.TABLE)


def _walk(top: Path, roots: tuple[Path, ...], *, skip: set[Path]) -> Iterator[tuple[Path, Content]]:
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        if (here / "_delta_log").is_dir():
            folders.clear()
            yield here, Content.TABLE
            continue
        linked = [here / name for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if here / name not in skip)
        for path in sorted([*linked, *(here / name for name in files)]):
            if _beside_database(path):
                continue  # read with its database, and gone when that is closed
            if not path.is_symlink():
                yield path, _content_of(path)
            elif path.exists() and not any(path.resolve().is_relative_to(each) for each in roots):
                yield path, Content.CLOSED  # a link to what is in the root names a place that is visited itself


def _beside_database(path: Path) -> bool:
    return any(path.name.endswith(log) and path.with_name(path.name[: -len(log)]).exists() for log in _LOGS)


def _content_of(file: Path) -> Content:
    if _UNFINISHED.fullmatch(file.name) or any(part.startswith(_UNFINISHED_FOLDER) for part in file.parts):
        return Content.UNFINISHED
    if not stat.S_ISREG(file.lstat().st_mode):
        return Content.CLOSED
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    for place, beginning, content in _BEGINNINGS:
        if head[place:].startswith(beginning):
            return content
    return _SUFFIXES.get(Path(file.name.removesuffix(".gz")).suffix, Content.TEXT)


def _kind_of(path: Path, name: Path) -> str:
    top, *inner = name.parts
    if top != "lake" or not inner:
        return _KINDS.get(top, top) if inner else "other"
    if not path.stat().st_mode & stat.S_IWUSR:
        return "immutable"
    return _kind_of_table(name)


def _kind_of_table(name: Path) -> str:
    side = name.name.rpartition("__")[2]
    if "__" in name.name and side in _SIDE_TABLES:
        return side
    top, *inner = name.parts
    return inner[0] if len(inner) > 1 else top
