"""A source over HTTP, landed as files: a partition is fetched page by page, and is there once its last page is.

Each page is a file that appears whole or not at all. The link to the next one is kept beside it, so that whoever comes
after a failure goes on from there. A marker, written last, tells a landed partition from one under way.

Limits: pages follow each other by ``Link: <...>; rel="next"`` (RFC 8288) and nothing else. A body whose length the
server does not tell can break off between two lines without anybody noticing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import filelock

from pattern_platform.errors import SourceRefusedError, SourceUnavailableError, UnreadableFileError
from pattern_platform.ingestion.http.pages import Page, Pages
from pattern_platform.ingestion.http.retrying import retried
from pattern_platform.ingestion.http.urls import masked
from pattern_platform.lake.checks import listed
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from pattern_platform.ingestion.http.source import HttpSource

_PROGRESS, _COMPLETE = "_progress.json", "_complete"
_MOST_PAGES = 99_999  # as many as sort by name


@dataclass(frozen=True)
class _Progress:
    """How far a partition is fetched; ``requested`` are digests of the URLs, the first among them."""

    next: str | None
    requested: tuple[str, ...]
    pages: tuple[Page, ...] = ()


def land(source: HttpSource, folder: Path, *, start: datetime, end: datetime, again: bool = False) -> list[Path]:
    """Fetch one partition into landing files; what was landed by an interrupted attempt is not fetched again.

    Args:
        source: The source.
        folder: Folder of the partition's files; its name is this partition's own.
        start: Start of the partition, inclusive.
        end: End of the partition, exclusive.
        again: Whether a landed partition is fetched anew, from its first page; the old files stay until it is done.

    Returns:
        The files, in the order of the pages; without any request where the partition has landed.

    Raises:
        SourceRefusedError: The source refuses, or does not answer with what is declared.
        SourceUnavailableError: It did not answer after all attempts, or another run fetches the same partition.
        UnreadableFileError: The landed files are not those of the marker.
    """
    first, window = source.url_of(start, end), {"start": _utc(start), "end": _utc(end)}
    fresh, replaced = _beside(folder, "again"), _beside(folder, "replaced")
    with _one_at_a_time(folder):
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)  # a process died between the two renames below
        for left in (fresh, replaced):
            _remove(left)
        if again:
            _fetch(source, first, fresh, window)
            if folder.exists():
                folder.rename(replaced)
            fresh.rename(folder)
            _remove(replaced)
        elif not (folder / _COMPLETE).exists():
            _fetch(source, first, folder, window)
        return _landed(folder, window)


def _fetch(source: HttpSource, first: str, folder: Path, window: Mapping[str, str]) -> None:
    progress = _resumed(folder, first)
    with Pages(source, first, source.header_values()) as pages:
        while (url := progress.next) is not None:
            number = len(progress.pages) + 1
            file = folder / f"page-{number:05d}.{'csv' if source.format == 'csv' else 'jsonl'}"
            page, following = retried(
                lambda url=url, file=file: pages.land(url, file),
                f"page {number} of {masked(url)}",
                most_attempts=source.most_attempts,
                first_wait=source.first_wait,
                longest_wait=source.longest_wait,
                longest_wait_after=source.longest_wait_after,
            )
            if following is not None:
                _check_end(progress, following, f"page {number} of {masked(url)}")
            requested = (*progress.requested, *([_digest(following)] if following else []))
            progress = _Progress(following, requested, (*progress.pages, page))
            _write(folder / _PROGRESS, asdict(progress))
    complete = {
        "source": masked(first),
        **window,
        "fetched_at": datetime.now(UTC).isoformat(),
        "rows": sum(page.rows for page in progress.pages),
        "bytes": sum(page.bytes for page in progress.pages),
        "pages": [asdict(page) for page in progress.pages],
    }
    _write(folder / _COMPLETE, complete)
    (folder / _PROGRESS).unlink()


def _check_end(progress: _Progress, following: str, what: str) -> None:
    why = None
    if _digest(following) in progress.requested:
        why = "the pages never end: its next link leads back to a page that was there before"
    if len(progress.pages) + 1 >= _MOST_PAGES:
        why = f"a partition has at most {_MOST_PAGES:,} pages, and it is not the last"
    if why:
        raise SourceRefusedError(
            f"{what} was refused", why=why, mend="let the source mend its next links, or ask for larger pages"
        )


def _resumed(folder: Path, first: str) -> _Progress:
    """How far an attempt came, and no file beyond; from the first page for another URL, and where files are damaged."""
    progress = _Progress(first, (_digest(first),))
    try:
        kept = json.loads((folder / _PROGRESS).read_bytes())
        found = _Progress(kept["next"], tuple(kept["requested"]), tuple(Page(**page) for page in kept["pages"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        found = progress
    if found.requested[:1] == progress.requested and all(_is_there(folder, page) for page in found.pages):
        progress = found
    names = {page.file for page in progress.pages}
    for file in (*folder.glob("page-*"), *folder.glob(".page-*")):
        if file.name not in names:
            file.unlink()
    return progress


def _landed(folder: Path, window: Mapping[str, str]) -> list[Path]:
    why = None
    try:
        complete = json.loads((folder / _COMPLETE).read_bytes())
        of, pages = {name: complete[name] for name in window}, [Page(**page) for page in complete["pages"]]
    except (ValueError, KeyError, TypeError):
        why = f"{_COMPLETE} cannot be read"
    else:
        if of != window:
            why = f"they are of the window from {of['start']} to {of['end']}, not from {window['start']}"
        elif missing := [page.file for page in pages if not _is_there(folder, page)]:
            why = f"{listed(missing)} is missing, or has another size than {_COMPLETE} says"
    if why:
        raise UnreadableFileError(
            f"the landed files of {folder.name!r} were refused",
            why=why,
            mend="give each partition a folder of its own; bring its files back, or fetch it again (again=True)",
        )
    return [folder / page.file for page in pages]


def _is_there(folder: Path, page: Page) -> bool:
    file = folder / page.file
    return file.is_file() and file.stat().st_size == page.bytes


@contextmanager
def _one_at_a_time(folder: Path) -> Generator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(_beside(folder, "lock"), timeout=0):
            yield
    except filelock.Timeout:
        raise SourceUnavailableError(
            f"landing {folder.name!r} was refused",
            why="another run is fetching the same partition",
            mend="run again when it is done: what it fetched is not fetched again",
        ) from None


def _beside(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with whole_file(file) as unfinished:
        unfinished.touch(mode=0o600)  # a next link may hold a secret
        unfinished.write_text(json.dumps(content, indent=1))


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
