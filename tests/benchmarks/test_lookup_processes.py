"""A bench in a process of its own: how it waits, dies and comes back."""

from pathlib import Path

import pytest

from benchmarks.lookup import remote
from benchmarks.lookup.cells import Cell
from benchmarks.lookup.remote import Gone


def test_a_bench_in_another_process_waits_passively_dies_and_comes_back():
    there = remote.RemoteBench("cpu")
    try:
        assert "auto" in there.call("candidates", False)
        (process,) = there.processes
        environment = Path(f"/proc/{process}/environ").read_text(encoding="utf-8")
        assert "OMP_WAIT_POLICY=PASSIVE" in environment.split("\0")
        with pytest.raises(RuntimeError, match="no cell is loaded"):
            there.call("measure", "auto", "wall")
        with pytest.raises(Gone, match="no answer within 0 s"):
            there.call("trials", timeout=0)
        assert there.processes == []
        there.call("load", Cell(2, 30, 8, 3))
        assert "refused" not in there.call("check", "auto", 9.0)
        assert there.call("measure", "auto", "wall")[0] > 0
        there._process.kill()
        with pytest.raises(Gone, match="its process ended with exit code -9"):
            there.call("candidates", True)
    finally:
        there.close()
    assert there.processes == []
