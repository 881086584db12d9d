"""Batches from what users pass: one example or many, with labels and refs, or a loader of them.

Examples are a tensor, an array or a list of them, a list of anything else that the model takes, or
a dict of tensors: the arguments of the model by name, each with one row for each example. A column
of a table is an array; a text is one example, and never a batch of its letters.
"""

from collections import UserString
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from rarememory.base.progress import progress_bar
from rarememory.classifier.arrays import (
    as_array,
    as_tensor,
    check_dense,
    is_array,
    is_empty,
    is_whole,
    listed,
    named_rows,
    stacked,
)
from rarememory.classifier.labels import Label, is_missing, python_labels, python_refs

AnyBatch = TypeVar("AnyBatch")


class Batch(NamedTuple):
    """Examples with one label and one ref each."""

    inputs: Any
    labels: list[Label]
    refs: list[Label]


def is_loader(inputs: Any) -> bool:
    """Whether this yields batches, rather than being one."""
    check_dense(inputs)
    return isinstance(inputs, Iterable) and not (is_whole(inputs) or isinstance(inputs, Mapping))


def labelled_batch(inputs: Any, labels: Any, refs: Any) -> Batch:
    """Examples and their labels as a batch; one label that is not in a list means one example.

    A tuple is one label: several labels come in a list, an array, a column of a table, a view of a
    dict or a generator.
    """
    if not are_labels(labels):
        if refs is not None and are_labels(refs):
            refs = listed("refs", refs)
            raise ValueError(
                f"{labels!r} is one label, and there are {len(refs)} refs in a list: for as many "
                f"examples give {repeated(labels, len(refs))}, and for one give its ref alone"
            )
        labels, inputs = [labels], _single_example(as_array(inputs))
        refs = None if refs is None else [refs]
    return _checked_batch(inputs, labels, refs)


def are_labels(labels: Any) -> bool:
    """Whether these are several labels, or refs, and not a single one."""
    labels = as_array(labels)
    if is_array(labels):
        return bool(labels.ndim > 0)
    if isinstance(labels, str | bytes | tuple):
        return False
    return is_whole(labels) or isinstance(labels, Iterator)


def repeated(label: Label, count: int) -> str:
    """How so many labels are written that are the same."""
    return f"{[label]!r}" + (f" * {count}" if count > 1 else "")


def labelled_batches(
    inputs: Any, labels: Any, refs: Any = None, progress: bool | None = None
) -> Iterator[Batch]:
    """The one labelled batch that was passed, or those of a loader.

    A loader yields (inputs, labels) or (inputs, labels, refs). There a tuple is several labels,
    because that is how a DataLoader collates strings.

    Raises:
        ValueError: there are no labels, labels beside a loader, or batches of another form.
    """
    if labels is not None and isinstance(inputs, Iterator):
        inputs = _one_by_one(inputs)
    if not is_loader(inputs):
        if labels is None:
            raise ValueError("this needs a label for each example, or a loader that yields them")
        yield labelled_batch(inputs, labels, refs)
        return
    if labels is not None or refs is not None:
        raise ValueError(_LABELS_TWICE)
    for batch in progress_bar(inputs, unit="batch", show=progress):
        if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
            raise ValueError("a loader must yield (inputs, labels) or (inputs, labels, refs)")
        yield _checked_batch(*(*batch, None)[:3])


_LABELS_TWICE = "a loader yields labels and refs itself: leave them out beside it"


def _one_by_one(examples: Iterator[Any]) -> list[Any]:
    """The examples of a generator, which has no labels."""
    for first in examples:
        if isinstance(first, list | tuple):
            raise ValueError(_LABELS_TWICE)
        return [first, *examples]
    return []


def batches_with_refs(
    loader: Iterable[Any], progress: bool | None = None
) -> Iterator[tuple[Any, list[Label]]]:
    """Inputs and refs of every batch of a loader of (inputs, refs) or (inputs, labels, refs)."""
    for batch in progress_bar(loader, unit="batch", show=progress):
        if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
            raise ValueError("a loader must yield (inputs, refs) or (inputs, labels, refs)")
        yield to_batch(batch[0]), python_refs(batch[-1])


def input_batches(
    inputs: Any, dims: int | None, progress: bool | None = None
) -> tuple[bool, Iterator[Any]]:
    """Whether this is a single example; and the inputs of every batch, at least one example each.

    A loader yields inputs, or tuples whose first part are inputs. If it yields examples one by one,
    they are one batch.

    Args:
        inputs: a batch, a single example or a loader.
        dims: dimensions of one example, if they are known.
        progress: whether to show a progress bar.
    """
    if isinstance(inputs, Tensor):
        # As below, without a look for what a tensor cannot be.
        check_dense(inputs)
        if inputs.shape[:1] == (0,):
            return False, iter(())
        single = inputs.dim() == dims
        batch = inputs.unsqueeze(0) if single else inputs
        check_dims(batch, dims)
        return single, iter((batch,))
    single = False
    if is_loader(inputs):
        bar = iter(progress_bar(inputs, unit="batch", show=progress))
        parts: Iterable[Any] = _batches(bar, dims)
    else:
        inputs = as_array(inputs)
        if is_array(inputs):
            single = dims is not None and inputs.ndim == dims and not is_empty(inputs)
        else:
            single = not isinstance(inputs, list | tuple | Mapping)
        parts = [_single_example(inputs) if single else inputs]
    batches = (to_batch(part, dims) for part in parts if not is_empty(part))
    return single, batches


def _batches(loader: Iterator[Any], dims: int | None) -> Iterator[Any]:
    """The inputs of what a loader yields; examples that come one by one are one batch."""
    for first in loader:
        if _is_example(first, dims):
            yield [first, *loader]
        else:
            yield from map(_first, chain([first], loader))


def _is_example(part: Any, dims: int | None) -> bool:
    """Whether a loader yields this as one example, rather than as a batch."""
    part = as_array(part)
    if is_array(part):
        return dims is not None and bool(part.ndim == dims)
    return not isinstance(part, list | tuple | Mapping)


def begun(batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """The same batches, the first of which is made now."""
    return chain(list(islice(batches, 1)), batches)


def to_batch(inputs: Any, dims: int | None = None) -> Any:
    """Examples as the model takes them: one tensor if they are numbers, otherwise unchanged.

    Raises:
        ValueError: there are none; or the parts of a dict are not tensors with the same number of
            rows, or an example does not have `dims` dimensions, or the shapes of examples differ,
            or a text is missing.
    """
    _check_given(inputs)
    if isinstance(inputs, Mapping):
        parts = {name: to_batch(part) for name, part in inputs.items()}
        rows = {
            name: len(part) if isinstance(part, Tensor) and part.dim() else None
            for name, part in parts.items()
        }
        if len({*rows.values()}) != 1 or None in rows.values():
            raise ValueError(
                "inputs in a dict must be tensors with a row for each example, and their rows are "
                f"{rows}"
            )
        return parts
    inputs = as_array(inputs)
    if is_array(inputs):
        inputs = as_tensor(inputs)
    elif isinstance(inputs, Sequence) and inputs and is_array(inputs[0]):
        inputs = stacked(inputs)
    elif isinstance(inputs, list | tuple):
        inputs = _whole_texts(inputs)
    check_dims(inputs, dims)
    return inputs


def _whole_texts(inputs: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    """The same examples, none of them missing where there are texts; a UserString becomes a str."""
    if any(isinstance(one, UserString) for one in inputs):
        inputs = [str(one) if isinstance(one, UserString) else one for one in inputs]
    if any(isinstance(one, str) for one in inputs):
        missing = [row for row, one in enumerate(inputs) if one is None or is_missing(one)]
        if missing:
            raise ValueError(
                f"texts are missing (None, NaN or NA) in {named_rows(missing)}: fill them in, or "
                "leave these examples out"
            )
    return inputs


def check_dims(inputs: Any, dims: int | None) -> None:
    """Refuse a batch whose examples do not have `dims` dimensions, if those are known."""
    if dims is not None and isinstance(inputs, Tensor) and inputs.dim() != dims + 1:
        raise ValueError(
            f"one example has {dims} dimensions here, and a batch {dims + 1}; these inputs have "
            f"{inputs.dim()}"
        )


def example_dims(inputs: Any) -> int | None:
    """Dimensions of one example of a batch; None if the batch is no tensor."""
    return inputs.dim() - 1 if isinstance(inputs, Tensor) else None


def count_examples(inputs: Any) -> int:
    """Number of examples in a batch."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def split_batch(inputs: Any, size: int) -> Iterator[Any]:
    """The batch in parts of at most `size` examples; an empty batch is one empty part."""
    for start in range(0, max(1, count_examples(inputs)), size):
        rows = slice(start, start + size)
        if isinstance(inputs, Mapping):
            yield {name: part[rows] for name, part in inputs.items()}
        else:
            yield inputs[rows]


def to_device(inputs: Any, like: Tensor) -> Any:
    """Tensors on the device of `like`, floats in its dtype; anything else unchanged."""
    if isinstance(inputs, Tensor):
        if inputs.dtype == like.dtype and inputs.device == like.device:
            return inputs
        floats = inputs.is_floating_point() and like.is_floating_point()
        return inputs.to(like.device, like.dtype if floats else inputs.dtype)
    if isinstance(inputs, Mapping):
        return {name: to_device(part, like) for name, part in inputs.items()}
    return inputs


def _checked_batch(inputs: Any, labels: Any, refs: Any) -> Batch:
    """A batch with as many labels and refs as examples."""
    for name, given in (("inputs", inputs), ("labels", labels), ("refs", refs)):
        if isinstance(given, str | bytes | UserString):
            raise ValueError(f"{name} of a batch must be a list of them, not the text {given!r}")
    inputs = to_batch(inputs)
    labels = python_labels(listed("labels", labels))
    count, with_refs = count_examples(inputs), refs is not None
    refs = python_refs(listed("refs", refs)) if with_refs else [None] * len(labels)
    if not count == len(labels) == len(refs):
        shape = f" {list(inputs.shape)}" if isinstance(inputs, Tensor) else ""
        beside = _counted(labels, "label") + with_refs * f" and {_counted(refs, 'ref')}"
        same = ""
        if len(labels) == 1 < count:
            same = f", as in {repeated(labels[0], count)}"
            if isinstance(inputs, Tensor) and inputs.dim() > 2:
                same += f", or {labels[0]!r} alone for one example"
        raise ValueError(
            f"the inputs{shape} are {_counted(range(count), 'example')}, with {beside}: give one "
            f"of each{same}"
        )
    return Batch(inputs, labels, refs)


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}" + "s" * (len(things) != 1)


def _first(batch: Any) -> Any:
    """The inputs of what a loader yields; a list of texts or images is inputs itself."""
    first = batch[0] if isinstance(batch, list | tuple) and batch else None
    return first if is_array(first) or isinstance(first, list | tuple | Mapping) else batch


def _single_example(inputs: Any) -> Any:
    """One example as a batch of one."""
    _check_given(inputs)
    if is_array(inputs):
        return as_tensor(inputs).unsqueeze(0)
    return inputs if isinstance(inputs, Mapping) else [inputs]


def _check_given(inputs: Any) -> None:
    if inputs is None:
        raise ValueError("the inputs are None: give an example, a batch or a loader")
