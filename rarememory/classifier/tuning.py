"""Settings of a reader, chosen by held-out examples: one by one, each from a few values."""

from collections.abc import Callable

from rarememory.classifier.reader import Reader


def best_reader(
    reader: Reader,
    merit: Callable[[Reader], float],
    error: Callable[[float], float] = lambda _: 0.0,
) -> Reader:
    """The reader with the settings of the greatest merit; the present ones where others equal it.

    A setting of `Reader.found_well` is changed only if that is better by more than the error.

    Args:
        reader: that is varied.
        merit: how good the answers of a reader are.
        error: of a merit.

    Example:
        >>> from rarememory.classifier.fitted_reader import FittedReader
        >>> found = best_reader(FittedReader(), lambda reader: -reader.settings["penalty"])
        >>> found.settings["penalty"]
        3e-05
    """
    best = merit(reader)
    for name, values in reader.grid.items():
        start, least = reader, best + (error(best) if name in reader.found_well else 0.0)
        for value in values:
            other = start.having(**{name: value})
            found = merit(other)
            if found > max(best, least):
                best, reader = found, other
    return reader
