"""A table of a page: a cell is a text or the key of a measured figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured number; when `<key>.interval` was measured too, it follows after a ±."""

    key: str
    form: str = "{:.2f}"


Row = tuple[str | Figure, ...]


def row(*cells: str | Figure) -> Row:
    """A row of these cells."""
    return cells


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def figures(key: str, *parts: object, form: str = "{:.2f}") -> tuple[Figure, ...]:
    """A cell for each part, which stands in the place of {} in the key."""
    return tuple(Figure(key.format(part), form) for part in parts)
