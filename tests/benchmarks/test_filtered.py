"""The benchmark of filtered reads, from the memory to the result file, on a handful of slots."""

import math

from benchmarks import filtered


def test_it_measures_both_kinds_of_filters_for_every_batch_and_k(folders):
    small = ["--slots", "900", "--batch", "1", "3", "--k", "1", "4", "--turns", "2"]
    assert filtered.main(small) == 0
    figures = folders.result("filtered")["figures"]
    assert figures.keys() == {
        f"filtered.m900.{kind}b{batch}_k{k}.{name}"
        for kind in ("", "each.")
        for batch in (1, 3)
        for k in (1, 4)
        for name in ("ratio", "whole_ms")
    }
    assert all(math.isfinite(figure) and figure > 0 for figure in figures.values())


def test_the_filter_leaves_a_tenth_of_the_slots(monkeypatch, folders):
    seen = []
    memory = filtered.Memory

    class Noted(memory):
        def forward(self, queries, *, among=None, **options):
            recall = super().forward(queries, among=among, **options)
            seen.append((among, self.values))
            return recall

    monkeypatch.setattr(filtered, "Memory", Noted)
    filtered.main(["--slots", "5000", "--batch", "2", "--k", "1", "--turns", "1"])
    _, (labels, values), _, (each, _) = seen
    shares = (sum(values == label for label in labels) > 0).double().mean(), each.double().mean()
    assert all(0.08 < share < 0.12 for share in shares)
