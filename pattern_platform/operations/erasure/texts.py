"""The rows of a subject in files of text: CSV, JSON lines and JSON, compressed or not.

Whatever is not the subject's keeps its bytes. A compressed file is compressed again as it is when it is written first:
the same lines are the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from pattern_platform.lake.mentions import may_name, names
from pattern_platform.lake.subject import TEXT_COLUMNS
from pattern_platform.lake.whole_file import whole_file
from pattern_platform.operations.erasure.places import Content

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from pattern_platform.lake.subject import Subject

_GZIP, _GZIP_MAGIC, _GZIP_LEVEL = ".gz", b"\x1f\x8b", 4
_DELIMITERS = ",;\t|"


def count(file: Path, content: Content, subject: Subject) -> int:
    """Count the records of a subject in a file.

    Args:
        file: The file.
        content: CSV, JSON lines or JSON; a text of any other kind has no records.
        subject: Whose.

    Raises:
        OSError, EOFError, zlib.error: The file cannot be read.
        csv.Error, ValueError: It is not what its name says.
    """
    with _opened(file) as opened:
        if not any(may_name(line.decode(errors="replace"), subject) for line in opened):
            return 0  # told without reading what is written
    if content is Content.JSON:
        return _pruned(_document(file), subject)[1]
    return sum(is_theirs for _, is_theirs in _records(file, content, subject))


def erase(file: Path, content: Content, subject: Subject) -> int:
    """Write a file anew without the records of a subject; one without any stays as it is.

    Args:
        file: As of :func:`count`.
        content: As of :func:`count`.
        subject: As of :func:`count`.

    Returns:
        How many there were.
    """
    found = count(file, content, subject)
    if not found:
        return 0
    with whole_file(file) as unfinished:
        with _written(unfinished, compressed=_is_compressed(file)) as new:
            if content is Content.JSON:
                kept, _ = _pruned(_document(file), subject)
                new.write(json.dumps(kept, ensure_ascii=False, indent=1).encode())
            else:
                new.writelines(record for record, is_theirs in _records(file, content, subject) if not is_theirs)
        shutil.copystat(file, unfinished)  # a step's file is the newest of its name by its time
    return found


def mentions(file: Path, subject: Subject) -> bool:
    """Whether any text in a file names a subject, whatever it is written for."""
    with _opened(file) as opened:
        return any(names(line.decode(errors="replace"), subject) for line in opened)


# Records --------------------------------------------------------------------------------------------------------------


def _records(file: Path, content: Content, subject: Subject) -> Iterator[tuple[bytes, bool]]:
    """The records of a file as they are written, each with whether it is the subject's."""
    with _opened(file) as opened:
        if content is Content.LINES:
            for line in opened:
                text = line.decode(errors="replace")
                yield line, may_name(text, subject) and subject.in_text(text)
        elif content is Content.CSV:
            yield from _rows(opened, subject)


def _rows(lines: Iterable[bytes], subject: Subject) -> Iterator[tuple[bytes, bool]]:
    """The rows of a CSV file, header first; a row goes on over several lines where a value does."""
    of_row: list[bytes] = []

    def read() -> Iterator[str]:
        for line in lines:
            of_row.append(line)
            yield line.decode(errors="replace")

    texts = read()
    first = next(texts, "")
    delimiter = max(_DELIMITERS, key=first.count)
    header = next(csv.reader([first.removeprefix("\ufeff")], delimiter=delimiter), [])
    yield b"".join(of_row), False
    of_row.clear()
    places = [n for n, name in enumerate(header) if name in subject.columns]
    texts_at = [n for n, name in enumerate(header) if name in TEXT_COLUMNS]
    for row in csv.reader(texts, delimiter=delimiter, strict=True):
        is_theirs = any(row[n : n + 1] == [subject.key] for n in places)
        is_theirs = is_theirs or any(
            may_name(text, subject) and subject.in_text(text) for n in texts_at for text in row[n : n + 1]
        )
        yield b"".join(of_row), is_theirs
        of_row.clear()


def _document(file: Path) -> Any:  # noqa: ANN401 - a JSON value
    with _opened(file) as opened:
        return json.load(opened)


def _pruned(value: Any, subject: Subject, *, inside: bool = False) -> tuple[Any, int]:  # noqa: ANN401 - a JSON value
    """A JSON value without the records of a subject, elements of lists or the whole, and how many they were."""
    if isinstance(value, list):
        kept, found = [], 0
        for element in value:
            if isinstance(element, dict) and subject.in_text(json.dumps(_without_lists(element))):
                found += 1
            else:
                pruned, inner = _pruned(element, subject, inside=True)
                kept.append(pruned)
                found += inner
        return kept, found
    if not isinstance(value, dict):
        return value, 0
    if not inside and subject.in_text(json.dumps(_without_lists(value))):
        return {}, 1
    parts = {name: _pruned(field, subject, inside=True) for name, field in value.items()}
    return {name: pruned for name, (pruned, _) in parts.items()}, sum(found for _, found in parts.values())


def _without_lists(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """An object as far as it speaks of itself: the objects in its lists are records of their own."""
    if isinstance(value, dict):
        return {name: _without_lists(field) for name, field in value.items()}
    return [element for element in value if not isinstance(element, dict)] if isinstance(value, list) else value


# Files ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Generator[IO[bytes]]:
    """The bytes of a file, decompressed."""
    with file.open("rb") as raw:
        if _is_compressed(file):
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        elif file.suffix == _GZIP:
            message = "it is not gzip-compressed, as its name says"
            raise gzip.BadGzipFile(message)
        else:
            yield raw


def _is_compressed(file: Path) -> bool:
    with file.open("rb") as raw:
        return raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


@contextmanager
def _written(file: Path, *, compressed: bool) -> Generator[IO[bytes]]:
    with file.open("wb") as raw:
        if not compressed:
            yield raw
            return
        # Neither a time nor a name goes into the header.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0) as new:
            yield cast("IO[bytes]", new)
