"""The comparison of tuned keys: what is compared with what, on what examples."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks import tuned
from benchmarks.worlds.data import World
from benchmarks.worlds.draws import Draw


def task(n_old):
    """Six classes of 40 examples, three of them old."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(6), 40)
    features = rng.normal(size=(6, 12))[labels] + rng.normal(size=(240, 12))
    names, split = np.array([*"abcdef"]), np.array(["all"] * 240)
    world = World(features.astype(np.float32), labels, names, split)
    return Draw(world, 0, n_old=n_old, published=False).task(5)


@pytest.mark.parametrize("n_old", [3, 0])
def test_every_way_answers_the_same_queries(n_old):
    rows = tuned.rows_of(task(n_old))
    parts = {"old", "new", "all"} if n_old else {"all"}
    ways = [f"{reader}{also}" for reader in ("nearest", "fitted") for also in ("", "_calibrated")]
    assert rows.keys() == {*ways, *(f"{way}_tuned" for way in ways), "head"}
    for name, row in rows.items():
        assert row.keys() - {"epoch"} == parts and all(0 <= part <= 1 for part in row.values())
        assert ("epoch" in row) == name.endswith("_tuned")


def test_a_head_starts_from_the_host_and_is_the_best_of_its_epochs():
    found = task(3)
    head = tuned._start(found)
    assert torch.equal(head.weight[:3], torch.from_numpy(found.head[0]))
    assert not head.weight[3:].any()
    held_out = (torch.from_numpy(found.held_out), torch.from_numpy(found.held_out_labels))
    before = tuned._merit(head, held_out)
    examples = (torch.from_numpy(found.examples), torch.from_numpy(found.labels))
    assert tuned._merit(tuned.trained_head(head, examples, held_out), held_out) > before


def test_a_figure_is_paired_with_the_untuned_keys_of_the_same_draw():
    rows = {
        "nearest": [{"new": 0.5}, {"new": 0.3}],
        "nearest_tuned": [{"new": 0.6, "epoch": 0.04}, {"new": 0.4, "epoch": 0.06}],
        "fitted": [{"new": 0.7}, {"new": 0.5}],
        "head": [{"new": 0.6}, {"new": 0.6}],
    }
    figures = tuned.figures_of("tuned.x", rows)
    assert figures["tuned.x.nearest_tuned.new"] == pytest.approx(50)
    assert figures["tuned.x.nearest_tuned.over_nearest.new"] == pytest.approx(10)
    assert figures["tuned.x.nearest_tuned.over_nearest.new.interval"] == pytest.approx(0)
    assert figures["tuned.x.nearest_tuned.epoch"] == pytest.approx(5)
    assert figures["tuned.x.head.over_fitted.new"] == pytest.approx(0)
    assert figures["tuned.x.head.over_nearest.new"] == pytest.approx(20)
