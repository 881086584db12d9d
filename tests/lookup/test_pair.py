"""The search for the nearest slot of the right value and the nearest of a wrong one."""

from itertools import product

import pytest
import torch

from rarememory import EMPTY
from rarememory.lookup import TorchLookup, choose_lookup, pair
from rarememory.lookup.pair import nearest_pair
from tests.lookup.test_nearest import KEYS, units
from tests.memories import LOOKUPS, NewTensors, holding

ODD = [1, 7, 33, 129]


def check(found, queries, keys, values, labels) -> None:
    truth = queries.double() @ keys.double().T
    right = values == labels.unsqueeze(1)
    for slots, among in zip(found, (right, ~right & (values != EMPTY)), strict=True):
        assert slots.shape == labels.shape and slots.dtype == torch.int64
        scores = truth.masked_fill(~among, -torch.inf)
        best, there = scores.amax(1), slots != EMPTY
        assert torch.equal(there, best > -torch.inf)
        chosen = slots.clamp(min=0)
        # -inf where a slot is not among those that count.
        assert (scores.gather(1, chosen.unsqueeze(1)).squeeze(1) >= best - 2e-6)[there].all()
        copies = (keys.unsqueeze(0) == keys[chosen].unsqueeze(1)).all(2) & among
        assert torch.equal(copies.int().argmax(1)[there], slots[there])


@pytest.mark.parametrize("make", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(("slots", "key_dim", "batch"), [(1, 1, 1), (7, 3, 33), (129, 33, 7)])
def test_the_nearest_pair_is_found(make, kind, slots, key_dim, batch):
    lookup, keys = choose_lookup(make), KEYS[kind](slots, key_dim)
    queries = torch.cat([units(batch, key_dim), keys[:3], -keys[:3]])
    for classes, holes in product((1, 3, 200), (0, 3, slots)):
        labels = torch.randint(0, classes + 1, (len(queries),))
        values = torch.randint(0, classes, (slots,))
        values[torch.randperm(slots)[:holes]] = EMPTY
        stored = keys.masked_fill((values == EMPTY).unsqueeze(1), 0.0)
        found = lookup.nearest_pair(queries, stored, values, labels)
        check(found, queries, stored, values, labels)


def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other():
    keys, queries, values = units(129, 5), units(33, 5), torch.randint(0, 3, (129,))
    labels = torch.randint(0, 4, (33,))
    alone = nearest_pair(queries, keys, values, labels)
    queries[2], queries[5], queries[7, 1] = torch.nan, -torch.inf, torch.inf
    spoilt = ~queries.isfinite().all(1)
    for slots, before in zip(nearest_pair(queries, keys, values, labels), alone, strict=True):
        assert slots[spoilt].eq(EMPTY).all() and torch.equal(slots[~spoilt], before[~spoilt])


@pytest.mark.parametrize("at_once", [1, 129, 300, 10**9])
@pytest.mark.parametrize("batch", [0, *ODD])
def test_chunks_do_not_change_the_answer(monkeypatch, at_once, batch):
    keys, queries, values = units(129, 9), units(batch, 9), torch.randint(0, 3, (129,))
    labels = torch.randint(0, 4, (batch,))
    whole = nearest_pair(queries, keys, values, labels)
    monkeypatch.setattr(pair, "SCORES_AT_ONCE", at_once)
    for mine, theirs in zip(nearest_pair(queries, keys, values, labels), whole, strict=True):
        assert torch.equal(mine, theirs)


def test_never_more_than_a_bounded_chunk_of_scores_is_held(monkeypatch):
    keys, queries, values = units(1000, 4), units(129, 4), torch.randint(0, 3, (1000,))
    labels = torch.randint(0, 4, (129,))
    monkeypatch.setattr(pair, "SCORES_AT_ONCE", 3500)
    with NewTensors(keys, queries, values, labels) as new:
        nearest_pair(queries, keys, values, labels)
    assert 3000 <= new.largest <= 3500


def test_a_training_step_sorts_no_scores():
    memory = holding(units(1000, 4), torch.randint(0, 3, (1000,)).tolist(), lookup=TorchLookup())

    def forbidden(*arguments):
        raise AssertionError("a training step needs no top-k")

    memory.lookup.nearest = forbidden
    queries = units(9, 4).requires_grad_()
    recall = memory(queries, torch.randint(0, 4, (9,)))
    recall.loss.backward()
    memory.write(recall, torch.randint(0, 4, (9,)))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_beside_keys_that_are_not_finite_the_nearest_is_found_exactly(odd):
    lookup, labels = choose_lookup("native"), torch.full((7,), 9)
    for seed in range(40):
        torch.manual_seed(seed)
        keys = torch.nn.functional.normalize(units(1, 64) + 1e-7 * torch.randn(16, 64), dim=1)
        queries, values = units(7, 64), torch.arange(16) % 3
        expected = nearest_pair(queries, keys[:-1], values[:-1], labels)
        # Of a score that is none nothing follows for those before it.
        keys[-1] = odd
        assert torch.equal(lookup.nearest_pair(queries, keys, values, labels)[1], expected[1])
