"""Readers by name."""

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
