"""Many memories in one module, against a loop over memories and against the papers in loops."""

import pickle
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    BatchedMemory,
    FirstInFirstOut,
    Memory,
    native,
)
from rarememory.lookup import LocalitySensitiveHashing
from rarememory.variants import MeanMemory
from tests.memories import bits, fresh, lived
from tests.oracle import PaperMemory

STATE = ("keys", "values", "written", "clock", "seed")
POLICIES = [
    AverageOrReplace(),
    AverageOrReplace(age_noise=0.0),
    AverageOrReplaceRandom(),
    FirstInFirstOut(),
]
options = {
    "count": st.sampled_from([1, 2, 5]),
    "size": st.sampled_from([1, 2, 5, 33]),
    "key_dim": st.sampled_from([2, 7, 33]),
    "k": st.sampled_from([1, 3, 256]),
    "policy": st.sampled_from(POLICIES),
    "dtype": st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
    "history": st.lists(
        st.tuples(
            st.sampled_from(["read", "learn", "write", "write", "write recall", "forget"]),
            st.sampled_from([0, 1, 2, 7, 40]),
            st.integers(0, 9999),
        ),
        max_size=6,
    ),
}


class Both:
    """Some memories in one module and in a loop, which live through the same history."""

    def __init__(self, count, size, key_dim, k, policy, dtype, lookup):
        self.loop = [
            Memory(key_dim, size, k=k, update=policy, key_dtype=dtype, seed=n, lookup=lookup).to(
                dtype
            )
            for n in range(count)
        ]
        self.batched = BatchedMemory(self.loop)
        self.wide = torch.promote_types(dtype, torch.float32)

    def rows(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.loop), count)
        queries = torch.randn(*shape, self.loop[0].keys.shape[1], generator=generator)
        if seed % 2:
            # Copies of a few: real ties.
            few = torch.randint(0, 3, shape, generator=generator)
            queries = torch.randn(3, queries.shape[2], generator=generator)[few]
        labels = torch.randint(0, 5, shape, generator=generator)
        mask = torch.rand(shape, generator=generator) < 0.7 if seed % 3 == 0 else None
        return queries.to(self.wide), labels, mask

    def step(self, verb: str, count: int, seed: int) -> None:
        queries, labels, mask = self.rows(count, seed)
        each = [None] * len(self.loop) if mask is None else mask
        if verb == "forget":
            which = self.batched.values == seed % 5
            forgotten = [memory.forget(labels=seed % 5) for memory in self.loop]
            assert self.batched.forget(which).tolist() == forgotten
        elif verb == "write":
            mine = self.batched.write(queries, labels, mask=mask)
            done = zip(self.loop, queries, labels, each, strict=True)
            same(mine, [m.write(q, own, mask=of) for m, q, own, of in done])
        elif verb == "write recall":
            recall = self.batched(queries)
            loops = [m(q) for m, q in zip(self.loop, queries, strict=True)]
            mine = self.batched.write(recall, labels, mask=mask)
            done = zip(self.loop, loops, labels, each, strict=True)
            same(mine, [m.write(r, own, mask=of) for m, r, own, of in done])
        else:
            self.read(queries, labels if verb == "learn" else None, mask, None if seed % 5 else 2)
        for name in STATE:
            assert torch.equal(
                getattr(self.batched, name), torch.stack([getattr(m, name) for m in self.loop])
            )

    def read(self, queries, labels, mask, k) -> None:
        mine, theirs = queries.clone().requires_grad_(), queries.clone().requires_grad_()
        recall = self.batched(mine, labels, mask=mask, k=k)
        loops = [
            memory(
                theirs[n],
                None if labels is None else labels[n],
                mask=None if mask is None else mask[n],
                k=k,
            )
            for n, memory in enumerate(self.loop)
        ]
        same(recall[:4], [of[:4] for of in loops])
        if labels is None or queries.shape[1] == 0:
            return
        assert torch.equal(recall.loss, torch.stack([of.loss for of in loops]))
        recall.loss.sum().backward()
        sum(of.loss for of in loops).backward()
        plain = mask is None and k is None and self.loop[0].keys.dtype == torch.float32
        if plain and native.is_supported(queries):
            assert torch.equal(mine.grad, theirs.grad)
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def same(mine, loops) -> None:
    """To the bit."""
    for number, part in enumerate(mine):
        assert torch.equal(part, torch.stack([of[number] for of in loops]))


@pytest.mark.parametrize("lookup", ["auto", "torch"])
@settings(max_examples=15)
@given(**options)
def test_any_history_is_that_of_a_loop_to_the_bit(lookup, history, **of_memories):
    both = Both(lookup=lookup, **of_memories)
    for step in history:
        both.step(*step)


@settings(max_examples=20)
@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9999)), max_size=6),
    count=st.integers(1, 4),
)
def test_each_memory_is_that_of_the_paper(rows, count):
    policy = AverageOrReplace(age_noise=0.0)
    batched = BatchedMemory([Memory(7, 12, update=policy) for _ in range(count)])
    papers = [PaperMemory(7, 12) for _ in range(count)]
    for batch, seed in rows:
        generator = torch.Generator().manual_seed(seed)
        queries = torch.randn(count, batch, 7, generator=generator)
        labels = torch.randint(0, 4, (count, batch), generator=generator)
        mask = torch.rand(count, batch, generator=generator) < 0.8
        recall = batched(queries, labels, mask=mask)
        truths = [
            paper.loss(*of)
            for paper, *of in zip(papers, *listed(queries, labels, mask), strict=True)
        ]
        assert recall.loss.tolist() == pytest.approx(truths, abs=5e-6)
        batched.write(queries, labels, mask=mask)
        for paper, *of in zip(papers, *listed(queries, labels, mask), strict=True):
            paper.write(*of)
    for values, keys, ages, paper in zip(
        batched.values, batched.keys, batched.ages, papers, strict=True
    ):
        assert values.tolist() == paper.values
        assert ages.clamp(min=0).tolist() == paper.ages
        truth = torch.tensor([key or [0.0] * 7 for key in paper.keys])
        torch.testing.assert_close(keys, truth, atol=5e-6, rtol=0)


def listed(*tensors):
    return [tensor.tolist() for tensor in tensors]


def batched_memory(count: int = 3) -> BatchedMemory:
    return BatchedMemory([lived(fresh(), seed=n) for n in range(count)])


def test_unbind_gives_back_what_was_put_in():
    memories = [lived(fresh(update=AverageOrReplaceRandom()), seed=n) for n in range(3)]
    for one, other in zip(memories, BatchedMemory(memories).unbind(), strict=True):
        assert bits(one) == bits(other) and repr(one) == repr(other)


def test_the_memories_share_nothing_with_those_given():
    memory = fresh()
    batched = BatchedMemory([memory])
    batched.write(torch.randn(1, 4, 7), torch.arange(4).unsqueeze(0))
    batched.unbind()[0].clear()
    assert len(memory) == 0 and (batched.values != EMPTY).sum() == 4


@pytest.mark.parametrize("copied", [deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_and_checkpoints_hold_the_same(copied):
    batched, other = batched_memory(), BatchedMemory([fresh() for _ in range(3)])
    other.load_state_dict(batched.state_dict())
    queries, labels = torch.randn(3, 5, 7), torch.randint(0, 9, (3, 5))
    for each in (batched, other, same_as := copied(batched)):
        each.write(queries, labels)
    for name in STATE:
        assert torch.equal(getattr(batched, name), getattr(other, name))
        assert torch.equal(getattr(batched, name), getattr(same_as, name))


def test_a_checkpoint_that_no_memory_has_is_refused_whole():
    batched = batched_memory()
    stored = {name: part.clone() for name, part in batched.state_dict().items()}
    stored["keys"][2, 4] *= 2
    before = {name: part.clone() for name, part in batched.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"memory 2: keys must be of length 1"):
        batched.load_state_dict(stored)
    assert all(torch.equal(part, before[name]) for name, part in batched.state_dict().items())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda part: part[:, :4], r"keys must be \[3, 33, 7\], not \[3, 4, 7\]"),
        (lambda part: part.to("meta"), "keys must have numbers"),
        (lambda part: part.to_sparse(), "keys must be a dense tensor"),
    ],
)
def test_keys_that_cannot_be_copied_are_refused_whole(spoil, message):
    batched, other = batched_memory(), batched_memory()
    other.forget(torch.tensor([True, False, True]))
    before = {name: part.clone() for name, part in other.state_dict().items()}
    stored = batched.state_dict()
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict({**stored, "keys": spoil(stored["keys"])})
    assert all(torch.equal(part, before[name]) for name, part in other.state_dict().items())


def test_a_refused_row_leaves_every_memory_as_it_was():
    batched = batched_memory()
    before = {name: part.clone() for name, part in batched.state_dict().items()}
    queries, labels = torch.randn(3, 5, 7), torch.zeros(3, 5, dtype=torch.int64)
    queries[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        batched.write(queries, labels)
    recall = batched(queries[:, :3])
    labels[2, 1] = -4
    with pytest.raises(ValueError, match=r"labels must be integers >= 0"):
        batched.write(recall, labels[:, :3])
    with pytest.raises(ValueError, match=r"names slot 33, and this memory has 0 to 32"):
        batched.write(recall._replace(slots=recall.slots * 0 + 33), labels[:, :3].abs())
    assert all(torch.equal(part, before[name]) for name, part in batched.state_dict().items())


def test_an_edited_recall_is_not_written_into_some_of_the_memories():
    batched = batched_memory()
    recall = batched(torch.randn(3, 2, 7), k=1)
    before = batched.values.clone()
    recall.slots[2, 1] = 33
    with pytest.raises(ValueError, match="slot 33"):
        batched.write(recall, torch.full((3, 2), 77))
    assert torch.equal(batched.values, before)


@pytest.mark.parametrize("shape", [(2, 7), (4, 5, 7)])
def test_queries_of_another_number_of_memories_are_refused(shape):
    batched = batched_memory()
    with pytest.raises(ValueError, match=r"for 3 memories: give \[3, ..., 7\]"):
        batched(torch.randn(shape))
    with pytest.raises(ValueError, match=r"for 3 memories: give \[3, ..., 7\]"):
        batched.write(torch.randn(shape), torch.zeros(shape[:-1], dtype=torch.int64))


def test_a_mask_to_forget_by_has_the_shape_of_memories_or_slots():
    with pytest.raises(ValueError, match=r"give a mask of memories \[3\], or of slots \[3, 33\]"):
        batched_memory().forget(torch.ones(33, dtype=torch.bool))


def test_a_gradient_outlives_a_write_of_the_keys():
    batched = batched_memory()
    queries = torch.randn(3, 4, 7, requires_grad=True)
    labels = torch.randint(0, 9, (3, 4))
    recall = batched(queries, labels)
    batched.write(recall, labels)
    recall.loss.sum().backward()
    assert queries.grad.isfinite().all() and queries.grad.any()


class Mine(AverageOrReplace):
    """A policy of one's own: what it does with the slots of many memories is not known."""


REFUSED = {
    "is not a plain Memory": lambda: MeanMemory(7, 33),
    "projects its queries": lambda: fresh(projection=True),
    "copy of its keys in half precision": lambda: fresh(half_precision_copy=True),
    "has buffers beside": lambda: fresh(count_usage=True),
    "searches by": lambda: fresh(lookup=LocalitySensitiveHashing()),
    "writes by": lambda: fresh(update=Mine()),
    "has temperature 0.5": lambda: fresh(temperature=0.5),
    "has shape": lambda: fresh(32),
    "has dtype": lambda: fresh().double(),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_memory_that_many_at_once_cannot_be_is_refused(reason):
    with pytest.raises(ValueError, match=f"memory 1 .*{reason}"):
        BatchedMemory([fresh(), REFUSED[reason]()])


def test_there_is_at_least_one_memory():
    with pytest.raises(ValueError, match="at least one"):
        BatchedMemory([])
