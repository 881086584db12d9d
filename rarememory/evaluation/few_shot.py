"""The paper's protocol and the field's, for every number of ways and shots."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.evaluation.sighting import sighting_accuracy
from rarememory.evaluation.support_query import support_query_accuracy
from rarememory.memory import Memory
from rarememory.memory.updates import FirstInFirstOut
from rarememory.variants.attention import ClassAttention

SIGHTINGS = 11
"""Sightings of a class in an episode, unless the number of shots needs more."""


class FewShotAccuracies(NamedTuple):
    """The result of `few_shot_accuracies`.

    Attributes:
        sighting: by n_way, the accuracy at every sighting; `sighting[20][1]` is 20-way 1-shot.
        support: by (n_way, n_shot).

    Example:
        >>> unseen, once = Accuracy(0.0, 0.0), Accuracy(0.9, 0.02)
        >>> support = {(5, 1): Accuracy(0.93, 0.01)}
        >>> found = FewShotAccuracies(sighting={5: [unseen, once]}, support=support)
        >>> print("5-way 1-shot:", found.sighting[5][1], "or", found.support[5, 1])
        5-way 1-shot: 90.00 ± 2.00 or 93.00 ± 1.00
    """

    sighting: dict[int, list[Accuracy]]
    support: dict[tuple[int, int], Accuracy]


def few_shot_accuracies(
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    ways: Sequence[int] = (5, 20),
    shots: Sequence[int] = (1, 5),
    n_episodes: int = 1000,
    n_sharing: int = 1,
    attention: ClassAttention | None = None,
    seed: int = 0,
    bar: Callable[[str, str], Bar] = lambda name, unit: iter,
) -> FewShotAccuracies:
    """Both protocols for every n_way and n_shot, each with a memory that never overflows.

    Args:
        embeddings: of every drawing of the classes to draw episodes from.
        ways: each n_way, the number of classes of an episode.
        shots: each n_shot, how often a class was seen before it is a query.
        n_episodes: at least 2, for an interval.
        n_sharing: as in `sighting_accuracy`.
        attention: as in `support_query_accuracy`; the memory of a support then keeps every drawing.
        seed: of the episodes.
        bar: called with a name and a unit, returns what shows progress.

    Raises:
        ValueError: there are too few classes or drawings, or fewer than 2 episodes.

    Example:
        >>> import torch
        >>> from rarememory.data import draw_glyphs
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(9, 16, size=14).images)
        >>> found = few_shot_accuracies(embeddings, ways=[2, 5], shots=[1], n_episodes=2)
        >>> list(found.sighting), list(found.support)
        ([2, 5], [(2, 1), (5, 1)])
        >>> found.sighting[5][0].mean < found.sighting[5][1].mean  # unseen, then 1-shot
        True
    """
    if n_episodes < 2:
        raise ValueError(f"n_episodes is {n_episodes}: an interval needs at least 2")
    found = FewShotAccuracies({}, {})
    run: dict[str, Any] = {"n_episodes": n_episodes, "seed": seed}
    key_dim, n_sightings = embeddings.shape[2], max(SIGHTINGS, *(shot + 1 for shot in shots))
    update = None if attention is None else FirstInFirstOut()
    for way in ways:
        found.sighting[way] = sighting_accuracy(
            Memory(key_dim, way * n_sharing * n_sightings),
            embeddings,
            n_way=way,
            n_sightings=n_sightings,
            n_sharing=n_sharing,
            **run,
            bar=bar(f"{way}-way by sighting", "group" if n_sharing > 1 else "episode"),
        )
        for shot in shots:
            found.support[way, shot] = support_query_accuracy(
                Memory(key_dim, way * shot, update=update),
                embeddings,
                n_way=way,
                n_shot=shot,
                attention=attention,
                **run,
                bar=bar(f"{way}-way {shot}-shot", "episode"),
            )
    return found
