"""The benchmark of sharded memories, from the processes to the result file, on a few slots."""

import math

import pytest
import torch

from benchmarks import sharded
from benchmarks.sharded_paper import CELLS, on_paper, received


def test_it_measures_processes_beside_a_memory_and_counts_what_travels(folders):
    small = ["--slots", "300", "--batch", "60", "--k", "4", "--turns", "2", "--worlds", "3"]
    assert sharded.main(small) == 0
    figures = folders.result("sharded")["figures"]
    measured = {name: figure for name, figure in figures.items() if ".paper." not in name}
    assert measured.keys() == {
        *(f"sharded.ranks3.{name}" for name in ("read.ms", "read.ratio", "exchanges.ms")),
        *(f"sharded.bytes_per_query{name}" for name in ("", ".tenth_of_slots", ".loss", ".write")),
    }
    # On paper it is what was counted, but for the numbers that go with each exchange.
    counted = figures["sharded.bytes_per_query.loss"] + figures["sharded.bytes_per_query.write"]
    assert counted == pytest.approx(received(3, 128, torch.float32), rel=0.06)
    assert all(math.isfinite(figure) and figure > 0 for figure in measured.values())
    # The number of slots says nothing about what travels, but for the room of the first read.
    tenth = figures["sharded.bytes_per_query.tenth_of_slots"]
    assert tenth == pytest.approx(figures["sharded.bytes_per_query"], rel=0.1)


def test_on_paper_there_are_all_cells():
    assert on_paper().keys() == {
        f"sharded.paper.{cell}.{name}"
        for cell in CELLS
        for name in ("gb", "kb_per_query", "search_ms", "exchange_ms")
    }
    assert received(1, 256) == on_paper()["sharded.paper.m10M_g1.exchange_ms"] == 0
