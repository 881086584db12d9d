"""What the memory costs: every figure has quartiles, and says with which instructions it was."""

import json

import pytest
import torchvision
from torch import nn

from benchmarks import memory
from benchmarks.lookup.machine import MASKS

KEYS = {
    *(f"memory.train_step.{rows}ratio_to_matmul" for rows in ("", "all_hits.", "all_misses.")),
    *(f"memory.read.b{batch}.ratio_to_search" for batch in (1, 16)),
    *(f"memory.{part}.ratio_1m_to_8192" for part in ("write", "write.misses", "oldest")),
    *("memory.lock.ratio_to_read.m256", "memory.lock.ratio_to_read.m512"),
    *("step.ratio_to_product", "predict.overhead_percent", "learn.overhead_percent"),
}


def small_classifier() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10))


def published(folders, name):
    return json.loads((folders.published / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    sizes = {"SLOTS": 512, "MANY_SLOTS": 2048, "NEIGHBORS": 8, "ROUNDS": 3, "WARM_UP": 1}
    for name, size in sizes.items():
        monkeypatch.setattr(memory, name, size)
    monkeypatch.setattr(torchvision.models, "resnet18", small_classifier)
    for mask in MASKS:
        monkeypatch.delenv(mask, raising=False)


def test_every_ratio_has_quartiles(folders):
    assert memory.main([]) == 0
    result = published(folders, "memory")
    figures = result["figures"]
    assert figures.keys() == {
        f"{key}{end}" for key in KEYS for end in ("", ".quartile1", ".quartile3")
    }
    assert all(
        figures[f"{key}.quartile1"] <= figures[key] <= figures[f"{key}.quartile3"] for key in KEYS
    )
    assert figures["step.ratio_to_product"] == figures["memory.train_step.ratio_to_matmul"] > 0
    assert result["masks"] == {}


def test_masked_instructions_have_a_file_of_their_own(folders, monkeypatch):
    monkeypatch.setattr(memory, "instruction_set", lambda: "avx2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    for part in ("_writing", "_locking", "_classifying"):
        monkeypatch.setattr(memory, part, dict)
    monkeypatch.setattr(
        memory, "_training_step", lambda: {"memory.train_step.ratio_to_matmul": [1.0, 2.0]}
    )
    assert memory.main([]) == 0
    result = published(folders, "memory_avx2")
    assert result["masks"] == {"ATEN_CPU_CAPABILITY": "avx2"} and result["instructions"] == "avx2"
    assert {"avx2.step.ratio_to_product", "avx2.memory.read.b16.ratio_to_search"} < result[
        "figures"
    ].keys()
