"""Test encoders by the paper's protocol and the field's, and by all upright characters at once."""

import math
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

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

WAYS = (5, 20)
SHOTS = (1, 5)

Embeddings = Float[Tensor, "classes drawings key_dim"]
Accuracies = dict[str, Accuracy]


class Read(TypedDict, total=False):
    """How queries are answered, as `support_query_accuracy` takes it."""

    average: bool
    attention: ClassAttention


ATTENDED = Read(attention=partial(class_attention, hubness_correction=HUBNESS_CORRECTION))
"""By what the query attends to, of all keys."""
MEAN = Read(average=True)
"""By the nearest key, of one a class, the mean."""
BY_SHOT = Read()
"""By the nearest key, of what the memory's rule has kept."""


class Tested(NamedTuple):
    """What an encoder was found to do.

    Attributes:
        accuracies: by protocol and task, such as "support.20w5s".
        sighting: by number of ways, the accuracy at every sighting.
    """

    accuracies: Accuracies
    sighting: dict[int, list[Accuracy]]


class Alone(NamedTuple):
    """What the encoders of several seeds were found to do on the same episodes.

    Attributes:
        mean: over seeds, by task, such as "alone.20w5s"; the interval covers them.
        by_encoder: the same for each.
    """

    mean: Accuracies
    by_encoder: list[Accuracies]


def tested(encoder: nn.Module, characters: Characters, options: Namespace) -> Tested:
    """By every protocol; queries attend to the shots, or are answered by the nearest key.

    The characters come with their rotations; with `options.copies`, rows of their own tell what
    averaging an embedding over jittered copies of its drawing brings.
    """
    embeddings = embed(encoder, characters.images).cpu()
    found = few_shot_accuracies(
        embeddings,
        ways=WAYS,
        shots=SHOTS,
        n_episodes=options.episodes,
        n_sharing=options.sharing,
        attention=ATTENDED["attention"],
        bar=_bar,
    )
    accuracies = {f"support.{way}w{n}s": each for (way, n), each in found.support.items()}
    for way in WAYS:
        for shot in SHOTS:
            accuracies[f"sighting.{way}w{shot}s"] = found.sighting[way][shot]
        accuracies |= _task("by_shot", embeddings, way, 5, BY_SHOT, n_episodes=options.episodes)
    upright = _upright(characters)
    accuracies |= _all_at_once("upright", embeddings[upright], options)
    accuracies |= _support_query("mean", embeddings, upright, options, MEAN)
    if options.copies:
        means = embed_averaged(encoder, characters.images, copies=options.copies).cpu()
        accuracies |= _support_query("jittered", means, upright, options)
    return Tested(accuracies, found.sighting)


def alone(encoders: Sequence[nn.Module], characters: Characters, options: Namespace) -> Alone:
    """Every encoder by itself, by the field's protocol."""
    upright = _upright(characters)
    by_encoder = [
        _support_query("alone", embed(encoder, characters.images).cpu(), upright, options)
        for encoder in encoders
    ]
    return Alone(
        {name: _mean([one[name] for one in by_encoder]) for name in by_encoder[0]}, by_encoder
    )


def at_once(options: Namespace) -> int:
    """Episodes of all classes: they leave only the drawings to chance, and few will do."""
    return min(int(options.episodes), 40)


def memory_for(key_dim: int, memory_size: int, read: Read) -> Memory:
    """One that keeps every drawing where they are attended to, else one to average into."""
    return Memory(key_dim, memory_size, update=FirstInFirstOut() if "attention" in read else None)


def asked(
    embeddings: Embeddings, way: int, shot: int, read: Read, *, bar: Bar = iter, **numbers: int
) -> Accuracy:
    """By the field's protocol, with a slot for every drawing of a support."""
    memory = memory_for(embeddings.shape[2], way * shot, read)
    return support_query_accuracy(
        memory, embeddings, n_way=way, n_shot=shot, bar=bar, **read, **numbers
    )


def _support_query(
    name: str,
    embeddings: Embeddings,
    upright: Tensor,
    options: Namespace,
    read: Read = ATTENDED,
) -> Accuracies:
    """Of a few classes in an episode, and of all upright ones at once."""
    found: Accuracies = {}
    for way in WAYS:
        for shot in SHOTS:
            found |= _task(name, embeddings, way, shot, read, n_episodes=options.episodes)
    return found | _all_at_once(f"{name}.upright", embeddings[upright], options, read)


def _upright(characters: Characters) -> Tensor:
    return torch.tensor([is_upright(name) for name in characters.names])


def _all_at_once(
    name: str, embeddings: Embeddings, options: Namespace, read: Read = ATTENDED
) -> Accuracies:
    """All classes in one episode."""
    way, drawings, _ = embeddings.shape
    found: Accuracies = {}
    for shot in SHOTS:
        n_episodes, n_query = at_once(options), drawings - shot
        numbers = {"n_episodes": n_episodes, "n_query": n_query}
        found |= _task(name, embeddings, way, shot, read, **numbers)
    return found


def _task(
    name: str, embeddings: Embeddings, way: int, shot: int, read: Read, **numbers: int
) -> Accuracies:
    """Under its name, the accuracy of one task that is answered in one way."""
    bar = _bar(f"{way}-way {shot}-shot, {name}", "episode")
    return {f"{name}.{way}w{shot}s": asked(embeddings, way, shot, read, bar=bar, **numbers)}


def _mean(found: Sequence[Accuracy]) -> Accuracy:
    """Of several seeds; the interval covers episodes and seeds.

    interval = sqrt(mean of interval_i^2 + (t s)^2 / n), s the deviation between the n seeds and t
    Student's of n - 1 degrees of freedom: so few seeds say little of how far they scatter.
    """
    means, intervals = torch.tensor(found, dtype=torch.float64).T
    n = len(found)
    of_seeds = student_t(n - 1) ** 2 * means.var().item() / n if n > 1 else 0.0
    return Accuracy(means.mean().item(), math.sqrt(intervals.square().mean().item() + of_seeds))


def _bar(name: str, unit: str) -> Bar:
    return partial(tqdm, desc=name, unit=unit, leave=False)
