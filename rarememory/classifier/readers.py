"""Readers by name."""

from typing import Any

from rarememory.classifier.fitted_reader import FittedReader
from rarememory.classifier.nearest_reader import NearestReader
from rarememory.classifier.reader import Reader


def reader_of(name: str) -> Reader:
    """The reader of this name.

    Raises:
        ValueError: there is none.
    """
    readers: dict[str, type[Reader]] = {
        reader.name: reader for reader in (FittedReader, NearestReader)
    }
    if name not in readers:
        raise ValueError(f"there is no reader {name!r}: take {' or '.join(map(repr, readers))}")
    return readers[name]()


def reader_from_json(stored: dict[str, Any]) -> Reader:
    """The reader that a classifier was saved with, with its settings.

    Raises:
        ValueError: there is no such reader, or it has no such setting.
    """
    # What was saved by version 0.1 does not say it.
    return reader_of(stored.get("reader", "nearest")).having(**stored.get("reader_settings", {}))
