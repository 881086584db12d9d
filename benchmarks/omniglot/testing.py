"""Test encoders by the paper's protocol and the field's, and by all upright characters at once."""

import math
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.runner import bar
from rarememory import FirstInFirstOut, Memory
from rarememory.data import Characters, is_upright
from rarememory.evaluation import (
    Accuracy,
    Bar,
    embed,
    embed_averaged,
    few_shot_accuracies,
    support_query_accuracy,
)
from rarememory.evaluation.accuracy import student_t
from rarememory.variants.attention import HUBNESS_CORRECTION, ClassAttention, class_attention

WAYS, SHOTS = (5, 20), (1, 5)

Embeddings = Float[Tensor, "classes drawings key_dim"]
Accuracies = dict[str, Accuracy]


class Read(TypedDict, total=False):
    """How queries are answered, as `support_query_accuracy` takes it."""

    average: bool
    attention: ClassAttention


ATTENDED = Read(attention=partial(class_attention, hubness_correction=HUBNESS_CORRECTION))
"""By attention over the keys of each class."""
MEAN = Read(average=True)
"""By the nearest key; each class has one, its mean."""
BY_SHOT = Read()
"""By the nearest key; the support is written one example after the other."""


def evaluated(
    encoder: nn.Module, characters: Characters, options: Namespace
) -> tuple[Accuracies, dict[int, list[Accuracy]]]:
    """The accuracies of an encoder by every protocol.

    The characters come with their rotations. With `options.copies`, rows of their own average the
    embedding of each drawing with those of jittered copies.

    Returns:
        By protocol and task, such as "support.20w5s"; and by ways, the accuracy at each sighting.
    """
    embeddings = embed(encoder, characters.images).cpu()
    upright, n_episodes = _upright(characters), options.episodes
    numbers = {"n_episodes": n_episodes, "n_sharing": options.sharing}
    asked = partial(few_shot_accuracies, attention=ATTENDED["attention"], bar=bar)
    found = asked(embeddings, ways=WAYS, shots=SHOTS, **numbers)
    accuracies = {f"support.{way}w{n}s": one for (way, n), one in found.support.items()}
    for way in WAYS:
        accuracies |= {f"sighting.{way}w{n}s": found.sighting[way][n] for n in SHOTS}
        accuracies |= _task("by_shot", embeddings, way, 5, BY_SHOT, n_episodes=n_episodes)
    accuracies |= _many_way("upright", embeddings[upright], options)
    accuracies |= _support_query("mean", embeddings, upright, options, MEAN)
    if options.copies:
        means = embed_averaged(encoder, characters.images, copies=options.copies).cpu()
        accuracies |= _support_query("jittered", means, upright, options)
    return accuracies, found.sighting


def alone(
    encoders: Sequence[nn.Module], characters: Characters, options: Namespace
) -> tuple[Accuracies, list[Accuracies]]:
    """The accuracies of every encoder by itself, on the same episodes by the field's protocol.

    Returns:
        By task, such as "alone.20w5s", the mean over encoders; and the accuracies of each.
    """
    upright = _upright(characters)
    by_encoder = [
        _support_query("alone", embed(encoder, characters.images).cpu(), upright, options)
        for encoder in encoders
    ]
    return {task: _mean([one[task] for one in by_encoder]) for task in by_encoder[0]}, by_encoder


def many_way_episodes(options: Namespace) -> int:
    """How many episodes of all classes: they differ in their drawings only, so few are enough."""
    return min(int(options.episodes), 40)


def memory_for(key_dim: int, memory_size: int, read: Read) -> Memory:
    """A memory that keeps every example for attention, or else averages hits into a key."""
    return Memory(key_dim, memory_size, update=FirstInFirstOut() if "attention" in read else None)


def episode_accuracy(
    embeddings: Embeddings, way: int, shot: int, read: Read, *, bar: Bar = iter, **numbers: int
) -> Accuracy:
    """By the field's protocol, with a slot for every drawing of a support."""
    memory = memory_for(embeddings.shape[2], way * shot, read)
    return support_query_accuracy(
        memory, embeddings, n_way=way, n_shot=shot, bar=bar, **read, **numbers
    )


def _support_query(
    name: str, embeddings: Embeddings, upright: Tensor, options: Namespace, read: Read = ATTENDED
) -> Accuracies:
    """Of a few classes in an episode, and of all upright ones at once."""
    found: Accuracies = {}
    for way, shot in product(WAYS, SHOTS):
        found |= _task(name, embeddings, way, shot, read, n_episodes=options.episodes)
    return found | _many_way(f"{name}.upright", embeddings[upright], options, read)


def _upright(characters: Characters) -> Tensor:
    return torch.tensor([is_upright(name) for name in characters.names])


def _many_way(
    name: str, embeddings: Embeddings, options: Namespace, read: Read = ATTENDED
) -> Accuracies:
    """All classes in one episode, and all drawings but the support's as queries."""
    way, drawings, _ = embeddings.shape
    found: Accuracies = {}
    for shot in SHOTS:
        numbers = {"n_episodes": many_way_episodes(options), "n_query": drawings - shot}
        found |= _task(name, embeddings, way, shot, read, **numbers)
    return found


def _task(
    name: str, embeddings: Embeddings, way: int, shot: int, read: Read, **numbers: int
) -> Accuracies:
    shown = bar(f"{way}-way {shot}-shot, {name}")
    accuracy = episode_accuracy(embeddings, way, shot, read, bar=shown, **numbers)
    return {f"{name}.{way}w{shot}s": accuracy}


def _mean(found: Sequence[Accuracy]) -> Accuracy:
    """Of several seeds; the interval covers episodes and seeds.

    interval = sqrt(mean of interval_i^2 + (t s)^2 / n), s the deviation between the n seeds and t
    Student's of n - 1 degrees of freedom.
    """
    means, intervals = torch.tensor(found, dtype=torch.float64).T
    n = len(found)
    of_seeds = student_t(n - 1) ** 2 * means.var().item() / n if n > 1 else 0.0
    return Accuracy(means.mean().item(), math.sqrt(intervals.square().mean().item() + of_seeds))
