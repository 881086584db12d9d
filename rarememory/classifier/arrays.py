"""Arrays and lists from whatever holds values: columns of pandas, views of a dict, generators."""

from collections import UserString
from collections.abc import Iterable, MappingView, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_array(values: Any) -> bool:
    """Whether this is an array of any library, a column of a table among them; not one text.

    Example:
        >>> is_array(torch.ones(2)), is_array(np.ones(2)), is_array([1]), is_array(np.str_("kea"))
        (True, True, False, False)
    """
    return hasattr(values, "__array__") and not isinstance(values, np.generic)


def is_whole(values: Any) -> bool:
    """Whether all of these values are here at once, rather than coming batch after batch."""
    return is_array(values) or isinstance(values, Sequence | MappingView)


def is_empty(values: Any) -> bool:
    """Whether this is an array, a list or a tuple with nothing in it."""
    if is_array(values):
        return bool(np.shape(values)[:1] == (0,))
    return isinstance(values, list | tuple) and not values


def as_array(values: Any) -> Any:
    """Numbers as a tensor or an array of NumPy, texts and other objects as a list.

    What is no array, no sequence and no view of a dict is unchanged, and so is a tuple. A table
    whose columns are all numbers is an array, whatever kinds of numbers they are.

    Raises:
        ValueError: the values are sparse, bytes without a shape, or a table that lacks numbers.

    Example:
        >>> as_array(np.array(["kea", "weka"])), as_array({"a": 1, "b": 2}.values())
        (['kea', 'weka'], [1, 2])
    """
    check_dense(values)
    if isinstance(values, Tensor) or not is_whole(values):
        return values
    if isinstance(values, str | UserString):
        return str(values)
    if isinstance(values, memoryview | bytearray):
        raise ValueError(
            f"a {type(values).__name__} is neither a text nor numbers: give bytes() of it, or "
            "numpy.frombuffer(...) with the dtype and the shape"
        )
    if isinstance(values, bytes | tuple | list):
        return values
    if not is_array(values):
        return list(values)
    array = np.asarray(values)
    if array.dtype.kind == "O" and hasattr(values, "items") and hasattr(values, "dtypes"):
        array = _table(values, array)
    return array.tolist() if array.dtype.kind in "OSTU" else array


def _table(frame: Any, array: Any) -> Any:
    """The numbers of a table of pandas' own kinds, which NumPy takes for objects; else `array`."""
    columns = [*frame.items()] if array.ndim == 2 else []
    if not columns or any(column.dtype.kind not in "fiub" for _, column in columns):
        return array
    for name, column in columns:
        if rows := np.flatnonzero(np.asarray(column.isna())).tolist():
            raise ValueError(
                f"the column {name!r} has no number in {named_rows(rows)}: fill them in, or leave "
                "these examples out"
            )
    kinds = [f"{column.dtype.kind}{column.dtype.itemsize}" for _, column in columns]
    pairs = zip(columns, kinds, strict=True)
    return np.column_stack([column.to_numpy(dtype=kind) for (_, column), kind in pairs])


def named_rows(rows: Sequence[int]) -> str:
    """These rows in a sentence, at most eight of them.

    Example:
        >>> named_rows([3]), named_rows(range(10))
        ('rows 3', 'rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return f"rows {', '.join(map(str, rows[:8]))}{more}"


def listed(name: str, values: Iterable[Any]) -> list[Any]:
    """The values of a column, a list or an iterator in a list.

    Raises:
        ValueError: they have more than one dimension.
    """
    if is_array(values):
        array = values if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim != 1:
            raise ValueError(
                f"{name} must have one dimension, and these are {list(array.shape)}: give one of "
                "each example"
            )
        # None is a value in a list of Python, and a missing one in a column of a table.
        column = hasattr(values, "isna") or hasattr(values, "is_null")
        found = list(array.tolist() if isinstance(array, Tensor) else array)
        return [np.nan if column and one is None else one for one in found]
    return list(values)


def as_tensor(array: Any) -> Tensor:
    """The numbers of an array as a tensor, on their own memory where torch can read that.

    Raises:
        ValueError: they are no numbers, or sparse.
    """
    check_dense(array)
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    if array.dtype.kind not in "fiubc":
        raise ValueError(f"an array of inputs must hold numbers, and this one is of {array.dtype}")
    # torch refuses foreign byte orders and rows that run backwards, and warns of what is read-only.
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, native, requirements=["C", "W"]))


def stacked(rows: Sequence[Any]) -> Tensor:
    """Examples of one shape as a batch.

    Raises:
        ValueError: their shapes differ.
    """
    tensors = [as_tensor(row) for row in rows]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(
            f"examples of one batch must have one shape, and these have {shapes[0]} and {shapes[1]}"
        )
    return torch.stack(tensors)


def check_dense(values: Any) -> None:
    """Refuse tensors and matrices that keep only the numbers that are not zero.

    Raises:
        ValueError: these do.
    """
    if isinstance(values, Tensor) and values.layout == torch.strided:
        return
    sparse = isinstance(values, Tensor) and "sparse" in str(values.layout)
    if sparse or hasattr(values, "toarray"):
        kind = values.layout if isinstance(values, Tensor) else type(values).__name__
        way = "to_dense" if isinstance(values, Tensor) else "toarray"
        raise ValueError(f"inputs must be dense, and these are {kind}: give inputs.{way}()")
