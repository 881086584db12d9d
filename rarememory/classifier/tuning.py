"""Settings of a reader, chosen by held-out examples: one by one, each from a few values."""

from collections.abc import Callable

from rarememory.classifier.reader import Reader


def best_reader(reader: Reader, merit: Callable[[Reader], float]) -> Reader:
    """The reader with the settings of the greatest merit; the present ones where others equal it.

    Args:
        reader: that is varied.
        merit: how good the answers of a reader are.

    Example:
        >>> from rarememory.classifier.fitted_reader import FittedReader
        >>> found = best_reader(FittedReader(), lambda reader: -reader.settings["penalty"])
        >>> found.settings["penalty"]
        3e-05
    """
    best = merit(reader)
    for name, values in reader.grid.items():
        start = reader
        for value in values:
            other = start.having(**{name: value})
            found = merit(other)
            if found > best:
                best, reader = found, other
    return reader
