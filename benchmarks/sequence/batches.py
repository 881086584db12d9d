"""The order in which a training sees its examples, and when its memory is cleared."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from benchmarks.sequence.task import Examples

CHUNK = 25
"""Batches that are sorted by length together, to reduce padding."""


class Batch(NamedTuple):
    """Rows of the examples; if the memory is cleared before them; if they are an epoch's last."""

    rows: Int64[Tensor, " batch"]
    clears: bool
    ends_epoch: bool


def ordered_batches(
    examples: Examples, *, parts: tuple[int, ...], size: int, seed: int
) -> list[Batch]:
    """The batches of all epochs, of `size` examples; an epoch has so many of `parts`.

    The memory is cleared before each part; 1 sees all numbers with one memory. A part holds all
    examples of its numbers. So an example is never answered by its own keys of the epoch before,
    but by another example of its number; in a small part that one is recent, and its key was made
    by almost the same weights. The seed is that of the parts and of the order.
    """
    generator = Generator().manual_seed(seed)
    counts = [min(count, len(examples.numbers)) for count in parts]
    return [batch for count in counts for batch in _epoch(examples, count, size, generator)]


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
