"""The rows of the table: each has, for every number of shots, a way to embed and one to answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.omniglot.testing import Read
from benchmarks.omniglot_peers.drawings import Drawings, Images
from benchmarks.omniglot_peers.features import oriented_gradients, pixels
from benchmarks.omniglot_peers.memory import (
    KEY_DIM,
    answered_by_memory,
    drawings_seen,
    trained_under_memory,
)
from benchmarks.omniglot_peers.rules import (
    class_mean,
    k_neighbours,
    matching,
    nearest,
    prototypical,
)
from benchmarks.omniglot_peers.tasks import Embeddings, Scores, Task, accuracy_of
from benchmarks.omniglot_peers.training import Course, PeerTraining, train
from rarememory.backbones import BACKBONES
from rarememory.evaluation import Accuracy, embed
from rarememory.training import Recipe
from rarememory.variants.attention import class_attention

Grid = Mapping[str, Sequence[Any]]

SHOTS = (1, 5)
VALIDATED = 200
"""Episodes of 20 validation classes, whenever something is looked at or chosen."""
TRYING = 5
"""What is tried sees one in so many of the drawings."""
RATES = (1e-3, 2e-3, 4e-3)
PEERS: dict[str, tuple[Scores, Grid]] = {
    "prototypical": (prototypical, {"rate": RATES}),
    # The paper divides by no temperature, and cosines alone hardly tell 60 classes apart.
    "matching": (matching, {"rate": RATES, "temperature": (1.0, 0.1)}),
}
"""What is trained by its own loss: its rule, and what of it is chosen by trying."""
ATTENTIONS = (0.2, 0.4, 0.8)
"""Temperatures of attention within a class, to choose from."""
NEIGHBOURS: Grid = {"n_neighbors": (1, 3, 5), "weights": ("uniform", "distance")}


class Method(NamedTuple):
    """What makes embeddings of drawings, and what answers by them."""

    embed: Callable[[Images], Embeddings]
    answer: Callable[..., Accuracy]


Row = dict[int, Method]
Rows = dict[str, Row]
Said = dict[str, dict[str, Any]]
"""What the result file says of a row beside its figures."""


class Run(NamedTuple):
    """What all rows share."""

    drawings: Drawings
    recipe: Recipe
    backbone: str
    folder: Path


def untrained_rows(run: Run) -> tuple[Rows, Said]:
    """What knows of no character: pixels and oriented gradients, and the nearest of them."""
    answer = partial(accuracy_of, nearest)
    features = {"pixels": pixels, "hog": oriented_gradients}
    return {name: dict.fromkeys(SHOTS, Method(how, answer)) for name, how in features.items()}, {}


def memory_rows(run: Run) -> tuple[Rows, Said]:
    """The memory, and what else may answer by the encoder that was trained under it."""
    training = trained_under_memory(
        run.drawings.train, run.recipe, run.folder, backbone=run.backbone
    )
    frozen = partial(embed, training.averaged.module)
    validation = frozen(run.drawings.validation.images)
    chosen = {shot: _chosen_neighbours(validation, shot) for shot in SHOTS}
    attention = _chosen_attention(validation)
    rows: Rows = {
        "memory": dict.fromkeys(SHOTS, Method(frozen, answered_by_memory)),
        # Of a single drawing there is nothing to attend to.
        "attention": {5: Method(frozen, partial(answered_by_memory, read=_attending(attention)))},
        "class_mean": dict.fromkeys(SHOTS, Method(frozen, partial(accuracy_of, class_mean))),
        "k_neighbours": {
            shot: Method(frozen, partial(accuracy_of, partial(k_neighbours, **numbers)))
            for shot, numbers in chosen.items()
        },
    }
    seen = {"drawings": drawings_seen(run.recipe), "seconds": round(training.seconds)}
    return rows, {
        "memory": {"recipe": repr(run.recipe), **seen},
        "attention": {"chosen": attention},
        "k_neighbours": {"chosen": chosen},
    }


def peer_rows(run: Run) -> tuple[Rows, Said]:
    """What is trained by its own loss, for every number of shots, on as many drawings."""
    rows: Rows = {}
    said: Said = {}
    for name, (rule, grid) in PEERS.items():
        tried = [(_tried(run, name, rule, numbers), numbers) for numbers in _combinations(grid)]
        best = max(tried, key=lambda one: one[0])[1]
        said[name] = {"chosen": best, "tried": tried}
        rows[name] = {}
        for shot in SHOTS:
            course = _course(run, rule, best, shot, drawings_seen(run.recipe))
            training = _trained(run, f"{name}, {shot}-shot", course)
            encoder = training.averaged.module
            rows[name][shot] = Method(partial(embed, encoder), partial(accuracy_of, course.scores))
            said[name][f"{shot}shot"] = {
                "drawings": course.steps * course.drawings_a_step,
                "seconds": round(training.seconds),
                "validation_by_drawings": training.curve,
            }
    return rows, said


def _combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _chosen_neighbours(validation: Embeddings, shot: int) -> dict[str, Any]:
    """Of as many neighbours as there are right ones, or fewer."""
    return max(
        (numbers for numbers in _combinations(NEIGHBOURS) if numbers["n_neighbors"] <= shot),
        key=lambda numbers: _validated(partial(k_neighbours, **numbers), validation, shot),
    )


def _attending(temperature: float) -> Read:
    return Read(attention=partial(class_attention, temperature=temperature))


def _chosen_attention(validation: Embeddings) -> float:
    def right(temperature: float) -> float:
        ask = partial(answered_by_memory, n_episodes=VALIDATED, read=_attending(temperature))
        return ask(validation, Task(20, 5)).mean

    return max(ATTENTIONS, key=right)


def _tried(run: Run, name: str, rule: Scores, numbers: Mapping[str, Any]) -> float:
    """The validation accuracy of a short training with these numbers."""
    course = _course(run, rule, numbers, 1, drawings_seen(run.recipe) // TRYING)
    said = ", ".join(f"{what} {number}" for what, number in numbers.items())
    return _trained(run, f"trying {name} with {said}", course).curve[-1][1]


def _course(run: Run, rule: Scores, numbers: Mapping[str, Any], shot: int, drawings: int) -> Course:
    rest = {what: number for what, number in numbers.items() if what != "rate"}
    return Course(partial(rule, **rest), shot, numbers["rate"], drawings)


def _trained(run: Run, name: str, course: Course) -> PeerTraining:
    def validate(encoder: nn.Module) -> float:
        embeddings = embed(encoder, run.drawings.validation.images)
        return 100 * _validated(course.scores, embeddings, course.shot)

    torch.manual_seed(run.recipe.seed)
    encoder = BACKBONES[run.backbone](KEY_DIM).to(memory_format=torch.channels_last)
    training = PeerTraining(encoder, run.drawings.train.images, course, run.recipe)
    train(training, name, validate, run.folder)
    return training


def _validated(scores: Scores, embeddings: Embeddings, shot: int) -> float:
    return accuracy_of(scores, embeddings, Task(20, shot), n_episodes=VALIDATED).mean
