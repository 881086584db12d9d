"""The benchmark of the kernels of a GPU."""

import pytest
import torch

from benchmarks.lookup import kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_it_says_that_there_is_no_gpu(capsys):
    assert kernels.main([]) == 1
    assert "torch sees no gpu here" in capsys.readouterr().err


def test_what_is_timed_is_named_by_its_cell_and_mode(monkeypatch):
    class Clock:
        def measure(self, call, mode):
            call()
            return [2e-6, {"events": 1e-6, "graph": 3e-6}[mode], 4e-6]

    called = []
    monkeypatch.setattr(kernels, "CudaClock", Clock)
    found = kernels._both("key", lambda: called.append(1))
    assert found == {"key.microseconds": 2.0, "key.graph_microseconds": 3.0} and len(called) == 2
