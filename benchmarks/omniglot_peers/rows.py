"""The rows of the table: for every number of shots, how drawings are embedded and classified."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.model_selection import ParameterGrid

from benchmarks.omniglot.testing import Read
from benchmarks.omniglot_peers.drawings import Drawings, Images
from benchmarks.omniglot_peers.features import oriented_gradients, pixels
from benchmarks.omniglot_peers.memory import KEY_DIM, memory_accuracy, trained_under_memory
from benchmarks.omniglot_peers.rules import (
    class_mean,
    k_neighbours,
    matching,
    nearest,
    prototypical,
)
from benchmarks.omniglot_peers.tasks import Embeddings, Scores, Task, rule_accuracy
from benchmarks.omniglot_peers.training import PeerTraining, Setting
from benchmarks.resumable import evenly_spaced
from rarememory.backbones import BACKBONES
from rarememory.evaluation import Accuracy, embed
from rarememory.training import Recipe
from rarememory.variants.attention import class_attention

Grid = Mapping[str, Sequence[Any]]

SHOTS = (1, 5)
VALIDATED = 200
"""Episodes of 20 validation classes, whenever something is evaluated or chosen."""
TRIAL_PART = 5
"""A trial training sees one in so many of the drawings."""
EVALUATIONS = 5
"""Points on the validation curve of a training."""
RATES = (1e-3, 2e-3, 4e-3)
PEERS: dict[str, tuple[Scores, Grid]] = {
    "prototypical": (prototypical, {"rate": RATES}),
    # The paper has no temperature, but cosines alone hardly separate 60 classes.
    "matching": (matching, {"rate": RATES, "temperature": (1.0, 0.1)}),
}
"""Methods with a loss of their own: the rule, and the grid of what is chosen by trial trainings."""
ATTENTIONS = (0.2, 0.4, 0.8)
"""Temperatures of attention within a class, to choose from."""
NEIGHBOURS: Grid = {"n_neighbors": (1, 3, 5), "weights": ("uniform", "distance")}


class Method(NamedTuple):
    """How drawings are embedded, and how well embeddings are classified."""

    embed: Callable[[Images], Embeddings]
    accuracy: Callable[..., Accuracy]


Row = dict[int, Method]
Rows = dict[str, Row]
Details = dict[str, dict[str, Any]]
"""What the result file holds of a row beside its figures."""


class Setup(NamedTuple):
    """What all rows share."""

    drawings: Drawings
    recipe: Recipe
    backbone: str
    folder: Path

    @property
    def budget(self) -> int:
        """How many drawings the memory's training sees, and so each other training."""
        return self.recipe.steps * self.recipe.n_way * self.recipe.n_sightings


def untrained_rows(setup: Setup) -> tuple[Rows, Details]:
    """The nearest example by pixels, and by histograms of oriented gradients."""
    accuracy = partial(rule_accuracy, nearest)
    features = {"pixels": pixels, "hog": oriented_gradients}
    rows = {name: dict.fromkeys(SHOTS, Method(how, accuracy)) for name, how in features.items()}
    return rows, {}


def memory_rows(setup: Setup) -> tuple[Rows, Details]:
    """The memory, and other classifiers over the encoder that was trained under it."""
    training = trained_under_memory(
        setup.drawings.train, setup.recipe, setup.folder, backbone=setup.backbone
    )
    frozen = partial(embed, training.averaged.module)
    validation = frozen(setup.drawings.validation.images)
    chosen = {shot: _chosen_neighbours(validation, shot) for shot in SHOTS}
    temperature = _chosen_temperature(validation)
    attention = partial(memory_accuracy, read=_attention(temperature))
    rows: Rows = {
        "memory": dict.fromkeys(SHOTS, Method(frozen, memory_accuracy)),
        # With one example per class attention is the nearest key.
        "attention": {5: Method(frozen, attention)},
        "class_mean": dict.fromkeys(SHOTS, Method(frozen, partial(rule_accuracy, class_mean))),
        "k_neighbours": {
            shot: Method(frozen, partial(rule_accuracy, partial(k_neighbours, **numbers)))
            for shot, numbers in chosen.items()
        },
    }
    seen = {"drawings": setup.budget, "seconds": round(training.seconds)}
    return rows, {
        "memory": {"recipe": repr(setup.recipe), **seen},
        "attention": {"chosen": temperature},
        "k_neighbours": {"chosen": chosen},
    }


def peer_rows(setup: Setup) -> tuple[Rows, Details]:
    """Methods with a loss of their own, trained for each number of shots on as many drawings."""
    rows: Rows = {}
    details: Details = {}
    for name, (rule, grid) in PEERS.items():
        trials = []
        for numbers in ParameterGrid(dict(grid)):
            label = ", ".join(f"{what} {number}" for what, number in numbers.items())
            trial = _setting(rule, numbers, 1, setup.budget // TRIAL_PART)
            trained = _trained(setup, f"trying {name} with {label}", trial)
            trials.append((trained.curve[-1][1], numbers))
        best = max(trials, key=lambda one: one[0])[1]
        details[name] = {"chosen": best, "tried": trials}
        rows[name] = {}
        for shot in SHOTS:
            setting = _setting(rule, best, shot, setup.budget)
            training = _trained(setup, f"{name}, {shot}-shot", setting)
            encoder = training.averaged.module
            accuracy = partial(rule_accuracy, setting.scores)
            rows[name][shot] = Method(partial(embed, encoder), accuracy)
            details[name][f"{shot}shot"] = {
                "drawings": setting.steps * setting.drawings_per_step,
                "seconds": round(training.seconds),
                "validation_by_drawings": training.curve,
            }
    return rows, details


ROWS = (untrained_rows, memory_rows, peer_rows)


def _chosen_neighbours(validation: Embeddings, shot: int) -> dict[str, Any]:
    """At most as many neighbours as a class has examples."""
    return max(
        (numbers for numbers in ParameterGrid(dict(NEIGHBOURS)) if numbers["n_neighbors"] <= shot),
        key=lambda numbers: _validated(partial(k_neighbours, **numbers), validation, shot),
    )


def _attention(temperature: float) -> Read:
    return Read(attention=partial(class_attention, temperature=temperature))


def _chosen_temperature(validation: Embeddings) -> float:
    def accuracy(temperature: float) -> float:
        read = _attention(temperature)
        return memory_accuracy(validation, Task(20, 5), n_episodes=VALIDATED, read=read).mean

    return max(ATTENTIONS, key=accuracy)


def _setting(rule: Scores, numbers: Mapping[str, Any], shot: int, drawings: int) -> Setting:
    rest = {what: number for what, number in numbers.items() if what != "rate"}
    return Setting(partial(rule, **rest), shot, numbers["rate"], drawings)


def _trained(setup: Setup, name: str, setting: Setting) -> PeerTraining:
    torch.manual_seed(setup.recipe.seed)
    encoder = BACKBONES[setup.backbone](KEY_DIM).to(memory_format=torch.channels_last)
    training = PeerTraining(encoder, setup.drawings.train.images, setting, setup.recipe)

    def evaluate() -> tuple[int, float]:
        embeddings = embed(training.averaged.module, setup.drawings.validation.images)
        seen = training.step * setting.drawings_per_step
        return seen, 100 * _validated(setting.scores, embeddings, setting.shot)

    training.train(
        setup.folder / f"peer_{training.digest}.pt",
        name,
        every=50,
        evaluate=evaluate,
        evaluate_at=evenly_spaced(training.steps, EVALUATIONS),
    )
    return training


def _validated(scores: Scores, embeddings: Embeddings, shot: int) -> float:
    return rule_accuracy(scores, embeddings, Task(20, shot), n_episodes=VALIDATED).mean
