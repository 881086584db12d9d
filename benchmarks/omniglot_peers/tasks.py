"""The tasks and their episodes: every row answers the same ones, drawn by the same generator."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.data import support_query_episode
from rarememory.evaluation import Accuracy, Bar

N_QUERY = 15
"""Queries of each class: with five shots, all of Omniglot's twenty drawings."""

Embeddings = Float[Tensor, "classes drawings dim"]
Scores = Callable[
    [Float[Tensor, "way shot dim"], Float[Tensor, "queries dim"]], Float[Tensor, "queries way"]
]
"""A rule: of a support and of queries, how much each class of the support is the right one."""


class Task(NamedTuple):
    """Classes of an episode, and drawings of each that are shown."""

    way: int
    shot: int

    def __str__(self) -> str:
        return f"{self.way}w{self.shot}s"


USUAL = tuple(Task(way, shot) for way in (5, 20) for shot in (1, 5))
"""The field's four tasks; many-way ones have all upright classes of the test."""


def episodes(
    things: Tensor, task: Task, *, n_episodes: int, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The shown [way, shot, ...] and the asked [way, query, ...] of each episode.

    They are those of `rarememory.evaluation.support_query_accuracy`.

    Args:
        things: drawings or embeddings, [classes, drawings, ...].
        task: ways and shots.
        n_episodes: how many.
        seed: of the episodes.
    """
    generator = Generator().manual_seed(seed)
    for _ in range(n_episodes):
        support, query = support_query_episode(
            *things.shape[:2],
            n_way=task.way,
            n_shot=task.shot,
            n_query=N_QUERY,
            generator=generator,
        )
        yield things[support.classes, support.drawings], things[query.classes, query.drawings]


@torch.no_grad()
def accuracy_of(
    scores: Scores,
    embeddings: Embeddings,
    task: Task,
    *,
    n_episodes: int,
    seed: int = 0,
    bar: Bar = iter,
) -> Accuracy:
    """How often the class with the highest score is the right one, over the episodes of a task."""
    right = []
    drawn = episodes(embeddings, task, n_episodes=n_episodes, seed=seed)
    for _, (shown, asked) in zip(bar(range(n_episodes)), drawn, strict=True):
        answers = scores(shown, asked.flatten(0, 1)).argmax(1).view(task.way, N_QUERY)
        right.append((answers == torch.arange(task.way).unsqueeze(1)).float().mean())
    return Accuracy.of(torch.stack(right))
