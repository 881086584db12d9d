"""Tables: what is remembered as rows of pandas, Parquet or NumPy's npz, and back.

A row is a slot: its label, its refs, its age in writes, whatever else the memory keeps of each slot
(usage, lengths of means), and its key, as it was learnt where it is tuned.
"""

from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile
from zlib import error as DamagedStream

import numpy as np
import torch
from torch import Tensor

from rarememory.base.files import StrPath, write_atomically
from rarememory.base.state import EMPTY, MemoryState
from rarememory.classifier import MemoryClassifier
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import python_ref
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
    # One object a row, whatever the columns hold.
    return _pandas().DataFrame({name: list(part) for name, part in columns.items()}, index=slots)


def from_frame(remembered: Memory | MemoryClassifier, frame: "pd.DataFrame") -> int:
    """Take over the rows of such a frame, as `merge` does, and return how many.

    `label` and `key` are needed; an age is 0 and refs are none where the frame has no such column.
    Keys are of the same encoder, and of unit length.

    Raises:
        ValueError: a column is missing, unknown or holds what no memory has; nothing is changed.

    Example:
        >>> one, other = Memory(key_dim=2, memory_size=4), Memory(key_dim=2, memory_size=4)
        >>> write = one.write(torch.eye(2), torch.tensor([7, 9]))
        >>> from_frame(other, to_frame(one)), other.values
        (2, tensor([ 7,  9, -1, -1]))
    """
    return _take(remembered, {str(name): frame[name].tolist() for name in frame})


def write_table(remembered: Memory | MemoryClassifier, path: StrPath) -> None:
    """Write the rows of `to_frame` into a file, whole or not at all: .parquet, or .npz of NumPy.

    In npz the refs of all rows follow one another, and `ref_counts` says how many each row has.

    Raises:
        ValueError: the file has another ending, or labels or refs are not of one type each, text
            or number: a column holds one type. A frame takes any.
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
    for name, labels in (
        ("labels", columns["label"]),
        ("refs", [ref for refs in columns.get("refs", []) for ref in refs]),
    ):
        kinds = {type(label) for label in labels}
        if len(kinds) > 1 or not kinds <= {str, int, float, bool}:
            named = " and ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(
                f"a file of a table holds {name} of one type, text or number, and these are "
                f"{named}: use to_frame, or save()"
            )
    write_atomically(path, lambda temporary: write(columns, temporary))


def read_table(remembered: Memory | MemoryClassifier, path: StrPath) -> int:
    """Take over the rows of a file that `write_table` wrote, as `from_frame` does.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or as in `from_frame`; nothing is changed.

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
    try:
        return _take(remembered, read(Path(path)))
    except (ValueError, KeyError, EOFError, BadZipFile, DamagedStream) as error:
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
    book = LabelBook()
    values = torch.tensor(book.add(columns["label"]), dtype=torch.int64)
    for slot, refs in enumerate(columns.get("refs", [])):
        some = [python_ref(ref) for ref in refs]
        book.note_refs([slot] * len(some), [False] * len(some), [[ref] for ref in some])
    return remembered.take(_memory_of(remembered.memory, columns, values), book)


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
    state = memory.state_dict()
    ages = _numbers("age", columns, torch.int64)
    keys = _numbers("key", columns, like.keys.dtype)
    if keys.shape[1:] != like.keys.shape[1:]:
        widths = f"{list(keys.shape[1:])}, and this memory's {list(like.keys.shape[1:])}"
        raise ValueError(f"keys have width {widths}: it must be that of one encoder")
    state |= {"keys": keys, "values": values}
    state |= {"clock": ages.max(), "written": ages.max() - ages}
    there = own.keys() & columns.keys()
    state |= {name: _numbers(name, columns, own[name]) for name in there}
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
    _pandas().DataFrame({name: list(part) for name, part in columns.items()}).to_parquet(path)


def _read_parquet(path: Path) -> Columns:
    frame = _pandas().read_parquet(path)
    return {str(name): frame[name].tolist() for name in frame}


def _write_npz(columns: Columns, path: Path) -> None:
    parts: Columns = {name: np.array(part) for name, part in columns.items() if name != "refs"}
    if "refs" in columns:
        parts["ref_counts"] = np.array([len(refs) for refs in columns["refs"]], dtype=np.int64)
        parts["refs"] = np.array([ref for refs in columns["refs"] for ref in refs])
    np.savez(path, **parts)


def _read_npz(path: Path) -> Columns:
    # NumPy leaves a file open that it cannot read.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    if "refs" in columns:
        refs, counts = iter(columns["refs"].tolist()), columns.pop("ref_counts")
        columns["refs"] = [[*islice(refs, count)] for count in counts.tolist()]
    return {name: part if name == "key" else [*part] for name, part in columns.items()}
