"""The state of a classifier in a state_dict: its tensors by name, and what is loaded or refused."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from rarememory.base.state import MemoryState
from rarememory.classifier.beside_keys import adopt_buffers, check_buffers
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.guesses import Guesses, adopt_widths
from rarememory.classifier.invariants import book_of, check_book, check_ensembler
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, check_labels
from rarememory.classifier.readers import reader_from_json
from rarememory.classifier.tuned_keys import adopt_untuned, check_untuned, untune
from rarememory.memory import Memory
from rarememory.memory.invariants import check_fits

OLD_NAMES = {
    "weighing": "ensembler.weights",
    "threshold": "ensembler.threshold",
    "host_ids": "ensembler.host_ids",
    "host.": "extractor.",
}
"""Names of tensors, or beginnings of them, until version 0.1; and what they are now."""


def rename_old(tensors: dict[str, Any], prefix: str = "") -> None:
    """Give tensors that have names of version 0.1 their present names, in place."""
    for name in list(tensors):
        for old, new in OLD_NAMES.items():
            whole = name == prefix + old
            if whole or (old.endswith(".") and name.startswith(prefix + old)):
                tensors[prefix + new + name[len(prefix + old) :]] = tensors.pop(name)


def own_tensors(memory: nn.Module, ensembler: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a classifier except its model's, by its name in a state_dict; no copies."""
    own = {f"memory.{name}": tensor for name, tensor in memory.state_dict().items()}
    return own | {f"ensembler.{name}": part for name, part in ensembler.state_dict().items()}


def copy_own_state(_: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Put copies of the tensors of memory and ensembler in place of them, in a state_dict.

    An average of weights that goes through a state_dict writes into it, and finds copies.
    """
    for name, tensor in state.items():
        if name.startswith((f"{prefix}memory.", f"{prefix}ensembler.")):
            state[name] = tensor.clone()


def part_of(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def make_ready(
    memory: Memory,
    ensembler: Ensembler,
    guesses: Guesses,
    state_dict: dict[str, Any],
    prefix: str,
    own: Callable[[], dict[str, Any]],
    unknown: Label,
) -> None:
    """Check the whole of a checkpoint, and let it and the classifier's tensors fit each other.

    Args:
        memory: of the classifier; it gets the buffers and, if it was a guess, the width of the
            checkpoint.
        ensembler: of the classifier.
        guesses: which widths are guesses.
        state_dict: the checkpoint; its tensors get their present names.
        prefix: of their names.
        own: gives the classifier's labels and refs, for a checkpoint without.
        unknown: what no label may be.

    Raises:
        ValueError: what no classifier has, or what does not fit each other.
        RuntimeError: the memory is read-only.
    """
    rename_old(state_dict, prefix)
    adopt_buffers(memory, state_dict, f"{prefix}memory.")
    added = adopt_untuned(memory, state_dict, f"{prefix}memory.")
    try:
        book = _checked_book(memory, ensembler, state_dict, prefix, own)
        if book is not None:
            reader_from_json(book)
            check_labels(LabelBook.from_json(book), unknown)
            adopt_widths(guesses, memory, ensembler.host_ids, state_dict, prefix)
            check_fits(ensembler.state_dict(prefix=f"{prefix}ensembler."), state_dict)
            memory.fit_checkpoint(dict(state_dict), f"{prefix}memory.")
    except (ValueError, RuntimeError):
        if added:
            untune(memory)
        raise


def _checked_book(
    memory: Memory,
    ensembler: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str,
    own: Callable[[], dict[str, Any]],
) -> dict[str, Any] | None:
    """Labels and refs of a checkpoint, as JSON, after all of it was checked.

    What the checkpoint lacks is ours: `own` gives our labels and refs. None if it has no part of a
    classifier but the model.

    Raises:
        ValueError: what no classifier has, or what does not fit each other.
    """
    of_memory = part_of(state_dict, f"{prefix}memory.")
    of_ensembler = part_of(state_dict, f"{prefix}ensembler.")
    has_book = (name := f"{prefix}_extra_state") in state_dict
    if not of_memory and not of_ensembler and not has_book:
        return None
    of_memory = {**memory.state_dict(), **of_memory}
    of_ensembler = {**ensembler.state_dict(), **of_ensembler}
    memory.check_stored(of_memory)
    check_buffers(of_memory)
    check_untuned(of_memory)
    check_ensembler(of_ensembler)
    book: dict[str, Any] = book_of(state_dict[name]) if has_book else own()
    check_book(book, of_memory["values"], of_ensembler["host_ids"])
    return book


def slots_of_larger(
    memory: Memory, state_dict: Mapping[str, Any], prefix: str
) -> Int64[Tensor, " memory_size"] | None:
    """The old slot of each, if a checkpoint's memory was larger; None if no slot has moved."""
    names = [prefix + name for name in MemoryState._fields]
    if not state_dict.keys() >= set(names):
        return None
    state, size = MemoryState(*(state_dict[name] for name in names)), len(memory.values)
    # The youngest slots are kept.
    return memory.kept_slots(state, size) if len(state.values) > size else None


_LEAST_STATE = 1 << 16


def bytes_of(state: dict[str, Any]) -> UInt8[Tensor, " bytes"]:
    """JSON as bytes, which safetensors and checkpoints can hold.

    Spaces fill it up to 64 KiB, or the next power of two: averages of weights go through the
    states of two classifiers side by side, and take tensors of one shape only.
    """
    text = json.dumps(state).encode()
    size = max(_LEAST_STATE, 1 << (len(text) - 1).bit_length())
    return torch.from_numpy(np.frombuffer(text.ljust(size), dtype=np.uint8).copy())
