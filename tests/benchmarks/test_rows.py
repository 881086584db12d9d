"""The benchmark of many memories at once, from the memories to the result file, on a few."""

import math

from benchmarks import rows


def test_it_measures_each_verb_for_each_number_of_rows(folders):
    small = ["--memories", "3", "--slots", "9", "--key-dim", "4", "--rows", "1", "2"]
    assert rows.main([*small, "--turns", "9"]) == 0
    figures = folders.result("rows")["figures"]
    assert figures.keys() == {
        f"rows.3x9.{verb}.r{number}{part}"
        for verb in ("read", "write", "step")
        for number in (1, 2)
        for part in ("", ".quartile1", ".quartile3", ".ms")
    }
    assert all(math.isfinite(figure) and figure > 0 for figure in figures.values())
