"""An erasure from its beginning to its receipt.

Who is erased goes on the list first, so that a run in between cannot bring them back. Every step may be repeated: after
a crash the same command goes on, and finds nothing where it was done already.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import filelock

from pattern_platform.errors import InvalidErasureError
from pattern_platform.ingestion.erased import ERASURES, ErasedSubjects
from pattern_platform.lake.mentions import names
from pattern_platform.operations.erasure import contents
from pattern_platform.operations.erasure.contents import Erased
from pattern_platform.operations.erasure.places import Content, places_of
from pattern_platform.operations.erasure.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from pattern_platform.lake.object_path import ObjectPath
    from pattern_platform.lake.subject import Subject
    from pattern_platform.operations.erasure.places import Place
    from pattern_platform.warehouse.keyed_store import ServedStore

_MASKED = "<subject>"


@dataclass(frozen=True)
class Erasure:
    """The erasure of a subject from everything that a namespace keeps.

    Args:
        subject: Who.
        root: Folder of what the namespace keeps.
        landing: Folder of landed files.
        stores: Servers that keep rows.
        lake: Where tables are, where that is an object store.
    """

    subject: Subject
    root: Path
    landing: Path
    stores: Sequence[ServedStore] = ()
    lake: ObjectPath | None = None

    def find(self) -> list[Erased]:
        """What would be erased. Nothing is changed, and whatever could not be erased is refused.

        Raises:
            InvalidErasureError: There is nothing at the root.
            UnreadableFileError: A file is damaged.
            DatabaseLockedError: Someone else holds a DuckDB file.
            UnreachableStoreError: A store does not answer.
            PatternPlatformError: A Delta table is damaged.
        """
        if missing := [folder.name for folder in (self.root, self.landing) if not folder.is_dir()]:
            raise InvalidErasureError(
                "an erasure was refused",
                why=f"there is no folder {missing[0]!r}, so nothing could be said of what is kept there",
                mend="see the namespace and the data folder of the settings: pattern-platform config show",
            )
        found = [erased for place in self._places() for erased in contents.find(place, self.subject)]
        return self._masked(
            [*found, *(row for store in self.stores for row in _of_store(store, store.find(self.subject)))]
        )

    def run(self, reason: str) -> Receipt:
        """Erase, look for what is left, and keep a receipt.

        Args:
            reason: Why, and who asked; it may not name the subject.

        Raises:
            InvalidErasureError: The reason names the subject, or another erasure is under way.
            DamagedListError: The list of erased subjects cannot be read.
            PatternPlatformError: As of :meth:`find`.
        """
        if names(reason, self.subject):
            raise InvalidErasureError(
                "an erasure was refused",
                why="its reason names the person, and the receipt that keeps it must not",
                mend="give the number of the case instead",
            )
        started, clock = datetime.now(UTC), time.monotonic()
        with self._alone():
            token = ErasedSubjects.of(self.root).add(self.subject.key, self.subject.columns)
            metadata = {"pattern": "erasure", "subject": token}
            # Landed files come first of the places, then tables, so that nothing is made anew of what is erased next.
            places = sorted(
                self._places(), key=lambda place: (place.kind != "landing", place.content is not Content.TABLE)
            )
            erased = [done for place in places for done in contents.erase(place, self.subject, metadata)]
            for store in self.stores:
                erased += _of_store(store, store.erase(self.subject))
            scanned, left = self._proof()
            receipt = Receipt(
                subject=token,
                columns=self.subject.columns,
                reason=reason,
                started=started,
                seconds=time.monotonic() - clock,
                root=self.root,
                landing=self.landing,
                stores=tuple(store.uri for store in self.stores),
                erased=tuple(self._masked(erased)),
                scanned=scanned,
                left=tuple(left),
            )
            receipt.write()
        return receipt

    def _proof(self) -> tuple[int, list[str]]:
        """Look through everything that is there, and through its names."""
        places = list(self._places())
        left = [where for place in places for where in contents.left(place, self.subject)]
        left += [f"{place.name}: its name" for place in places if names(place.name, self.subject)]
        left += [f"{store.uri}: {asset}" for store in self.stores for asset in store.left(self.subject)]
        return len(places) + len(self.stores), [self._mask(where) for where in left]

    def _places(self) -> list[Place]:
        return list(places_of(self.root, self.landing, self.lake))

    def _masked(self, found: list[Erased]) -> list[Erased]:
        return [replace(erased, place=self._mask(erased.place)) for erased in found]

    def _mask(self, name: str) -> str:
        """A name as it may be told: the subject's key is in no receipt."""
        return name.replace(self.subject.key, _MASKED) if names(name, self.subject) else name

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One erasure at a time.

        Raises:
            InvalidErasureError: Another one is under way.
        """
        folder = self.root / ERASURES
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / ".erasure.lock", timeout=0):
                yield
        except filelock.Timeout as error:
            raise InvalidErasureError(
                "an erasure was refused",
                why="another one is under way in this namespace",
                mend="wait for its end, then run again",
            ) from error


def _of_store(store: ServedStore, rows: dict[str, int]) -> list[Erased]:
    return [Erased(f"{store.uri}: {asset}", "store", n) for asset, n in rows.items()]
