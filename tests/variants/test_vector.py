"""Vector values: what was remembered, weighed; means where keys are averaged."""

import pytest
import torch
from classifiers import at
from hypothesis import given
from hypothesis import strategies as st
from memories import bits

from rarememory import FirstInFirstOut, Memory, VectorMemory


def of_vectors(memory_size=6, width=2, **options):
    options = {"update": FirstInFirstOut(), "temperature": 0.2} | options
    return VectorMemory(Memory(2, memory_size, **options), width)


def test_reading_returns_the_weighed_vectors():
    memory, vectors = of_vectors(), torch.randn(3, 2)
    memory.write(at(0, 90, 200), vectors)
    found = memory(at(10, 120).requires_grad_(), k=2)
    slots, weights = found.recall.slots, found.recall.weights
    assert slots.shape == (2, 2)
    for row in range(2):
        wanted = sum(w * memory.vectors[s] for w, s in zip(weights[row], slots[row], strict=True))
        torch.testing.assert_close(found.vectors[row], wanted)
    assert {tuple(v.tolist()) for v in memory.vectors[:3]} == {tuple(v.tolist()) for v in vectors}


def test_gradients_reach_the_queries_and_not_the_vectors():
    memory, queries = of_vectors(), at(10, 70).requires_grad_()
    memory.write(at(0, 90), torch.eye(2))
    memory(queries).vectors[:, 0].sum().backward()
    assert queries.grad.abs().sum() > 0 and not memory.vectors.requires_grad


def test_nothing_found_is_zero():
    memory = of_vectors()
    assert memory(at(0)).vectors.tolist() == [[0.0, 0.0]]
    memory.write(at(0), torch.ones(1, 2))
    masked = memory(at(0, 10), mask=torch.tensor([True, False])).vectors
    assert masked.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_any_leading_shape_may_ask():
    memory = of_vectors()
    memory.write(at(0, 90), torch.eye(2))
    asked = torch.stack([at(0, 45, 90), at(10, 20, 30)])
    assert memory(asked).vectors.shape == (2, 3, 2)
    assert memory(asked[0, 0]).vectors.shape == (2,)


def test_several_labels_at_once_are_a_vector_of_zeros_and_ones():
    memory = of_vectors(width=3, temperature=0.01)
    memory.write(at(0, 90), torch.tensor([[1.0, 0, 1], [0, 1, 1]]))
    torch.testing.assert_close(memory(at(3)).vectors, torch.tensor([[1.0, 0, 1]]))
    between = memory(at(45)).vectors
    torch.testing.assert_close(between, torch.tensor([[0.5, 0.5, 1]]))


HISTORY = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(-9, 9)), min_size=1,
             max_size=4), max_size=6,
)  # fmt: skip


@given(HISTORY, st.booleans())
def test_a_slot_holds_the_mean_of_the_rows_that_are_in_it(history, averages):
    memory = of_vectors(4, 1, **({"update": None} if averages else {}))
    inside = {}
    for rows in history:
        queries = at(*(45 * place + 1 for place, _, _ in rows))
        labels = torch.tensor([label for _, label, _ in rows])
        vectors = torch.tensor([[float(number)] for _, _, number in rows])
        write = memory.write(queries, vectors, labels)
        pairs = list(zip(write.slots.tolist(), write.hits.tolist(), vectors.tolist(), strict=True))
        for slot, hit, _ in pairs:
            if not (hit and averages):
                inside[slot] = []
        for slot, _, (number,) in pairs:
            inside[slot].append(number)
    for slot in range(4):
        numbers = inside.get(slot, [])
        mean = sum(numbers) / len(numbers) if numbers else 0.0
        assert memory.vectors[slot].item() == pytest.approx(mean, abs=1e-5)
        assert memory.counts[slot] == len(numbers)


def test_more_rows_than_slots_leave_the_last_of_them():
    memory = of_vectors(2, 1)
    write = memory.write(at(0, 72, 144, 216, 288), torch.arange(5.0).unsqueeze(1))
    assert len(write.slots) == 5 and memory.counts.tolist() == [1, 1]
    for slot in range(2):
        angle = torch.atan2(*memory.memory.keys[slot].flip(0)).rad2deg() % 360
        assert memory.vectors[slot].item() == pytest.approx(angle.item() / 72, abs=1e-3)


def test_after_forgetting_no_vector_remains():
    memory = of_vectors()
    memory.write(at(0, 90), torch.ones(2, 2), torch.tensor([3, 4]))
    assert memory.forget(labels=3) == 1
    assert memory.vectors.any(1).sum() == 1 == memory.counts.sum()
    memory.clear()
    assert not memory.vectors.any() and not memory.counts.any() and len(memory.memory) == 0


def test_a_slot_emptied_behind_its_back_brings_no_old_vector():
    memory = of_vectors(1, 1)
    memory.write(at(0), torch.tensor([[5.0]]))
    memory.memory.clear()
    memory.write(at(90), torch.tensor([[7.0]]))
    assert memory.vectors.tolist() == [[7.0]] and memory.counts.tolist() == [1]


def holding_numbers(memory_size=6):
    """Vector n under the n-th of as many directions as there are slots."""
    memory = of_vectors(memory_size, 1)
    memory.write(at(*range(0, 40 * memory_size, 40)), torch.arange(1.0, memory_size + 1)[:, None])
    return memory


def by_angle(memory):
    """The vector and count of every occupied slot, by the angle of its key."""
    slots = memory.state.occupied.nonzero().squeeze(1)
    angles = torch.atan2(*memory.state.keys[slots].T.flip(0)).rad2deg() % 360
    parts = (
        part[slots].flatten().tolist() for part in (angles.round(), memory.vectors, memory.counts)
    )
    return {angle: (vector, count) for angle, vector, count in zip(*parts, strict=True)}


@pytest.mark.parametrize("memory_size", [2, 6, 9])
def test_vectors_follow_their_keys_into_a_memory_of_another_size(memory_size):
    memory, loaded, old = holding_numbers(), of_vectors(memory_size, 1), of_vectors(memory_size, 1)
    before, state = by_angle(memory), memory.state_dict()
    loaded.load_state_dict(state)
    # Version 0.1 had the vectors beside the memory.
    names = {name: name.replace("memory.", "") if name[7:] in ("vectors", "counts") else name
             for name in state}  # fmt: skip
    old.load_state_dict({names[name]: part for name, part in state.items()})
    memory.resize(memory_size)
    for one in (memory, loaded, old):
        assert one.vectors.shape == (memory_size, 1)
        assert len(one) == min(6, memory_size) and by_angle(one).items() <= before.items()
        assert not one.vectors[~one.state.occupied].any()


def test_a_snapshot_brings_the_vectors_back_and_read_only_refuses_a_write():
    memory = holding_numbers()
    before = bits(memory)
    with memory.snapshot():
        memory.forget(slots=0)
        memory.resize(3)
        memory.write(at(17), torch.ones(1, 1))
    with memory.read_only(), pytest.raises(RuntimeError, match="read-only here: write"):
        memory.write(at(17), torch.ones(1, 1))
    assert bits(memory) == before


def test_a_write_to_the_memory_itself_leaves_no_old_vector():
    memory = holding_numbers(2)
    slot = memory.memory.write(at(111), torch.tensor([3])).slots
    assert memory.counts[slot] == 0 and memory.vectors[slot] == 0
    assert memory.vectors[1 - slot] != 0


def test_a_checkpoint_of_another_width_or_without_vectors_is_refused_whole():
    memory = holding_numbers()
    before = bits(memory)
    with pytest.raises(RuntimeError, match="vectors have width 3, and this memory's 1"):
        memory.load_state_dict(of_vectors(4, 3).state_dict())
    plain = {"memory." + name: part for name, part in Memory(2, 6).state_dict().items()}
    with pytest.raises(RuntimeError, match="memory has no vectors and no counts"):
        memory.load_state_dict(plain)
    assert bits(memory) == before


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("queries", "vectors", "labels", "said"),
    [
        (at(0), torch.ones(1, 3), None, r"vectors of shape \[1, 3\] for 1 queries"),
        (at(0, 9), torch.ones(1, 2), None, r"give \[2, 2\]"),
        (at(0, 9), torch.tensor([[1, 1], [1, torch.inf]]), None, r"are not: \[1\]"),
        (at(0, 9) * torch.tensor([[1], [0]]), torch.ones(2, 2), None, r"not zero.*: \[1\]"),
        (at(0), torch.ones(1, 2), torch.tensor([-1]), "labels must be integers >= 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused(queries, vectors, labels, said):
    memory = of_vectors(1)
    before = bits(memory)
    with pytest.raises(ValueError, match=said):
        memory.write(queries, vectors, labels)
    assert bits(memory) == before


def test_averaging_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"give labels, or Memory\(..., update=FirstInFirstOut"):
        of_vectors(update=None).write(at(0), torch.ones(1, 2))


def test_a_memory_that_holds_something_is_refused():
    memory = Memory(2, 3)
    memory.write(at(0), torch.tensor([1]))
    with pytest.raises(ValueError, match="holds 1 slots already"):
        VectorMemory(memory, 2)
    with pytest.raises(ValueError, match="width must be an integer of at least 1, not 0"):
        VectorMemory(Memory(2, 3), 0)
    with pytest.raises(ValueError, match="has vectors already"):
        VectorMemory(of_vectors().memory, 2)
