"""A step of a training asks the device for nothing, so that the host never waits for a GPU."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rarememory import Lookup, Memory
from rarememory.backbones import Residual
from rarememory.data import draw_glyphs
from rarememory.training import Recipe, Training


class Blind(Lookup):
    """Finds the first slots without a look: tests/lookup/test_capture.py has the true searches."""

    name = "blind"

    def nearest(self, queries, keys, occupied, k):
        return queries.new_zeros(len(queries), min(k, len(keys)), dtype=torch.int64)

    def nearest_pair(self, queries, keys, values, labels):
        return torch.zeros_like(labels), torch.ones_like(labels)


class Copies(TorchDispatchMode):
    """Sees what is copied to another device, and whether the host goes on meanwhile."""

    def __init__(self):
        super().__init__()
        self.went_on = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if function is torch.ops.aten._to_copy.default else args[1]
            if made.device != source.device:
                self.went_on.append((kwargs or {}).get("non_blocking", False))
        return made


@pytest.mark.parametrize("cleared", [True, False])
def test_no_step_makes_the_host_wait_for_the_device(cleared, monkeypatch):
    # What lies on meta has no numbers to wait for: whoever asks for one raises.
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *which, **options: autocast("cpu", enabled=False))
    monkeypatch.setattr(Training, "_seeded_dropout", lambda training: nullcontext())
    recipe = Recipe(
        steps=4, n_way=6, group=3, random_part=0.0, bfloat16=False, cleared=cleared, n_neighbors=4
    )
    memory = Memory(16, 12, lookup=Blind(), validate=False).to("meta")
    training = Training(Residual(16).to("meta"), memory, draw_glyphs(9, 4).images, recipe)
    training.hard_classes.memory.lookup = Blind()
    for _ in range(2):
        with Copies() as copies:
            done = training.advance()
        assert done.loss.device.type == "meta"
        assert len(copies.went_on) == 5 and all(copies.went_on)
