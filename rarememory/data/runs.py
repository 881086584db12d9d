"""The 20 one-shot tasks that the authors of Omniglot published."""

from importlib.resources import files
from typing import NamedTuple


class Run(NamedTuple):
    """One task: 20 characters of an alphabet, in a support and a query by two drawers.

    Drawers count from 1, as in the names of Omniglot's files: drawer `d` made drawing `d - 1` of
    `Characters`.

    >>> Run(("Keble/character01",), support_drawer=3, query_drawer=2).characters
    ('Keble/character01',)
    """

    characters: tuple[str, ...]
    support_drawer: int
    query_drawer: int


def published_runs() -> tuple[Run, ...]:
    """The runs of one-shot classification of Lake et al. 2015: two of each of ten alphabets.

    They were published as copies of Omniglot's drawings without names; Jack Valmadre found the
    names by comparing the files (github.com/jvlmdr/omniglot-eval).

    >>> runs = published_runs()
    >>> len(runs), runs[0].characters[0], runs[0].support_drawer, runs[0].query_drawer
    (20, 'Atlantean/character01', 5, 8)
    """
    text = (files("rarememory.data") / "published_runs.txt").read_text(encoding="utf-8")
    return tuple(_run(line) for line in text.splitlines() if not line.startswith("#"))


def _run(line: str) -> Run:
    alphabet, support, query, *numbers = line.split()
    names = tuple(f"{alphabet}/character{number}" for number in numbers)
    return Run(names, support_drawer=int(support), query_drawer=int(query))
