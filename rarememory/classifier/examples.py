"""What users pass, as batches: one example or many, with labels and refs, or a loader of them.

Examples are a tensor, an array or a list of them, whatever else the model takes in a list, or a
dict of tensors: the arguments of the model by name, each with a row for each example.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rarememory.classifier.labels import Label, plain
from rarememory.classifier.refs import plain_ref


class Batch(NamedTuple):
    """Examples with their labels and refs, one each."""

    inputs: Any
    labels: list[Label]
    refs: list[Label]


def is_loader(inputs: Any) -> bool:
    """Whether this yields batches, rather than being one."""
    return isinstance(inputs, Iterable) and not isinstance(
        inputs, Tensor | np.ndarray | list | tuple | str | bytes | Mapping
    )


def batch_of(inputs: Any, labels: Any, refs: Any) -> Batch:
    """Examples that were passed with their labels; a single label means a single example.

    A tuple is a label: many labels come as a list, an array or a tensor.
    """
    if not _many(labels):
        labels, inputs = [labels], _alone(inputs)
        refs = None if refs is None else [refs]
    return checked(inputs, labels, refs)


def batches_of(
    inputs: Any, labels: Any, refs: Any = None, progress: bool | None = None
) -> Iterator[Batch]:
    """Labelled examples batch by batch: one batch, or those of a loader.

    A loader yields (inputs, labels) or (inputs, labels, refs). There a tuple is many labels, since
    that is how a DataLoader collates strings.

    Raises:
        ValueError: there are no labels, twice as many as needed, or batches of another form.
    """
    if not is_loader(inputs):
        if labels is None:
            raise ValueError("this needs a label for each example, or a loader that yields them")
        yield batch_of(inputs, labels, refs)
        return
    if labels is not None or refs is not None:
        raise ValueError("a loader yields labels and refs itself: leave them out beside it")
    for batch in with_bar(inputs, progress):
        if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
            raise ValueError("a loader must yield (inputs, labels) or (inputs, labels, refs)")
        yield checked(*(*batch, None)[:3])


def asked(
    inputs: Any, dims: int | None, progress: bool | None = None
) -> tuple[bool, Iterator[Any]]:
    """Whether this is a single example, and the inputs of all batches, of which that is one too.

    A loader yields inputs, or tuples that begin with them, whatever else is in them.
    """
    if is_loader(inputs):
        return False, (as_batch(_first(batch), dims) for batch in with_bar(inputs, progress))
    alone = is_single(inputs, dims)
    return alone, iter([as_batch(_alone(inputs) if alone else inputs, dims)])


def _first(batch: Any) -> Any:
    """The inputs of what a loader yields; a list of texts or pictures is inputs itself."""
    first = batch[0] if isinstance(batch, list | tuple) and batch else None
    return first if isinstance(first, Tensor | np.ndarray | list | tuple | Mapping) else batch


def checked(inputs: Any, labels: Any, refs: Any) -> Batch:
    """A batch with as many labels and refs as examples.

    Raises:
        ValueError: their numbers differ.
    """
    for name, listed in (("labels", labels), ("refs", refs)):
        if isinstance(listed, str):
            raise ValueError(f"{name} of a batch must be a list of them, not the text {listed!r}")
    inputs = gathered(inputs)
    labels = [plain(label) for label in labels]
    refs = [None] * len(labels) if refs is None else [plain_ref(ref) for ref in refs]
    if not count(inputs) == len(labels) == len(refs):
        raise ValueError(
            f"{count(inputs)} examples, {len(labels)} labels and {len(refs)} refs: give one of each"
        )
    return Batch(inputs, labels, refs)


def gathered(inputs: Any) -> Any:
    """Examples as the host wants them: one tensor if they are numbers, otherwise as they are.

    Raises:
        ValueError: the parts of a dict are not all tensors with as many rows.
    """
    if isinstance(inputs, Mapping):
        parts = {name: gathered(part) for name, part in inputs.items()}
        rows = {name: _rows(part) for name, part in parts.items()}
        if len({*rows.values()}) != 1 or None in rows.values():
            raise ValueError(
                "inputs in a dict must be tensors with a row for each example, and their rows are "
                f"{rows}"
            )
        return parts
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub":
        return torch.from_numpy(inputs)
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Tensor | np.ndarray):
        return torch.stack([torch.as_tensor(row) for row in inputs])
    return inputs


def _rows(part: Any) -> int | None:
    return len(part) if isinstance(part, Tensor) and part.dim() else None


def count(inputs: Any) -> int:
    """How many examples are in a batch."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def dims_of(inputs: Any) -> int | None:
    """Dimensions of one example of a batch; None if they are no tensors."""
    return inputs.dim() - 1 if isinstance(inputs, Tensor) else None


def is_single(inputs: Any, dims: int | None) -> bool:
    """Whether this is one example, when an example has so many dimensions; a dict never is."""
    if isinstance(inputs, Tensor | np.ndarray):
        return dims is not None and inputs.ndim == dims
    return not isinstance(inputs, list | tuple | Mapping)


def as_batch(inputs: Any, dims: int | None) -> Any:
    """The examples of a batch as the host wants them.

    Raises:
        ValueError: they have other dimensions than the examples that were learnt.
    """
    inputs = gathered(inputs)
    check_dims(inputs, dims)
    return inputs


def check_dims(inputs: Any, dims: int | None) -> None:
    """Refuse a batch whose examples have other dimensions than `dims`, if that is known."""
    if dims is not None and isinstance(inputs, Tensor) and inputs.dim() != dims + 1:
        raise ValueError(
            f"one example has {dims} dimensions here, and a batch {dims + 1}; these inputs have "
            f"{inputs.dim()}"
        )


def chunks(inputs: Any, size: int) -> Iterator[Any]:
    """The batch in pieces of at most `size` examples; an empty one is one empty piece."""
    for start in range(0, max(1, count(inputs)), size):
        some = slice(start, start + size)
        parts = isinstance(inputs, Mapping)
        yield {name: part[some] for name, part in inputs.items()} if parts else inputs[some]


def placed(inputs: Any, like: Tensor) -> Any:
    """Tensors on the device of `like`, floats in its dtype; what is no tensor as it is."""
    if isinstance(inputs, Mapping):
        return {name: placed(part, like) for name, part in inputs.items()}
    if not isinstance(inputs, Tensor):
        return inputs
    dtype = like.dtype if inputs.is_floating_point() and like.is_floating_point() else inputs.dtype
    return inputs.to(like.device, dtype)


def with_bar(batches: Iterable[Any], progress: bool | None) -> Iterable[Any]:
    """Show how far we are: always, never, or (None) on a terminal if tqdm is installed.

    Raises:
        ModuleNotFoundError: it is to be shown, and tqdm is not installed.
    """
    if progress is False:
        return batches
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if progress is None:
            return batches
        raise ModuleNotFoundError(
            'the progress bar needs tqdm: pip install "rarememory[vision]", or progress=False'
        ) from error
    total = len(batches) if isinstance(batches, Sized) else None
    bar: Iterable[Any] = tqdm(
        batches, total=total, unit="batch", disable=None if progress is None else False
    )
    return bar


def _many(labels: Any) -> bool:
    if isinstance(labels, Tensor | np.ndarray):
        return labels.ndim > 0
    return isinstance(labels, list | range)


def _alone(inputs: Any) -> Any:
    if isinstance(inputs, Tensor | np.ndarray):
        return torch.as_tensor(inputs).unsqueeze(0)
    return inputs if isinstance(inputs, Mapping) else [inputs]
