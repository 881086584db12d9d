"""Means of classes, against sums made by hand."""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import normalize

from rarememory import EMPTY, AverageOrReplace, FirstInFirstOut, MeanMemory, Memory
from tests.memories import bits


def mean_memory(memory_size=8, key_dim=4, **options) -> MeanMemory:
    return MeanMemory(key_dim, memory_size, update=AverageOrReplace(age_noise=0.0), **options)


def rows(count=30, key_dim=4, classes=5):
    return torch.randn(count, key_dim) * 3 + 1, torch.randint(0, classes, (count,))


def means(queries, labels) -> dict[int, torch.Tensor]:
    """The direction of the sum of the unit rows of each class."""
    units = normalize(queries, dim=1)
    return {n: normalize(units[labels == n].sum(0), dim=0) for n in labels.unique().tolist()}


def held(memory) -> dict[int, torch.Tensor]:
    slots = memory.state.occupied.nonzero().squeeze(1).tolist()
    assert len({int(memory.values[slot]) for slot in slots}) == len(slots)
    return {int(memory.values[slot]): memory.keys[slot] for slot in slots}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for label in one:
        torch.testing.assert_close(one[label], other[label])


@pytest.mark.parametrize("parts", [1, 7, 30])
def test_the_key_of_a_class_is_the_mean_of_all_its_examples_however_they_come(parts):
    queries, labels = rows()
    memory, permuted = mean_memory(), mean_memory()
    for some, of in zip(queries.split(parts), labels.split(parts), strict=True):
        memory.write(some, of)
    assert_same(held(memory), means(queries, labels))
    order = torch.randperm(30)
    permuted.write(queries[order], labels[order])
    assert_same(held(permuted), means(queries, labels))


def test_a_recall_is_written_as_its_queries_are():
    queries, labels = rows()
    one, other = mean_memory(), mean_memory()
    for query, label in zip(queries, labels, strict=True):
        one.write(query, label)
        other.write(other(query, k=3), label)
    assert_same(held(one), held(other))


def test_each_row_hears_where_its_class_is_and_whether_it_was_there():
    memory = mean_memory()
    first = memory.write(torch.eye(4)[:2], torch.tensor([9, 5]))
    assert not first.hits.any() and first.overwritten.tolist() == [EMPTY, EMPTY]
    # The nearest key is that of class 9, and class 5 is averaged all the same.
    queries, labels = torch.eye(4)[[0, 2, 2]].view(3, 1, 4), torch.tensor([[5], [7], [7]])
    done = memory.write(queries, labels)
    assert done.hits.tolist() == [[True], [False], [False]]
    assert done.slots[0, 0] == first.slots[1] and done.slots[1, 0] == done.slots[2, 0]
    assert memory.values[done.slots].tolist() == labels.tolist() and len(memory) == 3


def test_a_full_memory_gives_up_the_class_that_was_not_written_for_longest():
    memory = mean_memory(memory_size=3)
    for label in (0, 1, 2, 0):
        memory.write(torch.eye(4)[label], torch.tensor(label))
    done = memory.write(torch.eye(4)[3], torch.tensor(3))
    assert done.overwritten == 1 and sorted(memory.values.tolist()) == [0, 2, 3]
    # What was given up does not weigh on what came in its place.
    memory.write(torch.eye(4)[0], torch.tensor(3))
    torch.testing.assert_close(held(memory)[3], normalize(torch.eye(4)[0] + torch.eye(4)[3], dim=0))


def test_more_classes_than_slots_leave_as_many_as_there_are_slots():
    memory = mean_memory(memory_size=3)
    done = memory.write(torch.randn(10, 4), torch.arange(10))
    assert len(memory) == 3 and (done.slots != EMPTY).all()
    assert set(memory.values.tolist()) == {7, 8, 9}


def test_masked_rows_are_not_written_and_refused_rows_change_nothing():
    memory = mean_memory()
    queries, labels = rows(6)
    mask = torch.tensor([True, False, True, True, False, True])
    done = memory.write(queries, labels, mask=mask)
    assert done.slots[~mask].tolist() == [EMPTY, EMPTY]
    assert_same(held(memory), means(queries[mask], labels[mask]))
    before = bits(memory)
    with pytest.raises(ValueError, match="queries must be finite and not zero"):
        memory.write(queries * torch.tensor([[1.0], [1], [1], [1], [1], [0]]), labels)
    with memory.read_only(), pytest.raises(RuntimeError, match="read-only here: write"):
        memory.write(queries, labels)
    memory.write(queries[:0], labels[:0])
    memory.write(queries, labels, mask=torch.zeros(6, dtype=torch.bool))
    assert bits(memory) == before


def test_a_class_that_was_forgotten_begins_anew():
    memory = mean_memory()
    memory.write(torch.eye(4)[[0, 0, 1]], torch.tensor([5, 5, 6]))
    memory.forget(labels=5)
    memory.write(torch.eye(4)[[2, 3]], torch.tensor([5, 5]))
    torch.testing.assert_close(held(memory)[5], normalize(torch.eye(4)[2] + torch.eye(4)[3], dim=0))


@pytest.mark.parametrize("known", [False, True])
def test_examples_that_cancel_leave_a_key_of_unit_length(known):
    memory, query = mean_memory(), torch.tensor([0.6, 0.8, 0.0, 0.0])
    if known:
        memory.write(query, torch.tensor(3))
        memory.write(-query, torch.tensor(3))
    else:
        memory.write(torch.stack([query, -query]), torch.tensor([3, 3]))
    torch.testing.assert_close(memory.keys[0].norm(), torch.tensor(1.0))
    memory.write(torch.eye(4)[2], torch.tensor(3))
    torch.testing.assert_close(memory.keys[0], torch.eye(4)[2], atol=1e-3, rtol=0)


def test_a_snapshot_a_copy_and_a_checkpoint_know_what_the_keys_average():
    queries, labels = rows(60)
    memory = mean_memory()
    memory.write(queries[:20], labels[:20])
    with memory.snapshot():
        memory.write(queries[20:40] * -1, labels[20:40])
        memory.resize(2)
    copies = [deepcopy(memory), mean_memory(), mean_memory(memory_size=11)]
    for copy in copies[1:]:
        copy.load_state_dict(memory.state_dict())
    for each in (memory, *copies):
        each.write(queries[40:], labels[40:])
        both = torch.cat([queries[:20], queries[40:]]), torch.cat([labels[:20], labels[40:]])
        assert_same(held(each), means(*both))


def test_resizing_keeps_the_lengths_beside_their_keys():
    memory, queries = mean_memory(), torch.randn(9, 4)
    for label in (4, 3, 2, 1, 4, 4, 1):
        memory.write(queries[label], torch.tensor(label))
    lengths = dict(zip(memory.values.tolist(), memory.lengths.tolist(), strict=True))
    loaded = mean_memory(memory_size=2)
    loaded.load_state_dict(memory.state_dict())
    memory.resize(2)
    for small in (memory, loaded):
        assert sorted(small.values.tolist()) == [1, 4]
        kept = dict(zip(small.values.tolist(), small.lengths.tolist(), strict=True))
        assert kept == {label: lengths[label] for label in (1, 4)}
    memory.resize(5)
    memory.write(queries[:3], torch.tensor([7, 8, 9]))
    assert len(memory) == 5


def test_the_checkpoint_of_another_kind_of_memory_is_refused_whole():
    plain, memory = Memory(4, 8), mean_memory()
    plain.write(torch.eye(4), torch.arange(4))
    before = bits(memory)
    with pytest.raises(RuntimeError, match="the checkpoint's memory has no lengths"):
        memory.load_state_dict(plain.state_dict())
    assert bits(memory) == before


def test_a_policy_that_does_not_average_is_refused():
    with pytest.raises(ValueError, match="means take a policy that averages"):
        MeanMemory(4, 8, update=FirstInFirstOut())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("converted", [False, True])
def test_means_in_every_dtype_of_keys(dtype, converted):
    memory = MeanMemory(2, 4).to(dtype) if converted else MeanMemory(2, 4, key_dtype=dtype)
    memory.write(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([7, 7, 7]))
    wanted = torch.tensor([2.0, 1.0]) / 5**0.5
    torch.testing.assert_close(memory.keys[0].float(), wanted, atol=0.005, rtol=0)
    assert memory.lengths[0].item() == pytest.approx(5**0.5, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_parts_that_were_learnt_apart_have_the_means_of_the_whole(seed):
    torch.manual_seed(seed)
    one, other, whole = (mean_memory(count_usage=True) for _ in range(3))
    for part in (one, other, other):
        queries, labels = rows(7)
        for memory in (part, whole):
            memory.write(queries, labels)
        part.record(part(queries[:3], k=1))
    there = one.usage.uses.sum() + other.usage.uses.sum()
    ages, before = {**ages_of(one)}, bits(other)
    slots = one.merge(other)
    assert bits(other) == before
    assert_same(held(one), held(whole))
    assert one.lengths.sort().values.tolist() == pytest.approx(whole.lengths.sort().values.tolist())
    assert one.usage.uses.sum() == there and one.usage.reads == 2
    for value, age in ages_of(other).items():
        assert ages_of(one)[value] == min(age, ages.get(value, age))
    for value, slot in zip(other.values.tolist(), slots.tolist(), strict=True):
        assert (EMPTY if slot == EMPTY else one.values[slot]) == value
    # They go on alike, and what the lookup keeps of the keys is of the means.
    queries, labels = rows(7)
    for memory in (one, whole):
        memory.write(queries, labels)
    assert_same(held(one), held(whole))


def ages_of(memory) -> dict[int, int]:
    pairs = zip(memory.values.tolist(), memory.ages.tolist(), strict=True)
    return {value: age for value, age in pairs if value != EMPTY}


def test_a_merge_joins_examples_that_cancel_and_gives_up_the_oldest_class():
    one, other = mean_memory(2), mean_memory(4)
    one.write(torch.eye(4)[0], torch.tensor(1))
    one.write(torch.eye(4)[1], torch.tensor(2))
    for row, label in ((-torch.eye(4)[0], 1), (torch.eye(4)[2], 3), (torch.eye(4)[3], 4)):
        other.write(row, torch.tensor(label))
    # 2 and 4 are the youngest of both; the mean of 1, which both had, is given up as one.
    assert one.merge(other).tolist() == [EMPTY, EMPTY, 0, EMPTY]
    assert one.values.tolist() == [4, 2]
    back = mean_memory(4)
    back.write(torch.eye(4)[0], torch.tensor(1))
    assert back.merge(other).tolist() == [0, 1, 2, EMPTY]
    assert back.keys[0].tolist() == [1, 0, 0, 0] and 0 < back.lengths[0] < 1e-5
    back.write(torch.eye(4)[1], torch.tensor(1))
    torch.testing.assert_close(back.keys[0], torch.eye(4)[1], atol=1e-5, rtol=0)
