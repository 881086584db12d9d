"""What is forgotten, and what stays."""

import pytest
import torch

from rarememory import EMPTY, FirstInFirstOut, Memory
from tests.memories import fresh, lived


def aged() -> Memory:
    """Slots 0 to 4 with labels 0 1 0 1 2 and ages 4 3 2 1 0, slot 5 empty."""
    memory = Memory(5, 6, update=FirstInFirstOut())
    for row, label in zip(torch.eye(5), [0, 1, 0, 1, 2], strict=True):
        memory.write(row, torch.tensor(label))
    assert memory.ages.tolist() == [4, 3, 2, 1, 0, EMPTY]
    return memory


@pytest.mark.parametrize(
    ("conditions", "gone"),
    [
        ({"labels": 1}, {1, 3}),
        ({"labels": [0, 2]}, {0, 2, 4}),
        ({"labels": torch.tensor(2)}, {4}),
        ({"labels": torch.tensor([[0], [1]], dtype=torch.int8)}, {0, 1, 2, 3}),
        ({"labels": {7, 8}}, set()),
        ({"labels": []}, set()),
        ({"labels": EMPTY}, set()),
        ({"slots": 5}, set()),
        ({"slots": (1, 1, 5, 4)}, {1, 4}),
        ({"slots": range(6)}, {0, 1, 2, 3, 4}),
        ({"older_than": 2}, {0, 1}),
        ({"older_than": 0}, {0, 1, 2, 3}),
        ({"older_than": 4}, set()),
        ({"labels": 0, "older_than": 2}, {0}),
        ({"labels": 0, "slots": [1, 2, 3]}, {2}),
        ({"slots": [0, 1, 4], "older_than": 3}, {0}),
        ({"labels": [0, 1], "slots": [0, 1, 4], "older_than": 2}, {0, 1}),
    ],
)
def test_what_meets_every_condition_is_forgotten_and_nothing_else(conditions, gone):
    memory, whole = aged(), aged()
    assert memory.forget(**conditions) == len(gone)
    for slot in range(5):
        if slot in gone:
            assert memory.values[slot] == EMPTY == memory.ages[slot]
            assert memory.keys[slot].eq(0).all() and memory.written[slot] == 0
        else:
            for mine, theirs in zip(memory.state[:3], whole.state[:3], strict=True):
                assert torch.equal(mine[slot], theirs[slot])
    assert memory.clock == whole.clock == 5 and len(memory) == 5 - len(gone)
    assert bool(memory)


def test_the_age_of_a_slot_forgotten_and_written_again_starts_anew():
    memory = aged()
    memory.forget(slots=0)
    memory.write(-torch.eye(5)[0], torch.tensor(9))
    assert memory.ages.tolist() == [0, 4, 3, 2, 1, EMPTY]


def test_a_cleared_memory_is_empty_and_its_clock_goes_on():
    memory = lived(fresh())
    clock = memory.clock.item()
    memory.clear()
    assert len(memory) == 0 and memory.ages.eq(EMPTY).all() and memory.clock.item() == clock
    assert memory.keys.eq(0).all() and memory.written.eq(0).all()
