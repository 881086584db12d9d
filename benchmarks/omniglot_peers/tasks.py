"""The tasks and their episodes: the same ones for every row, drawn by the same generator."""

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
"""A rule: the score of each class, from a support and queries."""


class Task(NamedTuple):
    """Classes of an episode, and support drawings of each."""

    way: int
    shot: int

    def __str__(self) -> str:
        return f"{self.way}w{self.shot}s"


USUAL = tuple(Task(way, shot) for way in (5, 20) for shot in (1, 5))
"""The field's four tasks; many-way ones have all upright classes of the test."""


def episodes(
    items: Tensor, task: Task, *, n_episodes: int, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The support [way, shot, ...] and the queries [way, query, ...] of each episode.

    The items are drawings or embeddings, [classes, drawings, ...]; the episodes are those of
    `rarememory.evaluation.support_query_accuracy`.
    """
    generator = Generator().manual_seed(seed)
    for _ in range(n_episodes):
        sizes = {"n_way": task.way, "n_shot": task.shot, "n_query": N_QUERY}
        support, query = support_query_episode(*items.shape[:2], **sizes, generator=generator)
        yield items[support.classes, support.drawings], items[query.classes, query.drawings]


@torch.no_grad()
def rule_accuracy(
    scores: Scores,
    embeddings: Embeddings,
    task: Task,
    *,
    n_episodes: int,
    seed: int = 0,
    bar: Bar = iter,
) -> Accuracy:
    """The accuracy of the class with the highest score, over the episodes of a task."""
    accuracies = []
    drawn = episodes(embeddings, task, n_episodes=n_episodes, seed=seed)
    for _, (support, queries) in zip(bar(range(n_episodes)), drawn, strict=True):
        answers = scores(support, queries.flatten(0, 1)).argmax(1).view(task.way, N_QUERY)
        accuracies.append((answers == torch.arange(task.way).unsqueeze(1)).float().mean())
    return Accuracy.of(torch.stack(accuracies))
