"""Other ways to add classes to a classifier, each with its source.

Each scores every class from the host's features and logits of the examples and of the queries. The
numbers that a paper leaves open are chosen for each of them in the rehearsal, as for the memory.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from benchmarks.generalised.measured import Accuracies, accuracies


class HostOutputs(NamedTuple):
    """The host's features and logits of drawings, and their classes: old ones first, then new."""

    features: Float[Tensor, "examples dim"]
    logits: Float[Tensor, "examples old"]
    classes: Int64[Tensor, " examples"]


class Task(NamedTuple):
    """Examples of old and new classes to learn from, and queries of both."""

    examples: HostOutputs
    queries: HostOutputs
    head: nn.Linear
    n_classes: int

    @property
    def n_old(self) -> int:
        """How many classes the host knows."""
        return self.head.out_features


Rival = Callable[..., Tensor]


def chosen(rival: Rival, rehearsal: Task, grid: dict[str, Sequence[Any]]) -> dict[str, Any]:
    """The combination of the grid with the highest harmonic mean in the rehearsal."""
    tries = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return max(
        tries, key=lambda numbers: measured(rival(rehearsal, **numbers), rehearsal).harmonic.mean
    )


def measured(scores: Float[Tensor, "queries classes"], task: Task) -> Accuracies:
    """The accuracy of the class with the highest score."""
    return accuracies(scores.argmax(1), task.queries.classes, task.n_old)


def host_alone(task: Task) -> Float[Tensor, "queries classes"]:
    """The host, which never predicts a new class."""
    return _beside(task.queries.logits, task, -torch.inf)


def nearest_class_mean(task: Task) -> Float[Tensor, "queries classes"]:
    """Cosine to the mean feature of each class (Mensink et al. 2013, Rebuffi et al. 2017)."""
    return _unit(task.queries.features) @ class_means(task).T


def imprinted(task: Task, scale: float, bias: float) -> Float[Tensor, "queries classes"]:
    """A new class's weights in the head are its mean feature (Qi et al. 2018).

    The head is as it was trained, for old classes; new rows have the mean length of the old ones,
    times a scale, and a bias.
    """
    weights = class_means(task)[task.n_old :] * task.head.weight.norm(dim=1).mean() * scale
    new = _unit(task.queries.features) @ weights.T * task.queries.features.norm(dim=1, keepdim=True)
    return torch.cat([task.queries.logits, new + bias], 1)


def tip_adapter(
    task: Task, alpha: float, beta: float, bias: float
) -> Float[Tensor, "queries classes"]:
    """logits + alpha sum_i exp(-beta (1 - s_i)) onehot(y_i): a cache (Zhang et al. 2022, eq. 5-6).

    Where that paper has the logits of CLIP for every class, the host has none for the new ones:
    there a constant stands.
    """
    scores = _beside(task.queries.logits, task, bias)
    cached, queries = _unit(task.examples.features), _unit(task.queries.features)
    for some, rows in zip(scores.split(1024), queries.split(1024), strict=True):
        affinity = (-beta * (1 - rows @ cached.T)).exp()
        some.index_add_(1, task.examples.classes, affinity, alpha=alpha)
    return scores


def tuned_head(task: Task, rate: float, epochs: int) -> Float[Tensor, "queries classes"]:
    """The head trained on, over all classes, the rest frozen.

    New rows begin as they are imprinted; in each epoch every class, old or new, is seen equally
    often.
    """
    head = grown(task.head, class_means(task)[task.n_old :])
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=0.01)
    generator = Generator().manual_seed(0)
    features, _, classes = task.examples
    for _ in range(epochs):
        for rows in balanced(classes, generator).split(256):
            loss = nn.functional.cross_entropy(head(features[rows]), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head(task.queries.features).detach()  # type: ignore[no-any-return]


def grown(head: nn.Linear, means: Float[Tensor, "new dim"]) -> nn.Linear:
    """A head with a row more for each new class: its mean, of the mean length of the old rows."""
    larger = nn.Linear(head.in_features, head.out_features + len(means))
    with torch.no_grad():
        larger.weight.copy_(torch.cat([head.weight, means * head.weight.norm(dim=1).mean()]))
        larger.bias.copy_(torch.cat([head.bias, head.bias.mean().expand(len(means))]))
    return larger


def balanced(classes: Int64[Tensor, " examples"], generator: Generator) -> Int64[Tensor, " rows"]:
    """Rows in a random order: each class as often as the largest, on average."""
    counts = classes.bincount()
    weights, count = 1 / counts[classes].float(), int(counts.max()) * len(counts)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def class_means(task: Task) -> Float[Tensor, "classes dim"]:
    """The mean of the unit features of each class, of unit length."""
    sums = task.examples.features.new_zeros(task.n_classes, task.examples.features.shape[1])
    return _unit(sums.index_add_(0, task.examples.classes, _unit(task.examples.features)))


def _beside(logits: Tensor, task: Task, constant: float) -> Tensor:
    """The host's logits, with a constant for each new class."""
    return nn.functional.pad(logits, (0, task.n_classes - task.n_old), value=constant)


def _unit(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=1)


RIVALS: dict[str, tuple[Rival, dict[str, Sequence[Any]]]] = {
    "host": (host_alone, {}),
    "class_mean": (nearest_class_mean, {}),
    "imprinted": (
        imprinted,
        {"scale": (0.5, 1, 2, 4, 8), "bias": (-160, -80, -60, -40, -30, -20, -15, -10, -5, 0, 5)},
    ),
    "tip_adapter": (
        tip_adapter,
        {"alpha": (10, 30, 100, 300), "beta": (10, 20, 40, 80), "bias": (5, 10, 15, 20)},
    ),
    "tuned_head": (tuned_head, {"rate": (3e-4, 3e-3), "epochs": (10, 30)}),
}
"""Rivals that look at features, and what is chosen for each in the rehearsal."""
