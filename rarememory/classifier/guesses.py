"""Widths that are guessed from a model's layers, and corrected by its first batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.label_book import LabelBook
from rarememory.memory import Memory
from rarememory.memory.slots import copy_into


class Guesses(NamedTuple):
    """Which widths of a classifier are guesses, because nobody has given them.

    Attributes:
        key_dim: that of the features, and so of the memory's keys.
        n_host: the number of the host's classes.
    """

    key_dim: bool = False
    n_host: bool = False


def corrected(
    guesses: Guesses,
    memory: Memory,
    host_ids: Tensor,
    book: LabelBook,
    outputs: tuple[Tensor, Tensor | None],
) -> LabelBook:
    """The label book for a model with these outputs.

    The memory and the host's classes are corrected in place. What has been written, named or
    forgotten already stays as it is.

    Args:
        guesses: what may be corrected.
        memory: of the classifier.
        host_ids: the integer of each of the host's classes.
        book: of the classifier.
        outputs: features and logits of a batch.
    """
    features, logits = outputs
    if guesses.key_dim and not len(memory):
        set_width(memory, features.shape[1])
    untouched = list(book) == list(range(len(host_ids))) and not (host_ids == EMPTY).any()
    if logits is None or not guesses.n_host or not untouched or logits.shape[1] == len(host_ids):
        return book
    classes = torch.arange(logits.shape[1])
    copy_into({"host_ids": host_ids}, {"host_ids": classes})
    return LabelBook(classes.tolist())


def adopt_widths(
    guesses: Guesses, memory: Memory, host_ids: Tensor, state_dict: dict[str, Any], prefix: str
) -> None:
    """Give memory and host classes the widths of a checkpoint, in place of guesses."""
    keys = state_dict.get(f"{prefix}memory.keys")
    if guesses.key_dim and keys is not None:
        set_width(memory, keys.shape[1])
    ids = state_dict.get(f"{prefix}ensembler.host_ids")
    if guesses.n_host and ids is not None:
        copy_into({"host_ids": host_ids}, {"host_ids": ids})


@contextmanager
def width_of(other: Memory, memory: Memory, guesses: Guesses) -> Iterator[None]:
    """Give the keys of an empty memory the width of another's, if theirs is a guess.

    If what follows in the block is refused, they are as before.
    """
    width = memory.keys.shape[1]
    with memory.lock.writing():
        guessed = guesses.key_dim and len(other) > 0 and not len(memory)
        if guessed:
            set_width(memory, other.keys.shape[1])
    try:
        yield
    except BaseException:
        with memory.lock.writing():
            if guessed and not len(memory):
                set_width(memory, width)
        raise


def set_width(memory: Memory, key_dim: int) -> None:
    """Give the keys of an empty memory another width, in place."""
    if memory.keys.shape[1] != key_dim:
        keys = memory.keys.new_zeros(len(memory.keys), key_dim)
        copy_into({"keys": memory.keys}, {"keys": keys})
