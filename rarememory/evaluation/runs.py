"""One-shot tasks that are given: the support drawn by one person, the queries by another."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.data.characters import character_of, is_upright
from rarememory.data.episodes import Episode, episode_of
from rarememory.data.runs import Run
from rarememory.evaluation.accuracy import Accuracy, Bar
from rarememory.evaluation.support_query import episode_accuracies
from rarememory.memory import Memory


@torch.no_grad()
def runs_accuracy(
    memory: Memory,
    embeddings: Float[Tensor, "classes drawings key_dim"],
    names: Sequence[str],
    runs: Sequence[Run],
    *,
    bar: Bar = iter,
) -> Accuracy:
    """The mean accuracy over runs, such as `published_runs()`, with the interval over them.

    Each run begins with an empty memory: the drawings of the support drawer are written, and those
    of the query drawer are answered, each by itself (Lake et al. 2015, "Human-level concept
    learning through probabilistic program induction", one-shot classification).

    Args:
        memory: as in `sighting_accuracy`.
        embeddings: drawing `d` of every class is by drawer `d + 1`, as in `Characters`.
        names: of the classes, such as "Greek/character07"; upright ones may end in "/rot000".
        runs: which characters, and whose drawings of them.
        bar: shows progress.

    Raises:
        ValueError: a character of a run is not among the names, or a drawer not among the drawings.

    Example:
        >>> from rarememory.data import draw_glyphs
        >>> from rarememory.evaluation import embed
        >>> embeddings = embed(torch.nn.Flatten(), draw_glyphs(3, 2, size=14).images)
        >>> run = Run(("a", "c"), support_drawer=1, query_drawer=2)
        >>> runs_accuracy(Memory(196, 2), embeddings, ["a", "b", "c"], [run]).mean
        1.0
    """
    rows = {character_of(name): row for row, name in enumerate(names) if is_upright(name)}
    for run in runs:
        _check(run, rows, embeddings.shape[1])
    episodes = (_episode(runs[place], rows) for place in bar(range(len(runs))))
    return Accuracy.of(torch.stack(list(episode_accuracies(memory, embeddings, episodes))))


def _episode(run: Run, rows: dict[str, int]) -> tuple[Episode, Episode]:
    classes = torch.tensor([rows[name] for name in run.characters])
    drawings = (torch.full((len(classes), 1), drawer - 1) for drawer in run[1:])
    return episode_of(classes, next(drawings)), episode_of(classes, next(drawings))


def _check(run: Run, rows: dict[str, int], n_drawings: int) -> None:
    missing = [name for name in run.characters if name not in rows]
    if missing:
        raise ValueError(
            f"a run asks for {missing[0]!r}, which is not among the {len(rows)} upright characters"
        )
    for drawer in (run.support_drawer, run.query_drawer):
        if not 1 <= drawer <= n_drawings:
            raise ValueError(
                f"a run asks for drawer {drawer}, but there are {n_drawings}, counted from 1"
            )
