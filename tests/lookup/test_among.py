"""Searches among some slots only, of all queries or of each: they find what torch finds."""

import pytest
import torch

from rarememory import EMPTY
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
