"""In which order a training sees its examples, and when its memory begins anew."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from benchmarks.sequence.task import Examples

CHUNK = 25
"""Batches that are sorted by length together, so that little is padded."""


class Lesson(NamedTuple):
    """One batch.

    Attributes:
        rows: of the examples.
        starts: whether the memory is cleared before it.
        ends_epoch: whether every example was seen once more with it.
    """

    rows: Int64[Tensor, " batch"]
    starts: bool
    ends_epoch: bool


def lessons(examples: Examples, *, parts: tuple[int, ...], batch: int, seed: int) -> list[Lesson]:
    """An epoch for each of `parts`, cut into so many parts, before each of which memory is cleared.

    A part holds all examples of its numbers. So what answers a string is never that string, as it
    was an epoch ago, but another with its number, and in a small part one of a moment ago: keys age
    fast while weights change fast.

    Args:
        parts: a number for each epoch; 1 sees all numbers under one memory.
        batch: examples of a lesson.
        seed: of what is in which part, and of the order.
    """
    generator = Generator().manual_seed(seed)
    return [
        lesson
        for count in parts
        for lesson in _epoch(examples, min(count, len(examples.numbers)), batch, generator)
    ]


def _epoch(examples: Examples, count: int, batch: int, generator: Generator) -> list[Lesson]:
    part_of_number = torch.randperm(int(examples.numbers.max()) + 1, generator=generator) % count
    parts = part_of_number[examples.numbers]
    found: list[Lesson] = []
    for part in range(count):
        rows = (parts == part).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        batches = _of_like_length(rows, examples.lengths, batch)
        order = torch.randperm(len(batches), generator=generator).tolist()
        found += [Lesson(batches[at], at == order[0], False) for at in order]
    return [*found[:-1], found[-1]._replace(ends_epoch=True)]


def _of_like_length(rows: Tensor, lengths: Tensor, batch: int) -> list[Tensor]:
    return [
        some
        for chunk in rows.split(CHUNK * batch)
        for some in chunk[lengths[chunk].argsort(stable=True)].split(batch)
        if len(some)
    ]
