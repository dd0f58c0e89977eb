"""The lineage of a table as a picture: what it is made from to the left, what is made from it to the right."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pattern_platform.operations.catalogue.entry import Entry

_WIDTH, _HEIGHT = 196, 30  # of a box
_BETWEEN_COLUMNS, _BETWEEN_BOXES = 34, 10
_LONGEST_LABEL = 27
_MARGIN = 12


@dataclass(frozen=True)
class Box:
    """A table in the picture.

    Args:
        key: Its key.
        is_entry: Whether the catalogue has a page of it.
        x: Left edge.
        y: Upper edge.
    """

    key: str
    is_entry: bool
    x: int
    y: int

    @property
    def label(self) -> str:
        """Its key; of a long one the end, in which tables differ."""
        return self.key if len(self.key) <= _LONGEST_LABEL else f"…{self.key[1 - _LONGEST_LABEL :]}"


@dataclass(frozen=True)
class Picture:
    """Boxes and the curves between them, in pixels.

    Args:
        width: Of the whole.
        height: Of the whole.
        boxes: The tables.
        curves: A path of SVG for each dependency.
    """

    width: int
    height: int
    boxes: tuple[Box, ...]
    curves: tuple[str, ...]
    box_width: int = _WIDTH
    box_height: int = _HEIGHT


def lineage_picture(key: str, entries: Mapping[str, Entry]) -> Picture:
    """Everything that a table rests on, and everything that rests on it.

    Args:
        key: The table.
        entries: All tables by key.
    """
    upstream = {name: entry.upstream for name, entry in entries.items()}
    downstream = {name: entry.downstream for name, entry in entries.items()}
    levels = {name: -level for name, level in _levels(key, upstream).items()} | _levels(key, downstream)
    columns: dict[int, list[str]] = {}
    for name in sorted(levels):
        columns.setdefault(levels[name], []).append(name)
    tallest = max(map(len, columns.values()))
    boxes = {
        name: Box(name, name in entries, x, y)
        for number, level in enumerate(sorted(columns))
        for name, x, y in _placed(columns[level], number, tallest)
    }
    curves = [
        _curve(boxes[source], boxes[name])
        for name in sorted(boxes)
        for source in upstream.get(name, ())
        if source in boxes and levels[source] < levels[name]
    ]
    return Picture(
        width=2 * _MARGIN + len(columns) * (_WIDTH + _BETWEEN_COLUMNS) - _BETWEEN_COLUMNS,
        height=2 * _MARGIN + tallest * (_HEIGHT + _BETWEEN_BOXES) - _BETWEEN_BOXES,
        boxes=tuple(boxes[name] for name in sorted(boxes)),
        curves=tuple(curves),
    )


def _levels(key: str, neighbours: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Length of the longest way to each table that can be reached; locations may depend on each other in a circle."""
    levels, waiting = {key: 0}, deque([key])
    while waiting:
        name = waiting.popleft()
        for other in neighbours.get(name, ()):
            if other != key and levels.get(other, 0) < levels[name] + 1 <= len(neighbours):
                levels[other] = levels[name] + 1
                waiting.append(other)
    return levels


def _placed(names: Sequence[str], column: int, tallest: int) -> list[tuple[str, int, int]]:
    """The boxes of a column, in its middle."""
    step = _HEIGHT + _BETWEEN_BOXES
    x, top = _MARGIN + column * (_WIDTH + _BETWEEN_COLUMNS), _MARGIN + (tallest - len(names)) * step // 2
    return [(name, x, top + row * step) for row, name in enumerate(names)]


def _curve(source: Box, target: Box) -> str:
    start, end = source.x + _WIDTH, target.x
    y, to_y, bend = source.y + _HEIGHT // 2, target.y + _HEIGHT // 2, _BETWEEN_COLUMNS // 2
    return f"M{start} {y}C{start + bend} {y} {end - bend} {to_y} {end} {to_y}"
