"""The memory's own row: an encoder trained under it by the default recipe, tested with it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.omniglot.testing import MEAN, Read, memory_for
from benchmarks.omniglot.training import train_with_bar
from benchmarks.omniglot_peers.tasks import N_QUERY, Embeddings, Task
from rarememory import Memory
from rarememory.backbones import BACKBONES
from rarememory.data import Characters, families
from rarememory.evaluation import Accuracy, Bar, support_query_accuracy
from rarememory.training import Recipe, Training

KEY_DIM = 128
TEMPERATURE = 0.1


def trained_under_memory(
    characters: Characters,
    recipe: Recipe,
    folder: Path,
    *,
    name: str = "memory",
    backbone: str = "residual",
    options: Mapping[str, Any] | None = None,
) -> Training:
    """Train an encoder under a memory, or resume from its checkpoint in the folder.

    `options` are those of the memory, beside a temperature of 0.1 and a slot for every sighting.
    """
    torch.manual_seed(recipe.seed)
    given = {"temperature": TEMPERATURE, "seed": recipe.seed, **(options or {})}
    # One that is never cleared holds all classes, some of them in two slots.
    usual = recipe.n_way * recipe.n_sightings if recipe.cleared else 2 * len(characters)
    slots = given.pop("memory_size", usual)
    encoder = BACKBONES[backbone](KEY_DIM).to(memory_format=torch.channels_last)
    images, memory = characters.images, Memory(KEY_DIM, slots, **given)
    training = Training(encoder, memory, images, recipe, families(characters.names))
    facts = repr((recipe, backbone, given, slots, images.shape))
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    train_with_bar(training, folder / f"memory_{digest}.pt", name)
    return training


def memory_accuracy(
    embeddings: Embeddings,
    task: Task,
    *,
    n_episodes: int,
    seed: int = 0,
    bar: Bar = iter,
    memory: Memory | None = None,
    read: Read = MEAN,
) -> Accuracy:
    """The accuracy of a memory that holds the support.

    It is cleared for every episode; None stands for one with a slot for every example. `read` says
    how queries are answered.
    """
    memory = memory or memory_for(embeddings.shape[2], task.way * task.shot, read)
    sizes = {"n_way": task.way, "n_shot": task.shot, "n_query": N_QUERY, "n_episodes": n_episodes}
    return support_query_accuracy(memory, embeddings, seed=seed, bar=bar, **sizes, **read)
