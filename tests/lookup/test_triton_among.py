"""The Triton search among some slots: on a GPU if there is one, else in the interpreter."""

from collections.abc import Iterator

import pytest
import torch

from rarememory import EMPTY, BatchedMemory, LeastUsed, Memory
from rarememory.lookup import TorchLookup, TritonLookup
from rarememory.lookup.exact import order, score
from tests.lookup.test_nearest import KEYS, units
from tests.memories import bits

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def where_the_kernels_run() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


def triton() -> TritonLookup:
    return TritonLookup(interpret=DEVICE == "cpu")


@pytest.mark.parametrize("streamed", ["keys", "half_keys"])
@pytest.mark.parametrize(("slots", "key_dim", "batch"), [(7, 3, 5), (300, 33, 3)])
@pytest.mark.parametrize("k", [1, 7, 33])
def test_among_some_slots_triton_finds_what_torch_finds(slots, key_dim, batch, k, streamed):
    keys, queries = KEYS["clusters"](slots, key_dim), units(batch, key_dim)
    half_keys = keys.half() if streamed == "half_keys" else None
    everywhere = torch.ones(slots, dtype=torch.bool)
    for share in (0.0, 0.3):
        for shape in ((slots,), (batch, slots)):
            among = torch.rand(shape) < share
            found = triton().nearest(queries, keys, everywhere, k, half_keys=half_keys, among=among)
            truth = TorchLookup().nearest(queries, keys, everywhere, k, among=among)
            ordered = [f.gather(1, order(score(queries, keys, f), f)) for f in (found, truth)]
            assert torch.equal(*ordered)


def test_more_candidates_than_fit_are_scored_again_among_those_of_each_row():
    keys, queries = KEYS["all equal"](1100, 5), units(1, 5)
    among = torch.rand(1, 1100) < 0.7
    everywhere = torch.ones(1100, dtype=torch.bool)
    found = triton().nearest(queries, keys, everywhere, 20, among=among)
    for row in range(1):
        lowest = among[row].nonzero().squeeze(1)[:20].tolist()
        assert sorted(found[row].tolist()) == lowest


def test_keys_that_may_not_be_found_are_not_read():
    keys, queries = units(300, 16), units(2, 16)
    everywhere = torch.ones(300, dtype=torch.bool)
    among = torch.rand(300) < 0.2
    truth = triton().nearest(queries, keys, everywhere, 5, among=among)
    keys[~among] = torch.nan
    found = triton().nearest(queries, keys, everywhere, 5, among=among)
    assert torch.equal(found.sort().values, truth.sort().values)


def test_a_memory_by_triton_filters_counts_and_merges_as_by_torch():
    one, other = (Memory(5, 12, lookup=of, update=LeastUsed()) for of in (triton(), TorchLookup()))
    queries, labels, rows = units(3, 5), torch.tensor([1, 0, 2]), units(13, 5)
    shard = Memory(5, 7, update=LeastUsed())
    shard.write(rows[9:], torch.tensor([3, 1, 0, 2]))
    for memory in (one, other):
        memory.write(rows[:9], torch.arange(9) % 3)
        memory.record(memory(queries, k=1))
        memory.merge(shard)
    assert bits(one) == bits(other) and len(one) == 12
    nearest = other(queries, k=1)
    for among in (
        *(None, torch.tensor([0, 3]), torch.arange(12) % 2 == 0),
        *(torch.tensor([[0, EMPTY], [1, 2], [3, 3]]), torch.rand(3, 12) < 0.5),
    ):
        for left_out in (
            {},
            {"exclude": nearest.slots[:, 0]},
            {"exclude_labels": nearest.values[:, 0].roll(1)},
        ):
            for k, own in ((4, None), (None, labels)):
                found, truth = (
                    memory(queries, own, k=k, among=among, **left_out) for memory in (one, other)
                )
                assert torch.equal(found.slots, truth.slots)
                assert torch.equal(found.scores, truth.scores)
                assert own is None or torch.equal(found.loss, truth.loss)


def test_many_memories_in_one_answer_as_each_does_by_triton():
    loop = [Memory(5, 7, lookup=triton(), seed=n) for n in range(2)]
    many = BatchedMemory(loop)
    for _ in range(2):
        queries, labels = units(6, 5).view(2, 3, 5), torch.randint(0, 3, (2, 3))
        many.write(queries, labels)
        for memory, rows, own in zip(loop, queries, labels, strict=True):
            memory.write(rows, own)
        for own, k in ((None, 4), (labels, None)):
            found = many(queries, own, k=k)
            of_row = labels if own is not None else [None] * 2
            told = [m(rows, y, k=k) for m, rows, y in zip(loop, queries, of_row, strict=True)]
            assert torch.equal(found.slots, torch.stack([one.slots for one in told]))
            assert torch.equal(found.scores, torch.stack([one.scores for one in told]))
