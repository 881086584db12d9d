"""The paper's protocol: accuracy by how often a class was seen."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.base.validation import check_count
from rarememory.data.episodes import sighting_episode
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.memory import Memory


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
        n_sharing: how many episodes share the memory, with labels of their own, as in the authors'
            code: harder, and faster, than one episode at a time. Since they are not independent,
            the interval is that of the means of such groups.
        seed: of the episodes.
        bar: shows progress over groups of episodes.

    Raises:
        ValueError: a number is less than 1, or there are too few classes or drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> from rarememory.evaluation import embed
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
    numbers = {"n_way": n_way, "n_sightings": n_sightings}
    correct = torch.zeros(n_episodes, n_sightings)
    with memory.snapshot():
        for first in bar(range(0, n_episodes, n_sharing)):
            group = range(first, min(first + n_sharing, n_episodes))
            episodes = [
                sighting_episode(*embeddings.shape[:2], generator=generator, **numbers)
                for _ in group
            ]
            memory.clear()
            queries = torch.stack([embeddings[e.classes, e.drawings] for e in episodes], dim=2)
            labels = torch.stack([e.labels + n_way * i for i, e in enumerate(episodes)], dim=2)
            labels = labels.to(embeddings.device)
            hits = [
                [_answer_then_write(memory, q, y) for q, y in zip(*row, strict=True)]
                for row in zip(queries, labels, strict=True)
            ]
            correct[group] = torch.stack(
                [torch.stack(row).float().mean(0) for row in hits], 1
            ).cpu()
    groups = torch.stack([group.mean(0) for group in correct.split(n_sharing)])
    return [
        Accuracy(every.mean().item(), Accuracy.of(grouped).interval)
        for every, grouped in zip(correct.T, groups.T, strict=True)
    ]


def _answer_then_write(memory: Memory, queries: Tensor, labels: Tensor) -> Tensor:
    recall = memory(queries, k=1)
    memory.write(recall, labels)
    return torch.eq(recall.prediction, labels)
