"""Reads and writes of a GPU in Triton's interpreter, against plain torch (tests/gpu: on one)."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    LeastRecentlyUsed,
    Memory,
)
from rarememory.lookup import TritonLookup
from rarememory.memory import reading_on_gpu, writing_on_gpu
from tests.memories import steps

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("torch_only"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs these on the GPU"),
]

DIM = 7
POLICIES = {
    "the paper's": AverageOrReplace(),
    "without noise": AverageOrReplace(age_noise=0.0),
    "random": AverageOrReplaceRandom(),
    "first in, first out": FirstInFirstOut(),
}


def twins(memory_size: int, **options: Any) -> tuple[Memory, Memory]:
    """Equal memories: by plain torch, and by the kernels."""
    mine = Memory(DIM, memory_size, k=5, seed=3, lookup="torch", **options)
    theirs = copy.deepcopy(mine)
    theirs.lookup = TritonLookup(interpret=True)
    return mine, theirs


def assert_equal(mine: Memory, theirs: Memory) -> None:
    for ours, others in zip(mine.state, theirs.state, strict=True):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, others, rtol=0, atol=2e-7)
        else:
            assert torch.equal(ours, others)


def assert_same_recall(mine: Any, theirs: Any) -> None:
    for name in ("slots", "values"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    for name in ("scores", "queries"):
        ours, others = getattr(mine, name), getattr(theirs, name)
        torch.testing.assert_close(ours, others, rtol=0, atol=2e-7)


@pytest.fixture
def in_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been read and written in kernels."""
    done: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            answer = call(*given)
            done.extend([name] if answer is not None else [])
            return answer

        return noted

    for file, name in (
        (reading_on_gpu, "read"),
        (reading_on_gpu, "read_pair"),
        (writing_on_gpu, "write"),
    ):
        monkeypatch.setattr(file, name, noting(name, getattr(file, name)))
    return done


@pytest.mark.parametrize(
    ("update", "half_precision_copy"),
    [*((one, False) for one in POLICIES.values()), (AverageOrReplace(), True)],
    ids=[*POLICIES, "with a copy of the keys"],
)
def test_a_history_reads_and_writes_the_same(update, half_precision_copy, in_kernels):
    mine, theirs = twins(33, update=update, half_precision_copy=half_precision_copy)
    for rows, labels in steps(2):
        rows, labels = rows[:33], labels[:33]
        found, same = mine(rows, labels), theirs(rows, labels)
        assert_same_recall(found, same)
        torch.testing.assert_close(found.loss, same.loss)
        done, also = mine.write(found, labels), theirs.write(same, labels)
        assert all(torch.equal(ours, others) for ours, others in zip(done, also, strict=True))
        assert mine.forget(labels=8) == theirs.forget(labels=8)
        assert_equal(mine, theirs)
    for k in (1, 40):
        assert_same_recall(mine(rows[:2], k=k), theirs(rows[:2], k=k))
    assert in_kernels == 2 * ["read_pair", "write"] + 2 * ["read"]


@settings(max_examples=5)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 4), st.booleans())
def test_any_memory_writes_the_same(memory_size, rows, classes, empty):
    # Without the fixtures of a test, which would be those of all examples.
    mine, theirs = twins(memory_size, validate=False)
    if not empty:
        torch.manual_seed(memory_size)
        keys = torch.nn.functional.normalize(torch.randn(memory_size, DIM), dim=1)
        for memory in (mine, theirs):
            memory.keys.copy_(keys)
            memory.values.copy_(torch.arange(memory_size) % (classes + 1))
            memory.written.copy_(torch.arange(memory_size).flip(0) // 3)
            memory.clock.fill_(memory_size)
    # Rows that hit, some of them the same slot, and others that do not.
    queries = torch.cat([theirs.keys[:3] + 0.01, theirs.keys[:2], torch.randn(rows, DIM)])
    labels = torch.randint(0, classes + 2, (len(queries),))
    for memory in (mine, theirs):
        memory.write(queries[:memory_size], labels[:memory_size])
    assert_equal(mine, theirs)


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_slots_are_given_up_in_order_when_bins_hold_several(monkeypatch, noise):
    """Also those that the oldest of all share a bin with."""
    for name, size in (("_BINS", 16), ("_OTHERS", 2)):
        monkeypatch.setattr(writing_on_gpu, name, size)
    mine, theirs = twins(61, update=AverageOrReplace(age_noise=noise))
    ages = torch.randint(0, 5, (61,))
    ages[::16] = 50
    for memory in (mine, theirs):
        memory.values.copy_(torch.arange(61) % 7)
        memory.values[[5, 21, 40]] = EMPTY
        memory.keys.copy_(torch.nn.functional.normalize(torch.randn(61, DIM), dim=1))
        memory.written.copy_(100 - ages)
        memory.clock.fill_(100)
    theirs.keys.copy_(mine.keys)
    queries = torch.cat([mine.keys[[0, 16]], torch.randn(6, DIM)])
    labels = torch.cat([mine.values[[0, 16]], torch.full((6,), 9)])
    done, also = mine.write(queries, labels), theirs.write(queries, labels)
    assert all(torch.equal(ours, others) for ours, others in zip(done, also, strict=True))
    # The two that rows are averaged into are as old as any.
    assert not {0, 16} & set(also.slots[2:].tolist()) and {5, 21, 40} <= set(also.slots.tolist())
    assert_equal(mine, theirs)


def test_of_slots_of_one_age_the_lowest_are_given_up(monkeypatch):
    """Though every bin has some in each part that is looked at together."""
    for name, size in (("_BINS", 16), ("_OTHERS", 2)):
        monkeypatch.setattr(writing_on_gpu, name, size)
    mine, theirs = twins(61, update=FirstInFirstOut())
    for memory in (mine, theirs):
        memory.values.fill_(3)
        memory.keys.copy_(torch.eye(DIM)[torch.arange(61) % DIM])
        slots = memory.write(torch.eye(DIM)[:2], torch.tensor([4, 5])).slots
        assert sorted(slots.tolist()) == [0, 1]
    assert_equal(mine, theirs)


def test_gradients_reach_the_queries():
    mine, theirs = twins(33)
    rows, labels = torch.randn(12, DIM), torch.arange(12) % 4
    for memory in (mine, theirs):
        memory.write(rows, labels)
    asked, right = torch.randn(9, DIM), torch.arange(9) % 6
    for weigh in (
        lambda recall: recall.loss,
        lambda recall: 3 * recall.loss + recall.scores[:, 0].sum(),
        lambda recall: recall.loss + recall.queries.square().sum(1).log().sum(),
    ):
        gradients = []
        for memory in (mine, theirs):
            queries = asked.clone().requires_grad_()
            weigh(memory(queries, right)).backward()
            gradients.append(queries.grad)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_the_loss():
    memory = Memory(DIM, 20, lookup=TritonLookup(interpret=True))
    memory.write(torch.randn(12, DIM), torch.arange(12) % 4)
    queries, labels = torch.randn(3, DIM), torch.arange(3)
    at = queries.clone().requires_grad_()
    memory(at, labels).loss.backward()
    step = 1e-2 * torch.randn(3, DIM)
    with torch.no_grad():
        change = memory(queries + step, labels).loss - memory(queries - step, labels).loss
    torch.testing.assert_close(change, 2 * (at.grad * step).sum(), rtol=0.1, atol=1e-3)


BAD = torch.stack([torch.full((DIM,), bad) for bad in (0.0, torch.nan, torch.inf)])


def test_rows_that_are_not_good_are_left_out_where_nothing_is_checked(in_kernels):
    mine, theirs = twins(33, validate=False)
    rows = torch.cat([torch.randn(3, DIM), BAD, torch.randn(2, DIM)])
    labels = torch.tensor([1, 2, 1, 1, 1, 1, -4, 2])
    for memory in (mine, theirs):
        memory.write(
            torch.randn(9, DIM, generator=torch.Generator().manual_seed(1)), torch.arange(9)
        )
    for weight_of_scores in (0.0, 0.5):
        gradients, recalls = [], []
        for memory in (mine, theirs):
            queries = rows.clone().requires_grad_()
            recall = memory(queries, labels)
            scores = recall.scores.where(recall.slots != EMPTY, 0.0)
            (recall.loss + (weight_of_scores * scores.sum() if weight_of_scores else 0)).backward()
            recalls.append(recall)
            gradients.append(queries.grad[[0, 1, 2, 7]])
        assert_same_recall(*recalls)
        torch.testing.assert_close(recalls[0].loss, recalls[1].loss)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    done, also = mine.write(recalls[0], labels), theirs.write(recalls[1], labels)
    assert torch.equal(done.slots, also.slots) and (also.slots[3:7] == EMPTY).all()
    assert_equal(mine, theirs)
    assert (theirs(rows).slots[3:6] == EMPTY).all() and "write" in in_kernels
    for memory in (mine, theirs):
        assert memory.write(memory(rows[:2]), torch.tensor([3, -1])).slots[1] == EMPTY
    assert_equal(mine, theirs)


@pytest.mark.parametrize("bad", range(3))
def test_a_row_that_is_not_good_is_refused_where_all_is_checked(bad):
    memory = Memory(DIM, 9, lookup=TritonLookup(interpret=True))
    rows = torch.cat([torch.randn(2, DIM), BAD[bad : bad + 1]])
    for verb in (memory, lambda rows: memory.write(rows, torch.arange(3))):
        with pytest.raises(ValueError, match=r"finite and not zero, and these rows are not: 2 "):
            verb(rows)
    with pytest.raises(ValueError, match=r"integers >= 0, and these rows are not: 1 "):
        memory(rows[:2], torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"integers >= 0, and these rows are not: 1 "):
        memory.write(memory(rows[:2]), torch.tensor([1, -1]))
    assert memory.clock == 0 and (memory.values == EMPTY).all()


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_a_row_of_any_length_has_a_direction(length):
    mine, theirs = twins(9)
    row = torch.randn(1, DIM)
    torch.testing.assert_close(theirs(length * row).queries, mine(row).queries, rtol=0, atol=2e-7)


def test_an_empty_memory_and_one_of_one_slot(in_kernels):
    mine, theirs = twins(1)
    rows, labels = torch.randn(1, DIM), torch.tensor([4])
    for _ in range(3):
        found, same = mine(rows, labels), theirs(rows, labels)
        assert_same_recall(found, same)
        assert found.loss == same.loss
        mine.write(found, labels)
        theirs.write(same, labels)
        assert_equal(mine, theirs)
        labels += 1
    assert in_kernels == 3 * ["read_pair", "write"]


def test_a_recall_of_other_slots_is_refused_or_hits_nothing():
    for validate in (True, False):
        memory = Memory(DIM, 40, lookup=TritonLookup(interpret=True), validate=validate)
        memory.write(torch.randn(30, DIM), torch.arange(30))
        recall, before = memory(memory.keys[20:30].clone()), memory.values.clone()
        memory.resize(10)
        memory.values.fill_(3)
        if validate:
            with pytest.raises(ValueError, match="the recall names slot 29, and this memory has 0"):
                memory.write(recall, before[20:30])
        else:
            assert not memory.write(recall, before[20:30]).hits.any()


def test_what_is_not_finite_in_a_recall_is_not_written():
    mine, theirs = twins(9)
    rows = torch.randn(4, DIM)
    spoilt = rows.clone()
    spoilt[1, 0], spoilt[2, 0] = torch.nan, torch.inf
    for memory in (mine, theirs):
        recall = memory(rows)
        memory.write(recall._replace(queries=spoilt), torch.arange(4))
    assert_equal(mine, theirs)
    assert theirs.keys.isfinite().all() and len(theirs) == 2


@pytest.mark.parametrize(
    ("dtype", "length"),
    [(torch.float16, 1.0), (torch.float16, 3e4), (torch.float32, 1e-25), (torch.float32, 1e25)],
)
def test_the_gradient_of_more_than_the_loss_is_right_for_rows_of_any_length(dtype, length):
    mine, theirs = twins(33)
    rows, labels = torch.randn(12, DIM), torch.arange(12) % 4
    for memory in (mine, theirs):
        memory.write(rows, labels)
    asked, gradients = (length * torch.randn(5, DIM).clamp(-2, 2)).to(dtype), []
    for memory in (mine, theirs):
        queries = asked.clone().requires_grad_()
        recall = memory(queries, torch.arange(5))
        (recall.loss + recall.scores[:, 0].sum()).backward()
        gradients.append(queries.grad.double() * length)
    # One of the two rounds to float16 between its steps.
    close = 2e-2 if dtype == torch.float16 else 1e-5
    torch.testing.assert_close(*gradients, rtol=close, atol=close)


def test_a_row_that_was_left_out_has_no_gradient():
    mine, theirs = twins(9, validate=False)
    for memory in (mine, theirs):
        memory.write(torch.eye(DIM)[:3], torch.arange(3))
        queries = torch.ones(3, DIM, requires_grad=True)
        recall = memory(queries, torch.tensor([1, -1, 2]))
        (recall.queries * torch.arange(DIM)).sum().backward()
        assert queries.grad[[0, 2]].any(1).all() and not queries.grad[1].any()


def test_values_may_lie_apart_and_labels_must_be_dense():
    mine, theirs = twins(9)
    for memory in (mine, theirs):
        memory.write(torch.eye(DIM), torch.arange(10, 10 + DIM))
        memory.values = torch.stack([memory.values, torch.full((9,), 77)], dim=1)[:, 0]
    rows, labels = torch.randn(3, DIM), torch.tensor([11, 12, 13])
    for k in (1, 4):
        assert_same_recall(mine(rows, k=k), theirs(rows, k=k))
    assert_same_recall(mine(rows, labels), theirs(rows, labels))
    with pytest.raises(ValueError, match="labels must be dense"):
        theirs(rows, labels.to_sparse())


def test_a_write_that_is_not_made_in_kernels_searches_once(monkeypatch):
    memory = Memory(DIM, 9, lookup=TritonLookup(interpret=True))
    searches = []
    search = TritonLookup._search
    monkeypatch.setattr(
        TritonLookup, "_search", lambda *given, **how: searches.append(search(*given, **how))
    )
    memory.write(torch.randn(3, DIM), torch.arange(3, dtype=torch.int32))
    assert len(searches) == 1


@pytest.mark.parametrize("label", [1, 2])
def test_of_a_right_and_a_wrong_slot_that_tie_the_lower_comes_first(label):
    mine, theirs = twins(9)
    for memory in (mine, theirs):
        memory.keys[[1, 3]] = torch.eye(DIM)[0]
        memory.values[[1, 3]] = torch.tensor([2, 1])
        assert memory(torch.eye(DIM)[:1], torch.tensor([label])).slots.tolist() == [[1, 3]]


def test_a_key_that_a_row_cancels_stays_as_it_is():
    mine, theirs = twins(9)
    row, label = torch.eye(DIM)[:1], torch.tensor([4])
    for memory in (mine, theirs):
        memory.write(row, label)
        assert memory.write(-row, label).hits.all() and memory.clock == 2
    assert_equal(mine, theirs)
    assert torch.equal(theirs.keys[:1], row)


def test_what_takes_more_than_kernels_is_done_as_before(in_kernels):
    mine, theirs = twins(12, count_usage=True, update=LeastRecentlyUsed())
    rows, labels = torch.randn(9, DIM), torch.arange(9) % 4
    for memory in (mine, theirs):
        memory.write(rows, labels, mask=labels > 0)
        memory.write(rows.double(), labels)
        memory.write(rows, labels.int())
        memory.write(
            torch.randn(40, DIM, generator=torch.Generator().manual_seed(1)), torch.arange(40)
        )
    assert_equal(mine, theirs)
    for options in ({"among": [1, 2]}, {"mask": labels > 1}, {"exclude_labels": labels}):
        assert_same_recall(mine(rows, **options), theirs(rows, **options))
    assert "write" not in in_kernels
