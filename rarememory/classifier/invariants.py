"""What holds of every stored classifier, checked before any of it is taken.

A file, a checkpoint and a repository of the Hub come by here; the tensors of the memory go through
`rarememory.memory.invariants` too.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rarememory.base.state import EMPTY, MemoryState
from rarememory.base.validation import check_count
from rarememory.classifier.outputs import OWN_FUNCTION
from rarememory.memory import Memory
from rarememory.memory.invariants import is_dense

LARGEST_EXAMPLE = 2**26
"""Numbers that the made-up input of a fingerprint may have: so much memory a file may ask for."""
MOST_DIMENSIONS = 64
"""Of a tensor, to torch."""
DEEPEST = 20
"""Tuples in tuples, as labels may be."""
MOST_LAYERS = 64
"""In each other, of a model."""


def check_empty(memory: Memory) -> None:
    """Refuse a memory that no new classifier can have.

    Raises:
        ValueError: not all of its slots are here, or it holds something.
    """
    if memory.memory_size != len(memory.keys):
        raise ValueError("a classifier needs all slots of its memory, which may not be sharded")
    if len(memory):
        raise ValueError(
            f"the memory holds {len(memory)} examples already, whose labels and refs are "
            "not known here: give an empty one, and learn()"
        )


def check_settings(stored: Any) -> None:
    """Refuse settings of a memory that no file has; what `Memory` itself refuses is left to it.

    Args:
        stored: as `memory_settings` gives them, in JSON, and whatever else is beside them.

    Raises:
        ValueError: a part is missing, or of another kind.

    Example:
        >>> check_settings({"memory": 7})
        Traceback (most recent call last):
            ...
        ValueError: its header must have an object as memory, not 7
    """
    memory = _part(stored, "memory", dict, "an object")
    for name in ("key_dim", "memory_size", "k"):
        _part(memory, name, int, "an integer")
    for name in ("margin", "temperature"):
        _part(memory, name, int | float, "a number")
    for name in (
        *("projection", "subtract_margin", "validate", "half_precision_copy", "count_usage"),
    ):
        if name in memory:
            _part(memory, name, bool, "true or false")
    _check_policy(_part(stored, "update", dict, "an object"))
    if "memory_class" in stored:
        _part(stored, "memory_class", str, "a text")


def _check_policy(stored: dict[str, Any], depth: int = 0) -> None:
    """A policy, and those inside it."""
    _part(stored, "name", str, "a text")
    for part in _part(stored, "fields", dict, "an object").values():
        if depth > 2:
            raise ValueError("its header has a policy in a policy, and so on")
        if isinstance(part, dict):
            _check_policy(part, depth + 1)


def check_header(header: Any) -> None:
    """Refuse a header of a classifier that no `save` writes.

    Raises:
        ValueError: a part is missing, or of another kind.
    """
    host = _part(header, "host", dict, "an object")
    at = _part(host, "at", str | None, "a text or nothing")
    names = at.split(".") if at else []
    # Torch finds no layer that has the name of something else that every module has.
    if len(names) > MOST_LAYERS or any(not name or hasattr(nn.Module(), name) for name in names):
        raise ValueError(f"its header must name a layer, not {at[:40]!r}")
    _part(host, "answers", bool, "true or false")
    if "guessed" in host:
        _part(host, "guessed", bool, "true or false")
    if not isinstance(host.get("output"), str | int | None) and host["output"] != OWN_FUNCTION:
        raise ValueError("its header must name the output of the model by a text or a number")
    check_count("batch_size", _part(header, "batch_size", int, "an integer"))
    _part(header, "book", dict, "an object")
    _check_label(_part(header, "unknown", object, "a label"), "the label for what is unknown")
    guesses = header.get("guesses", [])
    if not isinstance(guesses, list) or len(guesses) > 2 or {*map(type, guesses)} - {bool}:
        raise ValueError("its header must have two guesses, true or false")
    _check_form(header.get("example"))
    if "text" in header:
        _part(header, "text", bool, "true or false")


def check_complete(of_memory: Mapping[str, Tensor], of_ensembler: Mapping[str, Tensor]) -> None:
    """Refuse a file without all tensors that every classifier has.

    Raises:
        ValueError: one is missing, or the host's classes are no row.
    """
    for part, stored, names in (
        ("memory", of_memory, MemoryState._fields),
        ("ensembler", of_ensembler, ("weights", "threshold", "host_ids")),
    ):
        for name in names:
            if name not in stored:
                raise ValueError(f"it has nothing for {part}.{name}")
    if of_ensembler["host_ids"].dim() != 1:
        raise ValueError("its classes of the host must be a row of int64")


def check_fingerprint(features: Tensor | None) -> None:
    """Refuse features of a made-up input that are none.

    Raises:
        ValueError: they are no row of finite floats.
    """
    if features is not None and not (
        features.is_floating_point() and features.dim() == 1 and features.isfinite().all()
    ):
        raise ValueError("its fingerprint must be a row of finite floats")


def check_book(book: Any, values: Tensor, host_ids: Tensor) -> None:
    """Refuse labels, refs and remarks that do not fit the memory's values and the host's classes.

    Every value and every class of the host has a label, every label a number of its own, and every
    ref is of a slot.

    Args:
        book: as `MemoryClassifier` writes it, in JSON.
        values: of the memory.
        host_ids: the integer of each of the host's classes.

    Raises:
        ValueError: a part is missing, of another kind, or does not fit.
    """
    names = _part(book, "names", dict, "an object")
    following = _part(names, "next", int, "an integer")
    labels = _pairs(names, "labels")
    refs = _pairs(book, "refs")
    numbers = [number for number, _ in labels]
    if not all(_is_below(number, following) for number in numbers) or following >= 2**62:
        raise ValueError(f"its labels must have numbers from 0 to {following - 1}")
    for _, label in labels:
        _check_label(label, "a label")
    # JSON, which tells 1, 1.0 and true apart as labels do.
    if not len({*numbers}) == len({json.dumps(label) for _, label in labels}) == len(labels):
        raise ValueError("two of its labels are the same, or have the same number")
    slots = [slot for slot, _ in refs]
    if not all(_is_below(slot, len(values)) for slot in slots) or len({*slots}) < len(slots):
        raise ValueError(f"its refs must be of different slots from 0 to {len(values) - 1}")
    for _, some in refs:
        if not isinstance(some, list):
            raise ValueError("its refs of a slot must be a list")
        for ref in some:
            _check_label(ref, "a ref")
    _check_named(numbers, values, host_ids)
    dims = _part(book, "example_dims", int | None, "an integer or nothing")
    if dims is not None and not 0 <= dims < MOST_DIMENSIONS:
        raise ValueError(f"its examples cannot have {dims} dimensions")
    about = _part(book, "about", dict, "an object")
    if not all(isinstance(text, str) for text in about.values()):
        raise ValueError("its remarks must be texts")
    if "reader" in book:
        _part(book, "reader", str, "a text")
    protected = book.get("protected", [])
    if not isinstance(protected, list) or not all(_is_below(n, following) for n in protected):
        raise ValueError(f"its protected classes must have numbers from 0 to {following - 1}")
    if "reader_settings" in book:
        _part(book, "reader_settings", dict, "an object")


def check_ensembler(stored: Mapping[str, Tensor]) -> None:
    """Refuse weights, a threshold and classes of the host that no classifier has.

    Args:
        stored: `weights`, `threshold` and `host_ids`.

    Raises:
        ValueError: what they must be.

    Example:
        >>> check_ensembler(
        ...     {
        ...         "weights": torch.tensor([0.1, 0.8, 1.0, torch.nan]),
        ...         "threshold": torch.tensor(0.0),
        ...         "host_ids": torch.arange(2),
        ...     }
        ... )
        Traceback (most recent call last):
            ...
        ValueError: the temperature of its weights must be positive, and all four numbers
    """
    weights, threshold, host_ids = (stored[name] for name in ("weights", "threshold", "host_ids"))
    floats = is_dense(weights) and is_dense(threshold)
    floats = floats and weights.is_floating_point() and threshold.is_floating_point()
    if not floats or weights.shape != (4,) or threshold.shape != ():
        raise ValueError("its weights must be four floats, and its threshold one")
    if not is_dense(host_ids) or host_ids.dtype != torch.int64 or host_ids.dim() != 1:
        raise ValueError("its classes of the host must be a row of int64")
    if host_ids.is_meta or weights.is_meta or threshold.is_meta:
        return
    temperature, host_score, *others = weights.tolist()
    # An infinite score of the host stands for the one that the reader finds.
    finite = all(map(math.isfinite, (temperature, *others))) and host_score > -math.inf
    if not finite or temperature <= 0:
        raise ValueError("the temperature of its weights must be positive, and all four numbers")
    if threshold.isnan():
        raise ValueError("its threshold must be a number, not NaN")
    own = host_ids[host_ids != EMPTY]
    if (own < 0).any() or len(own.unique()) < len(own):
        raise ValueError("its classes of the host must have different numbers of at least 0")


def book_of(state: Any) -> Any:
    """The JSON in what `MemoryClassifier.get_extra_state` returned.

    Raises:
        ValueError: it is none.
    """
    if not is_dense(state) or state.is_meta or state.dtype != torch.uint8 or state.dim() != 1:
        raise ValueError("its labels must be a row of bytes")
    try:
        return json.loads(state.cpu().numpy().tobytes())
    except RecursionError:
        raise ValueError("its labels are nested too deep") from None
    except ValueError as error:
        raise ValueError(f"its labels are no JSON ({error})") from None


def _check_named(numbers: list[int], values: Tensor, host_ids: Tensor) -> None:
    """Every value and every class of the host must have a label."""
    if values.is_meta or host_ids.is_meta:
        return
    known = torch.tensor([EMPTY, *numbers], device=values.device)
    nameless = values[~torch.isin(values, known)].unique().tolist()
    if nameless:
        raise ValueError(f"its memory has the values {nameless[:8]}, which have no label")
    nameless = host_ids[~torch.isin(host_ids, known.to(host_ids.device))].unique().tolist()
    if nameless:
        raise ValueError(f"its host has the classes {nameless[:8]}, which have no label")


def _check_label(label: Any, what: str, depth: int = 0) -> None:
    if isinstance(label, dict):
        parts = label.get("tuple")
        if label.keys() != {"tuple"} or not isinstance(parts, list) or depth > DEEPEST:
            raise ValueError(f"{what} must be a text, a number, nothing, or a tuple of these")
        for part in parts:
            _check_label(part, what, depth + 1)
    elif isinstance(label, list) or label != label:
        raise ValueError(f"{what} must be a text, a number, nothing, or a tuple of these")


def _check_form(form: Any) -> None:
    """The form of the made-up input that a fingerprint is of."""
    if form is None:
        return
    if not isinstance(form, dict):
        raise ValueError("the form of its examples must be an object")
    for part in form.values():
        shape, dtype, number = part if isinstance(part, list) and len(part) == 3 else (0, 0, 0)
        if not isinstance(shape, list) or not all(_is_below(size, 2**31) for size in shape):
            raise ValueError("the form of its examples must have shapes, dtypes and numbers")
        if math.prod(shape) > LARGEST_EXAMPLE:
            raise ValueError(
                f"its examples have the shape {shape}, and at most {LARGEST_EXAMPLE:,} numbers are "
                "taken"
            )
        if not isinstance(dtype, str) or not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"its examples have the dtype {dtype!r}, which is none of torch's")
        if number is not None and not _is_below(number, 2):
            raise ValueError(f"its examples have the integer {number!r}, which is not 0 or 1")


def _part(stored: Any, name: str, kind: Any, text: str) -> Any:
    if not isinstance(stored, dict):
        raise ValueError("its header must be JSON objects in each other")
    if name not in stored:
        raise ValueError(f"its header has no {name}")
    part = stored[name]
    # To Python true is an integer.
    if not isinstance(part, kind) or (kind is not bool and kind is not object and part is True):
        raise ValueError(f"its header must have {text} as {name}, not {str(part)[:40]}")
    return part


def _pairs(stored: dict[str, Any], name: str) -> list[tuple[Any, Any]]:
    pairs = _part(stored, name, list, "a list")
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"its header must have pairs as {name}")
    return [(first, second) for first, second in pairs]


def _is_below(number: Any, limit: int) -> bool:
    return type(number) is int and 0 <= number < limit
