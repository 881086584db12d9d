"""What users pass, as batches: one example or many, with labels and refs, or a loader of them."""

from collections.abc import Iterable, Iterator
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
        inputs, Tensor | np.ndarray | list | tuple | str | bytes
    )


def batch_of(inputs: Any, labels: Any, refs: Any) -> Batch:
    """Examples that were passed with their labels; a single label means a single example.

    A tuple is a label: many labels come as a list, an array or a tensor.
    """
    if not _many(labels):
        labels, inputs = [labels], _alone(inputs)
        refs = None if refs is None else [refs]
    return checked(inputs, labels, refs)


def batches_of(loader: Iterable[Any]) -> Iterator[Batch]:
    """Batches of a loader that yields (inputs, labels) or (inputs, labels, refs).

    Here a tuple is many labels, since that is how a DataLoader collates strings.
    """
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
            raise ValueError("a loader must yield (inputs, labels) or (inputs, labels, refs)")
        inputs, labels, refs = (*batch, None)[:3]
        yield checked(inputs, labels, refs)


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
    if not len(inputs) == len(labels) == len(refs):
        raise ValueError(
            f"{len(inputs)} examples, {len(labels)} labels and {len(refs)} refs: give one of each"
        )
    return Batch(inputs, labels, refs)


def gathered(inputs: Any) -> Any:
    """Examples as the host wants them: one tensor if they are numbers, otherwise as they are."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub":
        return torch.from_numpy(inputs)
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Tensor | np.ndarray):
        return torch.stack([torch.as_tensor(row) for row in inputs])
    return inputs


def dims_of(inputs: Any) -> int | None:
    """Dimensions of one example of a batch; None if they are no tensors."""
    return inputs.dim() - 1 if isinstance(inputs, Tensor) else None


def is_single(inputs: Any, dims: int | None) -> bool:
    """Whether this is one example, when an example has so many dimensions."""
    if isinstance(inputs, Tensor | np.ndarray):
        return dims is not None and inputs.ndim == dims
    return not isinstance(inputs, list | tuple)


def as_batch(inputs: Any, dims: int | None) -> Any:
    """The examples as a batch, a single one as a batch of one.

    Raises:
        ValueError: they have other dimensions than the examples that were learnt, or are a loader.
    """
    if is_loader(inputs):
        raise ValueError(
            f"a {type(inputs).__name__} cannot be asked about at once: ask batch by batch"
        )
    inputs = _alone(inputs) if is_single(inputs, dims) else gathered(inputs)
    check_dims(inputs, dims)
    return inputs


def check_dims(inputs: Any, dims: int | None) -> None:
    """Refuse a batch whose examples have other dimensions than `dims`, if that is known."""
    if dims is not None and isinstance(inputs, Tensor) and inputs.dim() != dims + 1:
        raise ValueError(
            f"one example has {dims} dimensions here, so inputs must have {dims} or {dims + 1}, "
            f"not {inputs.dim()}"
        )


def chunks(inputs: Any, size: int) -> Iterator[Any]:
    """The batch in pieces of at most `size` examples; an empty one is one empty piece."""
    for start in range(0, max(1, len(inputs)), size):
        yield inputs[start : start + size]


def placed(inputs: Any, like: Tensor) -> Any:
    """Tensors on the device of `like`, floats in its dtype; what is no tensor as it is."""
    if not isinstance(inputs, Tensor):
        return inputs
    dtype = like.dtype if inputs.is_floating_point() and like.is_floating_point() else inputs.dtype
    return inputs.to(like.device, dtype)


def with_bar(batches: Iterable[Any], total: int | None, progress: bool | None) -> Iterable[Any]:
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
    return [inputs]
