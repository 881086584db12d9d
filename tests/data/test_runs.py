"""The published one-shot tasks: which drawings they are made of."""

from itertools import pairwise
from pathlib import Path

import pytest

from rarememory.data import published_runs, read_omniglot

ROOT = Path(__file__).resolve().parents[2]
PLACES = (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot")
REAL = next((place for place in PLACES if place.is_dir()), PLACES[0])
RUNS = published_runs()
TWINS = list(zip(RUNS[::2], RUNS[1::2], strict=True))


def test_there_are_two_runs_of_each_of_ten_alphabets_with_the_same_characters():
    assert len(RUNS) == 20
    assert all(one.characters == other.characters for one, other in TWINS)
    assert len({run.characters[0].partition("/")[0] for run in RUNS}) == 10


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.characters[0].partition("/")[0])
def test_a_run_is_20_characters_of_one_alphabet_by_two_hands(run):
    assert len(run.characters) == 20
    assert all(one < other for one, other in pairwise(run.characters))
    assert len({name.partition("/")[0] for name in run.characters}) == 1
    assert run.support_drawer != run.query_drawer
    assert all(1 <= drawer <= 20 for drawer in (run.support_drawer, run.query_drawer))


def test_the_two_runs_of_an_alphabet_are_told_and_asked_by_other_hands():
    for one, other in TWINS:
        assert one.support_drawer != other.support_drawer
        assert one.query_drawer != other.query_drawer


@pytest.mark.skipif(not REAL.is_dir(), reason="no Omniglot in data/ or ../shared/data/omniglot")
def test_all_their_characters_are_in_the_evaluation_part():
    evaluation = read_omniglot(REAL, size=4, progress=False).evaluation
    assert {name for run in RUNS for name in run.characters} <= set(evaluation.names)
