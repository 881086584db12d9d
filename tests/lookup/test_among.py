"""Searches among some slots only, of all queries or of each: they find what torch finds."""

import pytest
import torch

from rarememory import EMPTY, FirstInFirstOut, Memory
from rarememory.lookup import NativeLookup, TorchLookup
from rarememory.lookup.exact import order, score
from tests.lookup.test_nearest import KEYS, check, units


def in_order(found, queries, keys):
    return found.gather(1, order(score(queries, keys, found), found))


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("kind", ["units", "few", "clusters", "rising"])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_native_finds_what_torch_finds(kind, batch, codes):
    slots, dim = 3001, 21
    keys, lookup = KEYS[kind](slots, dim), NativeLookup(codes=codes)
    queries = torch.cat([units(batch, dim), keys[5:6]])[:batch]
    everywhere = torch.ones(slots, dtype=torch.bool)
    for _ in range(17):  # from here on there are codes
        lookup.nearest(queries, keys, everywhere, 1)
    for share in (0.0, 0.002, 0.02, 0.1, 0.3, 0.6, 1.0):
        for shape in ((slots,), (batch, slots)):
            among = torch.rand(shape) < share
            for k in (1, 7, 90):
                found = lookup.nearest(queries, keys, everywhere, k, among=among)
                truth = TorchLookup().nearest(queries, keys, everywhere, k, among=among)
                assert torch.equal(*(in_order(f, queries, keys) for f in (found, truth)))


def coded(lookup: NativeLookup, queries: torch.Tensor, keys: torch.Tensor) -> NativeLookup:
    """The lookup with codes of these keys, and rows of them."""
    some = torch.arange(len(keys)) % 9 == 0
    for _ in range(40):
        lookup.nearest(queries, keys, some, 1, among=some)
    assert lookup._codes._seen.codes.rows is not None
    return lookup


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("kind", ["units", "clusters", "rising"])
@pytest.mark.parametrize("dim", [3, 64, 130])
@pytest.mark.parametrize("batch", [1, 21])
def test_the_codes_of_listed_slots_change_no_answer(kind, dim, batch):
    keys = KEYS[kind](9001, dim)
    queries = torch.cat([units(batch, dim), keys[5:6]])[-batch:]
    keys[11] *= 3  # no code holds it
    lookup = coded(NativeLookup(), queries, keys)
    everywhere = torch.ones(9001, dtype=torch.bool)
    for share in (0.12, 0.24):
        among = torch.rand(9001) < share
        among[[5, 11, 9000]] = True
        for k in (1, 7, 30, 300):
            found = lookup.nearest(queries, keys, everywhere, k, among=among)
            truth = TorchLookup().nearest(queries, keys, everywhere, k, among=among)
            assert torch.equal(*(in_order(f, queries, keys) for f in (found, truth)))


def test_a_query_alone_among_so_many_slots_that_two_threads_share_them():
    keys, among = units(70_001, 24), torch.rand(70_001) < 0.2
    queries, everywhere = units(1, 24), torch.ones(70_001, dtype=torch.bool)
    lookup = coded(NativeLookup(), queries, keys)
    for k in (1, 20, 200):
        found = lookup.nearest(queries, keys, everywhere, k, among=among)
        truth = TorchLookup().nearest(queries, keys, everywhere, k, among=among)
        assert torch.equal(*(in_order(f, queries, keys) for f in (found, truth)))


def test_codes_of_listed_slots_follow_the_keys():
    def written(lookup: str | NativeLookup) -> Memory:
        torch.manual_seed(0)
        memory = Memory(6, 6000, k=9, lookup=lookup, update=FirstInFirstOut())
        memory.write(torch.randn(6000, 6), torch.arange(6000) % 5)
        return memory

    memory, plain = written("native"), written(NativeLookup(codes=False))
    queries, labels = torch.randn(3, 6), torch.tensor([3])
    coded(memory.lookup, queries, memory.keys)

    def check_again() -> None:
        for some in (queries, queries[:1]):
            for one, other in zip(
                memory(some, among=labels)[:3], plain(some, among=labels)[:3], strict=True
            ):
                assert torch.equal(one, other)

    check_again()
    for made in (memory, plain):
        made.write(queries, labels.expand(3))
    check_again()
    assert memory(queries, among=labels).confidence.isfinite().all()
    for made in (memory, plain):
        made.keys.data.neg_()
    with pytest.warns(UserWarning, match="does not count"):
        memory(queries, among=labels)
    check_again()


def test_rows_of_codes_are_kept_only_for_reads_among_some():
    keys, everywhere = units(2048, 8), torch.ones(2048, dtype=torch.bool)
    lookup = NativeLookup()
    for batch in (1, 20, 1100):
        for _ in range(40):
            lookup.nearest(units(batch, 8), keys, everywhere, 1)
    assert lookup._codes._seen.codes.rows is None
    for _ in range(16):
        lookup.nearest(units(1, 8), keys, everywhere, 1, among=everywhere)
    assert lookup._codes._seen.codes.rows is None
    lookup.nearest(units(1, 8), keys, everywhere, 1, among=everywhere)
    assert lookup._codes._seen.codes.rows.shape == (2048, 64)


@pytest.mark.parametrize("make", [TorchLookup, NativeLookup])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_each_query_finds_the_nearest_of_its_own_slots(make, k):
    keys, queries = units(129, 5), units(33, 5)
    everywhere = torch.ones(129, dtype=torch.bool)
    among = torch.rand(33, 129) < torch.rand(33, 1)
    found = make().nearest(queries, keys, everywhere, k, among=among)
    for row in range(33):
        check(found[row : row + 1], queries[row : row + 1], keys, among[row], k)


def test_a_query_that_is_not_finite_finds_nothing_among_some():
    keys, queries = units(1001, 5), units(3, 5)
    queries[1] = torch.nan
    everywhere = torch.ones(1001, dtype=torch.bool)
    for among in (torch.rand(1001) < 0.1, torch.rand(3, 1001) < 0.01, torch.rand(3, 1001) < 0.5):
        found = NativeLookup().nearest(queries, keys, everywhere, 4, among=among)
        assert found[1].eq(EMPTY).all() and not found[[0, 2]].eq(EMPTY).any()


def test_more_queries_than_are_asked_at_once_keep_their_own_marks():
    keys, queries = units(40, 4), units(2100, 4)
    everywhere, among = torch.ones(40, dtype=torch.bool), torch.rand(2100, 40) < 0.2
    found = NativeLookup().nearest(queries, keys, everywhere, 3, among=among)
    truth = TorchLookup().nearest(queries, keys, everywhere, 3, among=among)
    assert torch.equal(*(in_order(f, queries, keys) for f in (found, truth)))
