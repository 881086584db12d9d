"""The two protocols of few-shot learning, answered by a memory over embeddings made once."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn

from rarememory.checks import check_count
from rarememory.data.episodes import sighting_episode, support_query_episode
from rarememory.memory import Memory

Bar = Callable[[Iterable[int]], Iterable[int]]
"""What shows progress: `tqdm`, `rich.progress.track`, or `iter`, which shows nothing."""

SIGHTINGS = 11
"""How often a class is seen in an episode by sighting, unless more shots are asked for."""


class Accuracy(NamedTuple):
    """A mean over episodes, with the half width of its 95 % interval; both in [0, 1].

    One episode alone has an infinite interval.

    Example:
        >>> print(Accuracy.of(torch.tensor([1.0, 0.8, 0.9, 0.9])))
        90.00 ± 8.00
    """

    mean: float
    interval: float

    @classmethod
    def of(cls, episodes: Float[Tensor, " episodes"]) -> "Accuracy":
        """From the accuracy of each episode: mean +- 1.96 s / sqrt(n)."""
        spread = episodes.std().item() if len(episodes) > 1 else math.inf
        return cls(episodes.mean().item(), 1.96 * spread / math.sqrt(len(episodes)))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.interval:.2f}"


@torch.no_grad()
def embed(
    encoder: nn.Module,
    images: UInt8[Tensor, "classes drawings height width"],
    *,
    batch_size: int = 512,
) -> Float[Tensor, "classes drawings key_dim"]:
    """What the encoder makes of every drawing, in evaluation mode; its own modes are put back.

    Args:
        encoder: images [batch, 1, height, width] in [0, 1] to [batch, key_dim].
        images: ink 255 on 0, in as many drawings a class.
        batch_size: drawings that it sees at once.

    Example:
        >>> from rarememory.backbones import Conv4
        >>> from rarememory.data import draw_glyphs
        >>> embed(Conv4(key_dim=16), draw_glyphs(3, 2).images).shape
        torch.Size([3, 2, 16])
    """
    device = next(chain(encoder.parameters(), [images])).device
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        flat = images.flatten(0, 1).unsqueeze(1)
        keys = [encoder(some.to(device) / 255) for some in flat.split(batch_size)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(keys).view(*images.shape[:2], -1)


@torch.no_grad()
def sighting_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_way: int,
    n_sightings: int = 6,
    n_episodes: int = 1000,
    n_sharing: int = 1,
    seed: int = 0,
    bar: Bar = iter,
) -> list[Accuracy]:
    """The paper's protocol: accuracy at the 1st, 2nd, ... time a class is seen.

    In an episode every class is seen once before any is seen twice. Each drawing is first answered,
    then written with its true label; the memory is empty when an episode begins. Accuracy at
    sighting K + 1 is what the paper calls K-shot (Kaiser et al. 2017, section 4.1).

    Args:
        memory: is cleared for every episode, and is afterwards as it was before.
        embeddings: of every drawing of the classes to draw episodes from.
        n_way: classes of an episode.
        n_sightings: how often each is seen.
        n_episodes: at least 1,000 for an interval worth printing.
        n_sharing: episodes that share the memory, their labels set apart, as in the authors' code;
            harder than one a memory, and quicker. They are not independent, so the interval is
            then that of the means of such groups.
        seed: of the episodes.
        bar: shows progress over groups of episodes.

    Raises:
        ValueError: a number is less than 1, or there are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(20, 5, size=14).images)
        >>> memory = Memory(key_dim=196, memory_size=15)
        >>> first, second, third = sighting_accuracy(
        ...     memory, embeddings, n_way=5, n_sightings=3, n_episodes=9
        ... )
        >>> first.mean < second.mean
        True
    """
    check_count("n_episodes", n_episodes)
    check_count("n_sharing", n_sharing)
    generator = Generator().manual_seed(seed)
    right = torch.zeros(n_episodes, n_sightings)
    with memory.snapshot():
        for first in bar(range(0, n_episodes, n_sharing)):
            shared = range(first, min(first + n_sharing, n_episodes))
            episodes = [
                sighting_episode(
                    *embeddings.shape[:2],
                    n_way=n_way,
                    n_sightings=n_sightings,
                    generator=generator,
                )
                for _ in shared
            ]
            memory.clear()
            queries = torch.stack([embeddings[e.classes, e.drawings] for e in episodes], dim=2)
            labels = torch.stack([e.labels + n_way * i for i, e in enumerate(episodes)], dim=2)
            labels = labels.to(embeddings.device)
            hits = [
                [_answered_and_learnt(memory, q, y) for q, y in zip(*row, strict=True)]
                for row in zip(queries, labels, strict=True)
            ]
            right[shared] = torch.stack([torch.stack(row).float().mean(0) for row in hits], 1).cpu()
    groups = torch.stack([group.mean(0) for group in right.split(n_sharing)])
    return [
        Accuracy(every.mean().item(), Accuracy.of(grouped).interval)
        for every, grouped in zip(right.T, groups.T, strict=True)
    ]


def _answered_and_learnt(memory: Memory, queries: Tensor, labels: Tensor) -> Tensor:
    recall = memory(queries, k=1)
    memory.write(recall, labels)
    return torch.eq(recall.prediction, labels)


@torch.no_grad()
def support_query_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_way: int,
    n_shot: int,
    n_query: int = 15,
    n_episodes: int = 1000,
    seed: int = 0,
    bar: Bar = iter,
) -> Accuracy:
    """The field's protocol: write n_shot drawings of each class, then answer n_query of each.

    The support is written shot by shot, one drawing of every class at a time, so that averaging
    has a say (Vinyals et al. 2016, section 4.1, has the episodes). The memory is afterwards as it
    was before. Arguments are as in `sighting_accuracy`; chance is 1 / n_way.

    Raises:
        ValueError: a number is less than 1, or there are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(20, 5, size=14).images)
        >>> memory = Memory(key_dim=196, memory_size=5)
        >>> accuracy = support_query_accuracy(
        ...     memory, embeddings, n_way=5, n_shot=1, n_query=4, n_episodes=9
        ... )
        >>> accuracy.mean > 1 / 5
        True
    """
    check_count("n_episodes", n_episodes)
    generator = Generator().manual_seed(seed)
    right = torch.zeros(n_episodes)
    with memory.snapshot():
        for index in bar(range(n_episodes)):
            support, query = support_query_episode(
                *embeddings.shape[:2],
                n_way=n_way,
                n_shot=n_shot,
                n_query=n_query,
                generator=generator,
            )
            memory.clear()
            shown = embeddings[support.classes, support.drawings]
            labels = support.labels.to(embeddings.device)
            for shot in range(n_shot):
                memory.write(shown[:, shot], labels[:, shot])
            answer = memory(embeddings[query.classes, query.drawings], k=1).prediction
            right[index] = (answer == query.labels.to(answer.device)).float().mean().cpu()
    return Accuracy.of(right)


class Figures(NamedTuple):
    """What `both_protocols` found.

    Attributes:
        sighting: by number of ways, the accuracy at every sighting; `sighting[20][1]` is 1-shot.
        support: by number of ways and shots.

    Example:
        >>> unseen, once = Accuracy(0.0, 0.0), Accuracy(0.9, 0.02)
        >>> found = Figures(sighting={5: [unseen, once]}, support={(5, 1): Accuracy(0.93, 0.01)})
        >>> print("5-way 1-shot:", found.sighting[5][1], "or", found.support[5, 1])
        5-way 1-shot: 90.00 ± 2.00 or 93.00 ± 1.00
    """

    sighting: dict[int, list[Accuracy]]
    support: dict[tuple[int, int], Accuracy]


def both_protocols(
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    ways: Sequence[int] = (5, 20),
    shots: Sequence[int] = (1, 5),
    n_episodes: int = 1000,
    n_sharing: int = 1,
    seed: int = 0,
    bar: Callable[[str, str], Bar] = lambda name, unit: iter,
) -> Figures:
    """Both protocols for every number of ways and shots, each with a memory that never overflows.

    Args:
        embeddings: of every drawing of the classes to draw episodes from.
        ways: numbers of classes of an episode.
        shots: how often a class was seen before it is asked for.
        n_episodes: at least 2, for an interval.
        n_sharing: as in `sighting_accuracy`.
        seed: of the episodes.
        bar: of a name and a unit makes what shows progress.

    Raises:
        ValueError: there are fewer classes or drawings than asked for, or fewer than 2 episodes.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(9, 16, size=14).images)
        >>> found = both_protocols(embeddings, ways=[2, 5], shots=[1], n_episodes=2)
        >>> list(found.sighting), list(found.support)
        ([2, 5], [(2, 1), (5, 1)])
        >>> found.sighting[5][0].mean < found.sighting[5][1].mean  # unseen, then 1-shot
        True
    """
    if n_episodes < 2:
        raise ValueError(f"n_episodes is {n_episodes}: an interval needs at least 2")
    figures = Figures({}, {})
    key_dim, n_sightings = embeddings.shape[2], max(SIGHTINGS, *(shot + 1 for shot in shots))
    for way in ways:
        figures.sighting[way] = sighting_accuracy(
            Memory(key_dim, way * n_sharing * n_sightings),
            embeddings,
            n_way=way,
            n_sightings=n_sightings,
            n_episodes=n_episodes,
            n_sharing=n_sharing,
            seed=seed,
            bar=bar(f"{way}-way by sighting", "group" if n_sharing > 1 else "episode"),
        )
        for shot in shots:
            figures.support[way, shot] = support_query_accuracy(
                Memory(key_dim, way * shot),
                embeddings,
                n_way=way,
                n_shot=shot,
                n_episodes=n_episodes,
                seed=seed,
                bar=bar(f"{way}-way {shot}-shot", "episode"),
            )
    return figures
