"""The field's protocol: a support is learnt, then queries are answered."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import normalize

from rarememory.base.validation import check_count
from rarememory.data.episodes import Episode, support_query_episode
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.memory import Memory
from rarememory.variants.attention import ClassAttention


@torch.no_grad()
def support_query_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    *,
    n_way: int,
    n_shot: int,
    n_query: int = 15,
    n_episodes: int = 1000,
    average: bool = False,
    attention: ClassAttention | None = None,
    seed: int = 0,
    bar: Bar = iter,
) -> Accuracy:
    """The field's protocol: write n_shot drawings of each class, then answer n_query of each.

    The support is written shot by shot, one drawing of every class at a time, so that the memory
    may average (Vinyals et al. 2016, section 4.1, has the episodes). The memory is afterwards as it
    was before. Arguments are as in `sighting_accuracy`; chance is 1 / n_way.

    Args:
        average: write of each class one key, the mean of its drawings at unit length (the prototype
            of Snell et al. 2017, equation 1), as `MemoryClassifier.learn(average=True)` does.
        attention: answer by `class_attention` or a partial of it, not by the nearest key: give a
            memory that keeps all drawings, by `FirstInFirstOut`.

    Raises:
        ValueError: a number is less than 1, there are too few classes or drawings, or the memory
            has not kept all drawings to attend to.

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
    numbers = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query}
    episodes = random_episodes(embeddings, n_episodes, seed, bar, **numbers)
    found = episode_accuracies(memory, embeddings, episodes, average=average, attention=attention)
    return Accuracy.of(torch.stack(list(found)))


def random_episodes(
    embeddings: Tensor, n_episodes: int, seed: int, bar: Bar, **numbers: int
) -> Iterator[tuple[Episode, Episode]]:
    """Random supports and queries, drawn one by one."""
    check_count("n_episodes", n_episodes)
    generator = Generator().manual_seed(seed)
    return (
        support_query_episode(*embeddings.shape[:2], generator=generator, **numbers)
        for _ in bar(range(n_episodes))
    )


def episode_accuracies(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    episodes: Iterable[tuple[Episode, Episode]],
    *,
    average: bool = False,
    attention: ClassAttention | None = None,
) -> Iterator[Tensor]:
    """The accuracy of each episode; when it is yielded, the memory still holds its support."""
    with memory.snapshot():
        for support, query in episodes:
            memory.clear()
            shots = embeddings[support.classes, support.drawings]
            labels = support.labels.to(embeddings.device)
            if average:
                memory.write(normalize(shots.float(), dim=-1).mean(1), labels[:, 0])
            else:
                for shot in range(labels.shape[1]):
                    memory.write(shots[:, shot], labels[:, shot])
            if attention is not None and len(memory) < labels.numel():
                raise ValueError(
                    f"the memory keeps {len(memory)} of {labels.numel()} drawings to attend to: "
                    "give one with a slot for each and update=FirstInFirstOut(), and do not average"
                )
            queries = embeddings[query.classes, query.drawings]
            found = memory(queries, k=1) if attention is None else attention(memory, queries)
            answer = found.prediction
            yield (answer == query.labels.to(answer.device)).float().mean().cpu()
