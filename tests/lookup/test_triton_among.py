"""The Triton search among some slots: on a GPU if there is one, else in the interpreter."""

from collections.abc import Iterator

import pytest
import torch

from rarememory.lookup import TorchLookup, TritonLookup
from rarememory.lookup.exact import order, score
from tests.lookup.test_nearest import KEYS, units

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
