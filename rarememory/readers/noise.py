"""Random noise of temporal encoding: empty memories among the sentences of a story."""

import math

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from rarememory.base.validation import check_count, check_finite


def noisy_times(
    lengths: Int64[Tensor, " stories"], memory_size: int, rate: float, generator: Generator
) -> Int64[Tensor, "stories slots"]:
    """How long ago each sentence counts as said, if empty memories are put among them.

    Up to `rate` of a story's length of them, at random places, as in training by Sukhbaatar et al.
    2015, section 4.1. Column i is of the sentence that i others followed. No time is greater than
    memory_size - 1.

    Raises:
        ValueError: `memory_size` is less than 1, or `rate` is negative or not finite.

    Example:
        >>> noisy_times(torch.tensor([3]), 4, rate=0.0, generator=Generator())
        tensor([[0, 1, 2, 3]])
    """
    check_count("memory_size", memory_size)
    check_finite("rate", rate)
    places = memory_size + math.ceil(memory_size * rate)
    empty = torch.rand(len(lengths), generator=generator) * ((lengths * rate).ceil() + 1)
    drawn = torch.rand(len(lengths), places, generator=generator)
    # Sentences and empty memories share this many places; the sentences take some of them.
    used = (lengths + empty.long()).unsqueeze(1)
    drawn = drawn.masked_fill(torch.arange(places) >= used, 2.0)
    last = drawn.sort(dim=1).values.gather(1, lengths.unsqueeze(1) - 1)
    free = (drawn > last).to(torch.uint8)
    return free.sort(dim=1, stable=True).indices[:, :memory_size].clamp(max=memory_size - 1)
