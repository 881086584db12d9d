"""Tables: what is remembered as rows of pandas, Parquet or NumPy's npz, and back.

A row is a slot: its label, its refs, its age in writes, whatever else the memory keeps of each slot
(usage, lengths of means), and its key, as it was learnt where it is tuned.
"""

from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rarememory.base.files import StrPath, write_atomically
from rarememory.base.state import EMPTY, MemoryState
from rarememory.classifier import MemoryClassifier
from rarememory.classifier.beside_keys import BUFFERS, check_buffers
from rarememory.classifier.guesses import set_width
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, is_missing, python_labels, python_refs
from rarememory.classifier.tuned_keys import UNTUNED, learnt_keys, untune
from rarememory.memory import Memory

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Columns = dict[str, Any]


def to_frame(remembered: Memory | MemoryClassifier) -> "pd.DataFrame":
    """A row of each occupied slot, in the order of the slots, which are its index.

    Columns are `label` (of a `Memory`, its value), `refs` (of a classifier, a tuple, the latest
    last), `age`, `uses` and `idle` if usage is counted, and `key`, a float array.

    Raises:
        ModuleNotFoundError: pandas or pyarrow is not installed.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> to_frame(memory)[["label", "age"]].values.tolist()
        [[7, 0], [9, 0]]
    """
    slots, columns = _columns(remembered)
    pandas, rows = _pandas(), {name: list(part) for name, part in columns.items()}
    if isinstance(remembered, MemoryClassifier):
        # Otherwise 1 beside 2.5 would become 1.0, which is another label, and None would be NaN.
        rows["label"] = pandas.Series(rows["label"], index=slots, dtype=object)
    return pandas.DataFrame(rows, index=slots)


def from_frame(remembered: Memory | MemoryClassifier, frame: "pd.DataFrame") -> int:
    """Take over the rows of such a frame, as `merge` does, and return how many.

    `label` and `key` are needed; an age is 0 and refs are none where the frame has no such column.
    A row of `refs` is a list, or missing. Keys are of the same encoder, and of unit length.

    Raises:
        ValueError: a column is missing, unknown or holds what no memory has; nothing is changed.

    Example:
        >>> one, other = Memory(key_dim=2, memory_size=4), Memory(key_dim=2, memory_size=4)
        >>> write = one.write(torch.eye(2), torch.tensor([7, 9]))
        >>> from_frame(other, to_frame(one)), other.values
        (2, tensor([ 7,  9, -1, -1]))
    """
    if len({*frame}) < len([*frame]):
        raise ValueError(f"two columns of the table have one name: {[*frame]}")
    return _take(remembered, {str(name): frame[name].tolist() for name in frame})


def write_table(remembered: Memory | MemoryClassifier, path: StrPath) -> None:
    """Write the rows of `to_frame` into a file, whole or not at all: .parquet, or .npz of NumPy.

    In npz the refs of all rows follow one another, and `ref_counts` says how many each row has.

    Raises:
        ValueError: the file has another ending, or labels or refs are not of one type each, text
            or number (of 64 bits): a column holds one type. A frame takes any.
        ModuleNotFoundError: for Parquet, pandas or pyarrow is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> one = Memory(key_dim=2, memory_size=4)
        >>> write = one.write(torch.eye(2), torch.tensor([7, 9]))
        >>> with TemporaryDirectory() as folder:
        ...     write_table(one, f"{folder}/rows.npz")
        ...     np.load(f"{folder}/rows.npz")["label"].tolist()
        [7, 9]
    """
    write = {".parquet": _write_parquet, ".npz": _write_npz}[_ending(path)]
    _, columns = _columns(remembered)
    for name, labels in (("labels", columns["label"]), ("refs", _all_refs(columns))):
        kinds = {type(label) for label in labels}
        if len(kinds) > 1 or not kinds <= {str, int, float, bool}:
            named = " and ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(
                f"a file of a table holds {name} of one type, text or number, and these are "
                f"{named}: use to_frame, or save()"
            )
        if kinds == {str} and any(text.endswith("\0") for text in labels):
            raise ValueError(f"a file of a table holds no {name} that end in a zero byte: save()")
        if kinds == {int} and not all(-(2**63) <= label < 2**63 for label in labels):
            raise ValueError(f"a file of a table holds {name} of 64 bits, and one has more: save()")
    write_atomically(path, lambda temporary: write(columns, temporary))


def read_table(remembered: Memory | MemoryClassifier, path: StrPath) -> int:
    """Take over the rows of a file that `write_table` wrote, as `from_frame` does.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or as in `from_frame`; nothing is changed.
        ModuleNotFoundError: as in `write_table`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> one, other = Memory(key_dim=2, memory_size=4), Memory(key_dim=2, memory_size=4)
        >>> write = one.write(torch.eye(2), torch.tensor([7, 9]))
        >>> with TemporaryDirectory() as folder:
        ...     write_table(one, f"{folder}/rows.npz")
        ...     read_table(other, f"{folder}/rows.npz")
        2
    """
    read = {".parquet": _read_parquet, ".npz": _read_npz}[_ending(path)]
    if read is _read_parquet:
        _pandas()
    with Path(path).open("rb") as file:
        try:
            columns = read(file)
        except Exception as error:
            # Bytes that are damaged bring these libraries to errors of every kind.
            said = " ".join(str(error).split())
            raise ValueError(f"{str(path)!r} is damaged, or no table: {said}") from error
    try:
        return _take(remembered, columns)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be taken over: {error}") from error


def _columns(remembered: Memory | MemoryClassifier) -> tuple[list[int], Columns]:
    """The occupied slots, and what there is of each."""
    memory = remembered if isinstance(remembered, Memory) else remembered.memory
    with remembered.lock.reading():
        slots = memory.state.occupied.nonzero().squeeze(1)
        columns: Columns = {}
        if isinstance(remembered, Memory):
            columns["label"] = memory.values[slots].tolist()
        else:
            examples = remembered.examples()
            columns["label"] = [example.label for example in examples]
            columns["refs"] = [example.refs for example in examples]
        columns["age"] = memory.ages[slots].cpu().numpy()
        for name, buffer in _own_buffers(memory).items():
            columns[name] = buffer[slots].cpu().numpy()
        if memory.usage is not None:
            columns["idle"] = memory.usage.idle[slots].cpu().numpy()
            del columns["used"]
        keys = learnt_keys(memory)[slots].cpu()
        # NumPy has no bfloat16.
        columns["key"] = keys.to(torch.promote_types(keys.dtype, torch.float32)).numpy()
        return slots.tolist(), columns


def _own_buffers(memory: Memory) -> dict[str, Tensor]:
    """What this memory keeps of each slot beside key, value and write."""
    buffers = memory.named_buffers(recurse=False)
    known = {*MemoryState._fields, UNTUNED}
    return {name: part for name, part in buffers if part.dim() and name not in known}


def _take(remembered: Memory | MemoryClassifier, columns: Columns) -> int:
    if "label" not in columns:
        raise ValueError("the table has no column label")
    for name, part in columns.items():
        if len(part) != len(columns["label"]):
            rows = len(columns["label"])
            raise ValueError(f"the table has {len(part)} rows of {name}, and {rows} of label")
    if isinstance(remembered, Memory):
        other = _memory_of(remembered, columns, _numbers("label", columns, torch.int64))
        return int((remembered.merge(other) != EMPTY).sum())
    for name in BUFFERS:
        if not hasattr(remembered.memory, name):
            # As in `merge`: the other reader has no use for it.
            columns.pop(name, None)
    book = LabelBook()
    values = torch.tensor(book.add(python_labels(columns["label"])), dtype=torch.int64)
    for slot, refs in enumerate(columns.get("refs", [])):
        some = _refs_of_row(refs)
        book.note_refs([slot] * len(some), [False] * len(some), [[ref] for ref in some])
    return remembered.take(_memory_of(remembered.memory, columns, values), book)


def _all_refs(columns: Columns) -> list[Any]:
    return [ref for refs in columns.get("refs", []) for ref in refs]


def _refs_of_row(refs: Any) -> list[Label]:
    if isinstance(refs, list | tuple | np.ndarray):
        return python_refs(refs)
    if refs is None or is_missing(refs):
        return []
    raise ValueError(f"the column refs must hold a list in each row, not {refs!r}")


def _memory_of(like: Memory, columns: Columns, values: Tensor) -> Memory:
    """A memory of the same kind that holds these rows, in its lowest slots."""
    own = {name: part.dtype for name, part in _own_buffers(like).items() if name != "used"}
    known = {"label", "refs", "age", "key", *own, *(["idle"] if like.usage is not None else [])}
    if unknown := sorted(columns.keys() - known):
        raise ValueError(f"the table has columns {unknown}, and this memory keeps {sorted(known)}")
    memory = deepcopy(like)
    untune(memory)
    memory.clear()
    memory.resize(max(1, len(values)))
    if not len(values):
        return memory
    ages = _numbers("age", columns, torch.int64)
    keys = _numbers("key", columns, like.keys.dtype)
    if keys.dim() != 2:
        raise ValueError("the column key must have a row of numbers in each row")
    # Whether the width fits is seen in the merge: a classifier may not know its own yet.
    set_width(memory, keys.shape[1])
    state = memory.state_dict()
    state |= {"keys": keys, "values": values}
    state |= {"clock": ages.max(), "written": ages.max() - ages}
    there = own.keys() & columns.keys()
    state |= {name: _numbers(name, columns, own[name]) for name in there}
    check_buffers(state)
    if like.usage is not None:
        idle = _numbers("idle", columns, torch.int64)
        state |= {"reads": idle.max(), "used": idle.max() - idle}
    memory.fit_checkpoint(state)
    memory.load_state_dict(state)
    return memory


def _numbers(name: str, columns: Columns, dtype: torch.dtype) -> Tensor:
    """A column as a tensor; zeros for ages that the table does not say."""
    if name not in columns and name != "key":
        return torch.zeros(len(columns["label"]), dtype=dtype)
    if name not in columns:
        raise ValueError("the table has no column key")
    try:
        part = np.array([*columns[name]])
    except ValueError:
        raise ValueError(f"the column {name} must have as many numbers in each row") from None
    if part.dtype.kind not in ("iuf" if dtype.is_floating_point else "iu") and len(part):
        kind = "numbers" if dtype.is_floating_point else "integers"
        raise ValueError(f"the column {name} must be {kind}, not {part.dtype}")
    return torch.from_numpy(part).to(dtype)


# Files


def _ending(path: StrPath) -> str:
    ending = Path(path).suffix.lower()
    if ending not in (".parquet", ".npz"):
        raise ValueError(f"a table is a file .parquet or .npz, not {str(path)!r}")
    return ending


def _pandas() -> Any:
    try:
        import pandas
        import pyarrow  # type: ignore[import-untyped]  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'tables need {error.name}; run: pip install "rarememory[tables]"'
        ) from None
    return pandas


def _write_parquet(columns: Columns, path: Path) -> None:
    frame = _pandas().DataFrame({name: list(part) for name, part in columns.items()})
    frame.to_parquet(path, write_page_checksum=True)


def _read_parquet(file: BinaryIO) -> Columns:
    frame = _pandas().read_parquet(file, page_checksum_verification=True)
    return {str(name): frame[name].tolist() for name in frame}


def _write_npz(columns: Columns, path: Path) -> None:
    parts: Columns = {name: np.array(part) for name, part in columns.items() if name != "refs"}
    if "refs" in columns:
        parts["ref_counts"] = np.array([len(refs) for refs in columns["refs"]], dtype=np.int64)
        parts["refs"] = np.array(_all_refs(columns))
    # The list of files in an archive has no checksum of its own.
    np.savez(path, columns=np.array([*parts]), **parts)


def _read_npz(file: BinaryIO) -> Columns:
    with np.load(file, allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    names = {*columns.pop("columns", columns)}
    if names != columns.keys():
        raise ValueError(f"it has the columns {sorted(columns)}, and was written with others")
    if "refs" in columns:
        refs, counts = iter(columns["refs"].tolist()), columns.pop("ref_counts").tolist()
        if sum(counts) != len(columns["refs"]) or min(counts, default=0) < 0:
            raise ValueError(f"it has {len(columns['refs'])} refs, and counts {sum(counts)}")
        columns["refs"] = [[*islice(refs, count)] for count in counts]
    return {name: part if name == "key" else [*part] for name, part in columns.items()}
