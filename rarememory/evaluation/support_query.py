"""The field's protocol: a support is learnt, then queries are answered."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.checks import check_count
from rarememory.data.episodes import support_query_episode
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.memory import Memory


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
        >>> from rarememory.evaluation import embed
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
