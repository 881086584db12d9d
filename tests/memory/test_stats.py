"""The numbers of a memory, against loops over its slots."""

from collections import Counter

import pytest
import torch

from rarememory import EMPTY, FirstInFirstOut, Memory


def test_an_empty_memory_has_no_numbers_of_classes_and_ages():
    found = Memory(3, 5).stats()
    assert found == {"slots": 5, "occupied": 0, "fill": 0.0, "writes": 0}
    assert Memory(3, 5, count_usage=True).stats()["reads"] == 0


def test_the_numbers_are_those_of_the_slots():
    memory = Memory(4, 12, update=FirstInFirstOut(), count_usage=True)
    for label in (7, 7, 7, 9, 5, 5):
        memory.write(torch.randn(1, 4), torch.tensor([label]))
    memory.forget(labels=9)
    memory.record(memory(memory.keys[:2], k=1))
    memory.record(memory(memory.keys[:1], k=1))
    found = memory.stats()
    values = [value for value in memory.values.tolist() if value != EMPTY]
    counts, ages = Counter(values).values(), [a for a in memory.ages.tolist() if a != EMPTY]
    assert found == pytest.approx(
        {
            "slots": 12,
            "occupied": 5,
            "fill": 5 / 12,
            "writes": 6,
            "classes": 2,
            "slots_per_class_min": min(counts),
            "slots_per_class_mean": sum(counts) / 2,
            "slots_per_class_max": max(counts),
            "age_mean": sum(ages) / 5,
            "age_max": max(ages),
            "reads": 2,
            "answered": 2 / 5,
            "idle_max": 2,
        }
    )
    assert all(type(number) is float for number in found.values())
