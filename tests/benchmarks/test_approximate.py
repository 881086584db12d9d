"""The benchmark of approximate searches, from data to the result file, on a handful of keys."""

import math

import pytest
import torch

from benchmarks import approximate, summary

SMALL = ["--slots", "600", "--key-dim", "8", "--batch", "4", "--queries", "20", "--turns", "2"]


@pytest.fixture
def figures(folders):
    """Runs the benchmark with a few options; gives what it measured."""

    def run(*more: str) -> dict[str, float]:
        assert approximate.main([*SMALL, *more]) == 0
        return folders.result("approximate")["figures"]

    return run


def test_it_measures_recall_and_speed_for_every_index_data_and_k(figures, folders):
    measured = figures("--k", "1", "5")
    assert measured.keys() == {
        f"lookup.approximate.{index}.{data}.m600_k{k}.{name}"
        for index in ("ivf", "lsh")
        for data in ("clustered", "unclustered")
        for k in (1, 5)
        for name in ("recall", "speedup", "speedup_after_write")
    }
    for key, figure in measured.items():
        assert math.isfinite(figure) and figure > 0 and (figure <= 1 or "recall" not in key)
    assert summary.collect(folders.runs).keys() == measured.keys()
    said = folders.result("approximate")["command"].split()[3:]
    again, first = (approximate.BENCHMARK.parse(one) for one in (said, [*SMALL, "--k", "1", "5"]))
    assert again.options == first.options


def test_with_everything_looked_at_all_neighbours_are_found(figures):
    measured = figures("--probe", "600", "--bits", "3", "--radius", "3", "--k", "5")
    assert {x for key, x in measured.items() if key.endswith("recall")} == {1.0}


def test_with_little_looked_at_few_are_found_where_keys_do_not_cluster(figures):
    measured = figures("--probe", "1", "--bits", "9", "--tables", "1", "--radius", "0", "--k", "3")
    for index in ("ivf", "lsh"):
        recall = f"lookup.approximate.{index}.{{}}.m600_k3.recall"
        assert measured[recall.format("unclustered")] < 0.95


def test_recall_is_the_share_of_true_neighbours_among_those_found():
    truth, found = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 1], [4, -1]])
    assert approximate.recall(found, truth) == 0.75


def test_two_keys_of_a_cluster_are_as_near_as_it_says():
    keys = approximate.clustered(640, 512)
    scores = (keys @ keys.T).fill_diagonal_(0)
    assert scores.amax(1).mean() == pytest.approx(0.86, abs=0.02)


def test_options_that_cannot_be_meant_are_refused_in_a_sentence(capsys):
    assert approximate.main(["--radius", "99"]) == 1
    assert "radius must be 0 to 62" in capsys.readouterr().err
