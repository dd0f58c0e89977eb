"""The catalogue as a folder of pages that any browser opens without a server, and that refer to nothing outside."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from pattern_platform.errors import CatalogueError
from pattern_platform.lake.checks import listed
from pattern_platform.operations.catalogue.dictionary import data_dictionary
from pattern_platform.operations.catalogue.picture import lineage_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from pattern_platform.operations.catalogue.entry import Entry

_LIST = (
    ".pattern-platform-catalogue"  # what a site has written, so that the next one can tell it from the files of others
)
_ORDINARY = re.compile(r"[^A-Za-z0-9_-]")


def pages(entries: Sequence[Entry], generated_at: datetime) -> dict[str, str]:
    """The files of the site, by their path in it. The same arguments make the same files.

    Args:
        entries: The tables, in the order in which they are shown.
        generated_at: The time that the pages tell.
    """
    by_key = {entry.key: entry for entry in entries}
    templates = Environment(
        loader=PackageLoader("pattern_platform.operations.catalogue"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"page": page_of, "moment": lambda at: f"{at:%Y-%m-%d %H:%M} UTC", "count": "{:,}".format}
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.group):
        groups.setdefault(entry.group, []).append(entry)
    index = templates.get_template("index.html.j2").render(
        groups=groups, entries=entries, gaps=[gap for entry in entries for gap in entry.gaps], generated_at=generated_at
    )
    table = templates.get_template("table.html.j2")
    return {
        "index.html": index,
        "dictionary.csv": data_dictionary(entries),
        **{
            f"tables/{page_of(entry.key)}": table.render(
                entry=entry, entries=by_key, picture=lineage_picture(entry.key, by_key), generated_at=generated_at
            )
            for entry in entries
        },
    }


def write_site(folder: Path, files: dict[str, str]) -> None:
    """Bring a site into its folder; pages of tables that are gone go with them.

    Args:
        folder: It is made where there is none; it may hold an earlier site, and nothing else.
        files: Contents by path.

    Raises:
        CatalogueError: It is a file, or holds files of others, before anything is changed.
    """
    if folder.exists() and not folder.is_dir():
        raise CatalogueError(
            f"output {str(folder)!r} was refused", why="it is a file", mend="name a folder that does not exist yet"
        )
    known = set((folder / _LIST).read_text().splitlines()) if (folder / _LIST).is_file() else set()
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {_LIST}
    if foreign := sorted(there - known):
        raise CatalogueError(
            f"output {str(folder)!r} was refused",
            why=f"it holds {len(foreign)} file(s) that no catalogue wrote: {listed(foreign)}",
            mend="name a folder of its own",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, _LIST, "".join(f"{name}\n" for name in sorted(there | files.keys())))  # a later one can go on
        for name in there - files.keys():
            (folder / name).unlink()
        for name, content in files.items():
            _write(folder, name, content)
        _write(folder, _LIST, "".join(f"{name}\n" for name in sorted(files)))
    except OSError as error:
        raise CatalogueError(
            f"output {str(folder)!r} was refused",
            why=f"it cannot be written: {error.strerror} ({error.filename})",
            mend="name a folder of its own, in one that exists and can be written to",
        ) from error


def page_of(key: str) -> str:
    """The page of a table, whatever its key contains."""
    parts = [_ORDINARY.sub(lambda found: f"~{ord(found[0]):x}~", part) for part in key.split("/")]
    return f"{'.'.join(parts)}.html"


def _write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode())
