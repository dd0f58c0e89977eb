"""Who was erased, so that nothing brings them back: a backfill, a late file, a landed file put back from a backup.

The list knows nobody's key: it keeps a keyed hash of each, with a random key of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import filelock
import polars as pl

from pattern_platform.errors import DamagedListError
from pattern_platform.ingestion.landing import PAYLOAD
from pattern_platform.lake.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ERASURES = "erasures"  # folder of the list and of the receipts, below the root of a namespace
_LIST = "erased.json"
_SALT_BYTES = 32
_LOCK_SECONDS = 120.0
_NAME = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*')
_CLOSED = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class ErasedSubjects:
    """The list of erased subjects.

    Args:
        path: The file that keeps it. Where there is none, nobody was erased yet.
    """

    path: Path

    @classmethod
    def of(cls, root: Path) -> ErasedSubjects:
        """The list of a namespace.

        Args:
            root: Folder of what the namespace keeps.
        """
        return cls(root / ERASURES / _LIST)

    def add(self, key: str, columns: Sequence[str]) -> str:
        """Put a subject on the list, once.

        Args:
            key: Its key.
            columns: Columns and fields that hold it.

        Returns:
            What stands for the key: its keyed hash.

        Raises:
            DamagedListError: The list cannot be read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=_LOCK_SECONDS):
            kept = self._read() or {"salt": secrets.token_hex(_SALT_BYTES), "subjects": []}
            token = _token(kept["salt"], key)
            known = {(subject["subject"], column) for subject in kept["subjects"] for column in subject["columns"]}
            if new := [column for column in columns if (token, column) not in known]:
                told = {"subject": token, "columns": new, "erased_at": datetime.now(UTC).isoformat(timespec="seconds")}
                with whole_file(self.path) as unfinished:
                    unfinished.write_text(json.dumps({**kept, "subjects": [*kept["subjects"], told]}, indent=1))
        return token

    def drop(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Landed rows without those of erased subjects.

        A column of a listed name is compared by its value; of a record that is one JSON text (``payload``), every
        field of that name, however deep. A line that is cut off is read as far as it goes.

        Args:
            rows: Rows as of :func:`~pattern_platform.ingestion.landing.read_landed`.

        Raises:
            DamagedListError: The list cannot be read, so nobody knows who must stay away.
        """
        if (kept := self._read()) is None:
            return rows
        salt, erased = kept["salt"], {}
        for subject in kept["subjects"]:
            for column in subject["columns"]:
                erased.setdefault(column, set()).add(subject["subject"])
        for column, tokens in erased.items():
            if column in rows.columns:
                values = rows[column].unique().drop_nulls()
                if gone := [value for value in values if _token(salt, str(value)) in tokens]:
                    rows = rows.filter(~pl.col(column).is_in(gone).fill_null(value=False))
            if rows.schema.get(PAYLOAD) == pl.String:
                fields = pl.col(PAYLOAD).str.extract_all(_field(column))
                texts = rows.select(fields.explode(empty_as_null=True).unique().drop_nulls()).to_series()
                if gone := [text for text in texts if _token(salt, _value(text)) in tokens]:
                    rows = rows.filter(~fields.list.eval(pl.element().is_in(gone)).list.any().fill_null(value=False))
        return rows

    def _read(self) -> dict[str, Any] | None:
        """What the file keeps; None where there is none.

        Raises:
            DamagedListError: It is not what was written.
        """
        try:
            kept = json.loads(self.path.read_bytes())
            bytes.fromhex(kept["salt"])
            for subject in kept["subjects"]:
                bytes.fromhex(subject["subject"])
                ", ".join(subject["columns"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedListError(
                f"the list of erased subjects {self.path.name!r} was refused",
                why="it is not what was written there, and without it an erased person would come back unseen",
                mend="bring it back from a backup; where there is none, remove it and erase each of them again",
            ) from error
        return kept


def _field(column: str) -> str:
    """A field of a JSON text with its value, as a pattern; a text that is cut off has no quote at its end."""
    names = "|".join(re.escape(json.dumps(column, ensure_ascii=escaped)) for escaped in (True, False))
    return rf'(?:{names})\s*:\s*(?:"(?:[^"\\]|\\.)*"?|-?[0-9][0-9.eE+-]*)'


def _value(field: str) -> str:
    """The value of a field as :func:`_field` finds it; a number as it is written."""
    value = _NAME.sub("", field, count=1)
    if not value.startswith('"'):
        return value
    inner = value[1:-1] if _CLOSED.fullmatch(value) else value[1:]
    try:
        return json.loads(f'"{inner}"', strict=False)
    except ValueError:
        return inner  # cut inside an escape


def _token(salt: str, key: str) -> str:
    return hmac.new(bytes.fromhex(salt), key.encode(), hashlib.sha256).hexdigest()
