"""Logs of several hosts in one place: each puts its files on the object store, and whoever asks fetches the others'.

A file has the name of its host before its own, ``worker1@run-4711.jsonl``, so that a host knows what is its own. A file
that has grown is put, and fetched, whole: one is of an hour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pattern_platform.lake.object_path import ObjectPath

_OF = "@"
_HOUR, _DATE = "date=%Y-%m-%d/hour=%H", "date=%Y-%m-%d"


def put_logs(folder: Path, store: ObjectPath, host: str) -> int:
    """Put what this host logged and the store has not yet.

    Args:
        folder: Folder of the logs.
        store: Where the logs of all hosts are.
        host: Name of this host.

    Returns:
        Number of files.
    """
    known: dict[str, dict[str, int]] = {}
    put = 0
    for file in sorted(folder.glob("date=*/hour=*/*.jsonl")):
        hour = file.parent.relative_to(folder).as_posix()
        if hour not in known:
            known[hour] = {str(path): stat.st_size for path, stat in (store / hour).objects().items()}
        name = f"{host.replace(_OF, '-')}{_OF}{file.name}"
        if _OF not in file.name and known[hour].get(name, 0) < file.stat().st_size:
            (store / hour / name).put(file.read_bytes())
            put += 1
    return put


def fetch_logs(store: ObjectPath, folder: Path, host: str, since: datetime | None = None) -> int:
    """Fetch what other hosts logged, beside what this host did.

    Args:
        store: Where the logs of all hosts are.
        folder: Folder of the logs.
        host: Name of this host.
        since: The oldest that is wanted, in UTC; None for all.

    Returns:
        Number of files.
    """
    first_date, first_hour = (f"{since:{_DATE}}", f"{since:{_HOUR}}") if since else ("", "")
    fetched = 0
    for date in store.iterdir():
        if date.name < first_date:
            continue
        for path, stat in date.objects().items():
            local = folder / date.name / path
            is_own = path.name.startswith(f"{host.replace(_OF, '-')}{_OF}")
            is_known = local.exists() and local.stat().st_size == stat.st_size
            if is_own or is_known or f"{date.name}/{path.parent}" < first_hour:
                continue
            with whole_file(local) as unfinished:
                unfinished.write_bytes((date / path).read_bytes())
            fetched += 1
    return fetched
