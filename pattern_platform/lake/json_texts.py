"""Fields of JSON texts: removed, or replaced by another text. A text that has none of them stays as it came."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Paths = tuple[tuple[str, ...], ...]


def changed_fields(text: str, paths: Paths, new: str | None = None) -> str | None:
    """A JSON text with some fields changed.

    Args:
        text: The text.
        paths: Where the fields are; a path goes through lists. What should be an object on the way, and is none, is
            taken for the field: what is in it, nobody can say.
        new: What they become; None removes them.

    Returns:
        The text; None where it is no JSON and names such a field: where its value ends, nobody can say either.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None if any(re.search(rf"\b{re.escape(path[-1])}\b", text) for path in paths) else text
    changed = [_change(value, path, new) for path in paths]  # each of them, whatever the others did
    if not any(changed):
        return text
    written = json.dumps(value, ensure_ascii=False)
    return written if _is_text(written) else json.dumps(value)


def _is_text(text: str) -> bool:
    """Whether there is no half of a character in it, which JSON can escape and nothing can store."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _change(value: Any, path: Sequence[str], new: str | None) -> bool:  # noqa: ANN401 - a JSON value
    """Change a field wherever its path leads; whether there was one."""
    if isinstance(value, list):
        changed = [_change(element, path, new) for element in value]
        return any(changed)
    if not isinstance(value, dict) or path[0] not in value or (new and value[path[0]] is None):
        return False
    if len(path) > 1 and isinstance(value[path[0]], dict | list):
        return _change(value[path[0]], path[1:], new)
    if new is None:
        del value[path[0]]
    else:
        value[path[0]] = new
    return True
