"""What a memory of few slots still knows: accuracy against the keys that it holds."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.base.validation import check_count
from rarememory.data.episodes import support_query_episode
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.evaluation.support_query import episode_accuracies
from rarememory.memory import Memory


class Storage(NamedTuple):
    """What `storage_accuracy` found.

    Attributes:
        accuracy: of the queries, over episodes.
        keys: that the memory held when it was asked, as a mean over episodes.

    Example:
        >>> found = Storage(Accuracy(0.985, 0.001), keys=44.0)
        >>> print(f"{found.accuracy} % from {found.keys:.0f} keys")
        98.50 ± 0.10 % from 44 keys
    """

    accuracy: Accuracy
    keys: float


@torch.no_grad()
def storage_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_way: int = 20,
    n_sightings: int = 10,
    n_query: int = 10,
    n_episodes: int = 100,
    seed: int = 0,
    bar: Bar = iter,
) -> Storage:
    """Show every class n_sightings times, then answer n_query drawings of each: by how many keys?

    Every class is shown once before any is shown twice, all with their labels; drawings that the
    memory's policy averages, and those that its size leaves no room for, take no key. The memory is
    cleared for every episode, and is afterwards as it was before. Arguments are as in
    `support_query_accuracy`. (Ramalho and Garnelo 2019, "Adaptive Posterior Learning", section 4.1,
    count the items that their memory stores so.)

    Raises:
        ValueError: a number is less than 1, or there are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(9, 8, size=14).images)
        >>> small, large = (
        ...     storage_accuracy(Memory(196, size), embeddings, n_way=5, n_sightings=4, n_query=4)
        ...     for size in (5, 20)
        ... )
        >>> small.keys
        5.0
        >>> small.keys < large.keys < 20 and small.accuracy.mean < large.accuracy.mean
        True
    """
    check_count("n_episodes", n_episodes)
    generator = Generator().manual_seed(seed)
    episodes = (
        support_query_episode(
            *embeddings.shape[:2],
            n_way=n_way,
            n_shot=n_sightings,
            n_query=n_query,
            generator=generator,
        )
        for _ in bar(range(n_episodes))
    )
    found = [(right, len(memory)) for right in episode_accuracies(memory, embeddings, episodes)]
    right, keys = zip(*found, strict=True)
    return Storage(Accuracy.of(torch.stack(right)), sum(keys) / len(keys))
