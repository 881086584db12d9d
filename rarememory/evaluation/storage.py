"""Accuracy against the number of keys that a memory holds."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.evaluation.support_query import episode_accuracies, random_episodes
from rarememory.memory import Memory


class Storage(NamedTuple):
    """The result of `storage_accuracy`.

    Attributes:
        accuracy: of the queries, over episodes.
        keys: how many the memory held, mean over episodes.

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
    """Accuracy on n_query drawings of each class, after n_sightings of it, and the keys in use.

    This is `support_query_accuracy`, whose arguments it has, with the number of keys: a drawing
    takes none if the memory's policy averages it, or if there is no slot left for it. (Ramalho and
    Garnelo 2019, "Adaptive Posterior Learning", section 4.1, count stored items so.)

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
    numbers = {"n_way": n_way, "n_shot": n_sightings, "n_query": n_query}
    episodes = random_episodes(embeddings, n_episodes, seed, bar, **numbers)
    found = episode_accuracies(memory, embeddings, episodes)
    accuracies, keys = zip(*((accuracy, len(memory)) for accuracy in found), strict=True)
    return Storage(Accuracy.of(torch.stack(accuracies)), sum(keys) / len(keys))
