"""The published one-shot tasks: which drawings they are made of."""

from itertools import pairwise

import pytest

from rarememory.data import published_runs
from tests.sources import omniglot

RUNS = published_runs()
TWINS = list(zip(RUNS[::2], RUNS[1::2], strict=True))


def test_there_are_two_runs_of_each_of_ten_alphabets_with_the_same_characters():
    assert len(RUNS) == 20
    assert all(one.characters == other.characters for one, other in TWINS)
    assert len({run.characters[0].partition("/")[0] for run in RUNS}) == 10


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.characters[0].partition("/")[0])
def test_a_run_is_20_characters_of_one_alphabet_by_two_drawers(run):
    assert len(run.characters) == 20
    assert all(one < other for one, other in pairwise(run.characters))
    assert len({name.partition("/")[0] for name in run.characters}) == 1
    assert run.support_drawer != run.query_drawer
    assert all(1 <= drawer <= 20 for drawer in (run.support_drawer, run.query_drawer))


def test_the_two_runs_of_an_alphabet_have_other_drawers():
    for one, other in TWINS:
        assert one.support_drawer != other.support_drawer
        assert one.query_drawer != other.query_drawer


def test_all_their_characters_are_in_the_evaluation_part():
    names = set(omniglot().evaluation.names)
    assert {name for run in RUNS for name in run.characters} <= names
