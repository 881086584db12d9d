"""Lake's one-shot task: classify the characters of one alphabet, from one drawing of each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rarememory.base.validation import check_count
from rarememory.data.characters import is_upright
from rarememory.data.episodes import Episode, episode_of
from rarememory.data.streams import classes_by_alphabet
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.evaluation.support_query import episode_accuracies
from rarememory.memory import Memory


class WithinAlphabet(NamedTuple):
    """The result of `within_alphabet_accuracy`.

    Attributes:
        accuracy: the mean over alphabets, with the interval of that mean.
        alphabets: the accuracy of each.

    Example:
        >>> found = WithinAlphabet(Accuracy(0.93, 0.06), {"Greek": 0.9, "Keble": 0.96})
        >>> print("error:", Accuracy(1 - found.accuracy.mean, found.accuracy.interval))
        error: 7.00 ± 6.00
    """

    accuracy: Accuracy
    alphabets: dict[str, float]


@torch.no_grad()
def within_alphabet_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    names: Sequence[str],
    *,
    n_way: int = 20,
    n_runs: int = 100,
    seed: int = 0,
    bar: Bar = iter,
) -> WithinAlphabet:
    """Accuracy within an alphabet: one drawing of each class by one drawer, queries by another.

    In a run of an alphabet two drawers and n_way characters are drawn; the first drawer's drawings
    are written, and the second's, one of each character, are answered (Lake et al. 2015,
    "Human-level concept learning through probabilistic program induction", one-shot classification;
    theirs are 20 chosen runs, these are random). All alphabets have as many runs. Those of one
    alphabet share characters and drawers, so the interval is over alphabets.

    Args:
        memory: as in `sighting_accuracy`.
        embeddings: drawing `d` of every class of an alphabet is by one drawer, as in `Characters`.
        names: of the classes, such as "Greek/character07"; upright, so "/rot000" may follow.
        n_way: characters of a run.
        n_runs: of each alphabet.
        seed: of the runs.
        bar: shows progress over alphabets.

    Raises:
        ValueError: a number is less than 1, the names are not one a class, one is rotated or
            mirrored, an alphabet has fewer than n_way characters, or there is one drawer.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(12, 5, size=14).images)
        >>> names = [f"{alphabet}/character{n:02}" for alphabet in "ab" for n in range(6)]
        >>> found = within_alphabet_accuracy(Memory(196, 5), embeddings, names, n_way=5, n_runs=9)
        >>> list(found.alphabets), found.accuracy.mean > 1 / 5
        (['a', 'b'], True)
    """
    check_count("n_way", n_way)
    check_count("n_runs", n_runs)
    alphabets = _alphabets(names, embeddings, n_way)
    generator, n_drawers = Generator().manual_seed(seed), embeddings.shape[1]
    episodes = (
        _episode(classes, n_way, n_drawers, generator)
        for _, classes in zip(bar(range(len(alphabets))), alphabets.values(), strict=True)
        for _ in range(n_runs)
    )
    found = torch.stack(list(episode_accuracies(memory, embeddings, episodes)))
    means = found.view(len(alphabets), n_runs).mean(1)
    return WithinAlphabet(Accuracy.of(means), dict(zip(alphabets, means.tolist(), strict=True)))


def _episode(
    classes: Tensor, n_way: int, n_drawers: int, generator: Generator
) -> tuple[Episode, Episode]:
    chosen = classes[torch.randperm(len(classes), generator=generator)[:n_way]]
    drawers = torch.randperm(n_drawers, generator=generator)[:2].expand(n_way, 2)
    return episode_of(chosen, drawers[:, :1]), episode_of(chosen, drawers[:, 1:])


def _alphabets(names: Sequence[str], embeddings: Tensor, n_way: int) -> dict[str, Tensor]:
    if len(names) != len(embeddings):
        raise ValueError(f"{len(names)} names for {len(embeddings)} classes: give each class one")
    if embeddings.shape[1] < 2:
        raise ValueError("support and queries need two drawers, but there is one drawing a class")
    rotated = [name for name in names if not is_upright(name)]
    if rotated:
        raise ValueError(
            f"{rotated[0]!r} is rotated or mirrored: give characters as they were drawn"
        )
    alphabets = classes_by_alphabet(names)
    for alphabet, classes in alphabets.items():
        if len(classes) < n_way:
            raise ValueError(
                f"n_way is {n_way}, but {alphabet!r} has {len(classes)} characters: "
                "ask for fewer, or leave it out"
            )
    return alphabets
