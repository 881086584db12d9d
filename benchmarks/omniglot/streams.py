"""Lifelong learning: policies and sizes of memory, over streams in two orders."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory import AverageOrReplaceRandom, FirstInFirstOut, MeanMemory, Memory
from rarememory.data import Characters, Stream, alphabet_stream, random_stream
from rarememory.evaluation import Accuracy, Bar, lifelong_accuracy, lifelong_forgetting

SIZES = {"half": 0.5, "one": 1, "two": 2, "eight": 8}
"""Slots of a memory, as a multiple of the classes."""
ORDERS = ("random", "alphabet")
Policy = Callable[[int, int], Memory]
"""What a memory stores: made from key_dim and size."""
POLICIES: dict[str, Policy] = {
    "paper": Memory,
    "fifo": lambda dim, size: Memory(dim, size, update=FirstInFirstOut()),
    "random": lambda dim, size: Memory(dim, size, update=AverageOrReplaceRandom()),
    "mean": MeanMemory,
}


def streamed(
    policy: Policy,
    characters: Characters,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    order: str,
    size: str,
    *,
    seed: int,
    bar: Bar = iter,
) -> tuple[list[Accuracy], Accuracy]:
    """The accuracy by sighting over one stream, and how much of it was forgotten at the end."""
    memory = policy(embeddings.shape[2], round(SIZES[size] * len(characters)))
    stream = drawn_stream(characters, order, seed)
    return (
        lifelong_accuracy(memory, embeddings, stream, bar=bar),
        lifelong_forgetting(memory, embeddings, stream, bar=bar),
    )


def averaged(
    policy: Policy,
    characters: Characters,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    order: str,
    *,
    seeds: range,
    bar: Bar = iter,
) -> list[Accuracy]:
    """Accuracy by sighting, averaged over streams, by a memory of the largest size.

    All streams have the same classes, so the interval is the mean of theirs.
    """
    memory = policy(embeddings.shape[2], round(SIZES["eight"] * len(characters)))
    streams = (drawn_stream(characters, order, seed) for seed in seeds)
    every = [lifelong_accuracy(memory, embeddings, stream, bar=bar) for stream in streams]
    return [Accuracy(*torch.tensor(one).mean(0).tolist()) for one in zip(*every, strict=True)]


def drawn_stream(characters: Characters, order: str, seed: int) -> Stream:
    """All drawings, in a random order or alphabet by alphabet."""
    generator = Generator().manual_seed(seed)
    if order == "random":
        return random_stream(len(characters), characters.drawings, generator=generator)
    return alphabet_stream(characters.names, characters.drawings, generator=generator)
