"""A training step beside the search in it."""

import torch

from benchmarks.lookup import step
from benchmarks.lookup.cells import Cell
from rarememory import Memory


def test_a_training_step_is_timed_beside_its_search(folders):
    tiny = ("--device", "cpu", "--batch", "4", "--slots", "64", "--key-dim", "8")
    assert step.main([*tiny, "--seconds", "0.01"]) == 0
    figures = folders.result("lookup_step_cpu")["figures"]
    key = "lookup.cpu.train_step.ratio_to_nearest_pair.b4_m64_d8"
    assert set(figures) == {key, f"{key}.quartile1", f"{key}.quartile3"}
    assert figures[key] > 1


def test_the_step_that_is_timed_reads_learns_and_writes(monkeypatch):
    done = []
    real = Memory.write
    monkeypatch.setattr(
        Memory, "write", lambda self, *given: done.append(real(self, *given)) or done[-1]
    )
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: done.append(float(self.detach())))
    once, search = step.prepared(Cell(4, 64, 8, 0), "cpu")
    once()
    loss, write = done
    assert loss > 0 and write.hits.any() and not write.hits.all()
    positive, negative = search()
    assert positive.shape == negative.shape == (4,) and len(done) == 2
