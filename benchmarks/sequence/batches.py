"""The order in which a training sees its examples, and when its memory is cleared."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from benchmarks.sequence.task import Examples

CHUNK = 25
"""Batches that are sorted by length together, to reduce padding."""


class Batch(NamedTuple):
    """Attributes:
    rows: of the examples.
    clears: whether the memory is cleared before it.
    ends_epoch: whether it is the last of an epoch.
    """

    rows: Int64[Tensor, " batch"]
    clears: bool
    ends_epoch: bool


def ordered_batches(
    examples: Examples, *, parts: tuple[int, ...], size: int, seed: int
) -> list[Batch]:
    """The batches of all epochs; the memory is cleared before each part of an epoch.

    A part holds all examples of its numbers. So an example is never answered by its own keys of the
    epoch before, but by another example of its number; in a small part that one is recent, and its
    key was made by almost the same weights.

    Args:
        examples: to train on.
        parts: for each epoch, how many parts it has; 1 sees all numbers with one memory.
        size: examples of a batch.
        seed: of the parts and of the order.
    """
    generator = Generator().manual_seed(seed)
    return [
        batch
        for count in parts
        for batch in _epoch(examples, min(count, len(examples.numbers)), size, generator)
    ]


def _epoch(examples: Examples, count: int, size: int, generator: Generator) -> list[Batch]:
    part_of_number = torch.randperm(int(examples.numbers.max()) + 1, generator=generator) % count
    parts = part_of_number[examples.numbers]
    found: list[Batch] = []
    for part in range(count):
        rows = (parts == part).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        batches = _of_similar_length(rows, examples.lengths, size)
        order = torch.randperm(len(batches), generator=generator).tolist()
        found += [Batch(batches[at], at == order[0], False) for at in order]
    return [*found[:-1], found[-1]._replace(ends_epoch=True)]


def _of_similar_length(rows: Tensor, lengths: Tensor, size: int) -> list[Tensor]:
    return [
        some
        for chunk in rows.split(CHUNK * size)
        for some in chunk[lengths[chunk].argsort(stable=True)].split(size)
        if len(some)
    ]
