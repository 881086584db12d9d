"""Locality-sensitive hashing: buckets, what is found in them, and what changed since."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, AverageOrReplace, FirstInFirstOut, Memory
from rarememory.lookup import LocalitySensitiveHashing, lsh
from rarememory.lookup.exact import score
from tests.lookup.histories import (
    STEPS,
    change,
    clustered,
    exact,
    filled,
    near_keys,
    recall_of,
)
from tests.memories import NewTensors, holding


def hashed(slots: int = 800, memory_size: int | None = None, **options) -> Memory:
    lookup = LocalitySensitiveHashing(**{"exact_below": 64, **options})
    return filled(slots, memory_size=memory_size or slots, lookup=lookup)


def test_on_clustered_keys_the_recall_is_high():
    memory = hashed(4000)
    assert recall_of(memory, near_keys(memory), 1) > 0.95
    assert recall_of(memory, near_keys(memory), 10) > 0.9


def test_more_tables_and_a_larger_radius_find_more():
    queries, found = torch.randn(200, 16), []
    for n_tables, radius in ((1, 0), (4, 0), (4, 1), (4, 2), (16, 2)):
        torch.manual_seed(0)
        memory = hashed(4000, n_bits=8, n_tables=n_tables, radius=radius)
        found.append(recall_of(memory, queries, 3))
    assert found == sorted(found) and found[0] < 0.8 and found[-1] > 0.95


@pytest.mark.parametrize("k", [1, 10, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_with_all_buckets_searched_it_finds_what_the_exact_search_finds(k, dtype):
    memory = hashed(n_bits=5, n_tables=2, radius=5).to(dtype)
    queries = torch.cat([near_keys(memory), torch.randn(50, 16).to(dtype)])
    assert torch.equal(memory(queries, k=k).slots, exact(memory, queries, k))
    memory.forget(slots=range(0, 800, 70))
    memory.write(torch.randn(5, 16).to(dtype), torch.arange(5))
    assert torch.equal(memory(queries, k=k).slots, exact(memory, queries, k))


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 7])
def test_the_best_of_the_buckets_are_found_and_of_all_where_those_hold_too_few(radius, k):
    memory = hashed(300, n_bits=6, n_tables=2, radius=radius, seed=5)
    queries = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)
    occupied = torch.ones(300, dtype=bool)
    found = memory.lookup.nearest(queries, memory.keys, occupied, k)
    planes = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(5))

    def code(vector, table):
        return [float(plane @ vector) > 0 for plane in planes[table]]

    codes = [[code(key, table) for key in memory.keys] for table in range(2)]
    short = 0
    for query, slots in zip(queries, found, strict=True):
        inside = {
            slot
            for table in range(2)
            for slot in range(300)
            if sum(a != b for a, b in zip(code(query, table), codes[table][slot], strict=True))
            <= radius
        }
        if len(inside) < k:
            inside, short = set(range(300)), short + 1
        scores = score(query[None], memory.keys, torch.arange(300)[None])[0]
        best = sorted(inside, key=lambda slot: -float(scores[slot]))[:k]
        assert set(slots.tolist()) == set(best)
    assert radius or k == 1 or short


def test_a_query_in_an_empty_bucket_is_searched_exactly():
    memory = hashed(600, n_bits=30, n_tables=1, radius=0)
    queries = torch.randn(30, 16)
    assert torch.equal(memory(queries, k=3).slots, exact(memory, queries, 3))
    memory.forget(slots=range(5))
    memory.write(torch.randn(5, 16), torch.arange(5))
    assert torch.equal(memory(queries, k=3).slots, exact(memory, queries, 3))


def test_two_vectors_share_a_bit_by_one_minus_their_angle_over_pi():
    lookup = LocalitySensitiveHashing(n_bits=60, n_tables=200)
    for angle in (0.0, 0.3, 1.0, 2.0, math.pi):
        two = torch.tensor([[1.0, 0, 0], [math.cos(angle), math.sin(angle), 0]])
        one, other = lsh._codes(two, lookup._planes(two, 60)).T
        apart = sum(f"{code:b}".count("1") for code in (one ^ other).tolist()) / 12000
        assert 1 - apart == pytest.approx(1 - angle / math.pi, abs=0.015)


def test_without_a_number_of_bits_a_bucket_has_about_eight_keys():
    for slots, n_bits in ((1, 1), (20, 1), (1000, 7), (8192, 10), (1_000_000, 17)):
        assert lsh._bits(slots) == n_bits
    memory = hashed(1000)
    memory(torch.randn(1, 16))
    index = memory.lookup._cache.index
    assert index.planes.shape == (8, 7, 16) and index.codes.max() < 128


def test_the_planes_come_from_its_own_seed():
    state = torch.get_rng_state()
    keys, occupied = clustered(600), torch.ones(600, dtype=bool)
    queries = torch.nn.functional.normalize(torch.randn(50, 16), dim=1)
    torch.set_rng_state(state)
    options = {"n_tables": 1, "radius": 0, "n_bits": 6}
    found = []
    for seed in (3, 3, 4):
        before = torch.get_rng_state()
        lookup = LocalitySensitiveHashing(**options, seed=seed)
        found.append(lookup.nearest(queries, keys, occupied, 3))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("k", [1, 20])
def test_chunks_do_not_change_the_answer_and_bound_what_is_held(monkeypatch, k):
    memory, queries = hashed(800), torch.randn(33, 16)
    whole = memory(queries, k=k).slots
    monkeypatch.setattr(lsh, "SCORES_AT_ONCE", 800 * 8 * 7)
    with NewTensors(memory.keys) as new:
        assert torch.equal(memory(queries, k=k).slots, whole)
    assert (7, 800) in new.shapes and (33, 800) not in new.shapes


def test_a_few_keys_many_times_are_found_too():
    keys = torch.eye(16).repeat(50, 1)
    memory = holding(keys, list(range(800)), lookup=LocalitySensitiveHashing())
    assert memory(keys[:3], k=2).slots.tolist() == [[0, 16], [1, 17], [2, 18]]


# Following the memory


@settings(max_examples=10)
@given(
    policy=st.sampled_from([AverageOrReplace(), FirstInFirstOut()]),
    rebuild_after=st.sampled_from([0.0, 0.03, 0.5, float("inf")]),
    start=st.integers(0, 10**6),
    history=STEPS,
)
def test_after_any_history_with_all_buckets_searched_it_finds_what_the_exact_search_finds(
    policy, rebuild_after, start, history
):
    torch.manual_seed(start)
    options = {"n_bits": 4, "n_tables": 2, "radius": 4, "rebuild_after": rebuild_after}
    memory = hashed(300, 330, **options)
    memory.update = policy
    queries = torch.randn(7, 16)
    for verb, count, seed, read in history:
        change(memory, verb, count, seed)
        if read:
            assert torch.equal(memory(queries, k=9).slots, exact(memory, queries, 9))
    assert torch.equal(memory(queries, k=9).slots, exact(memory, queries, 9))


@settings(max_examples=10)
@given(start=st.integers(0, 10**6), history=STEPS)
def test_after_any_history_no_slot_but_the_occupied_ones_is_found_and_of_those_enough(
    start, history
):
    torch.manual_seed(start)
    memory = hashed(300, 330, n_bits=6, n_tables=2, rebuild_after=0.5)
    for verb, count, seed, _ in history:
        change(memory, verb, count, seed)
        occupied = (memory.values != EMPTY).nonzero().squeeze(1).tolist()
        for k in (9, 999):
            slots = memory.lookup.nearest(torch.eye(16)[:5], memory.keys, memory.values != EMPTY, k)
            for row in slots.tolist():
                found = [slot for slot in row if slot != EMPTY]
                assert len(set(found)) == len(found) == min(k, len(occupied))
                assert set(found) <= set(occupied)


def test_what_was_just_written_is_found_for_certain_and_before_it_is_sorted(monkeypatch):
    memory = hashed(n_bits=40, n_tables=1, radius=0, rebuild_after=0.5)
    memory(torch.randn(1, 16))
    monkeypatch.setattr(LocalitySensitiveHashing, "build", lambda *arguments: 1 / 0)
    rows = torch.randn(9, 16)
    write = memory.write(memory(rows), torch.arange(5000, 5009))
    recall = memory(rows + 0.1 * torch.randn(9, 16), k=1)
    assert torch.equal(recall.slots[:, 0], write.slots)


def test_the_tables_are_sorted_anew_when_more_than_a_share_has_changed(monkeypatch):
    memory, built = hashed(1000, rebuild_after=0.1), []
    real = LocalitySensitiveHashing.build
    monkeypatch.setattr(
        LocalitySensitiveHashing,
        "build",
        lambda self, *given: built.append(1) or real(self, *given),
    )
    memory(torch.randn(1, 16))
    memory.keys[:100] = clustered(100)
    memory(torch.randn(1, 16))
    assert len(built) == 1 and int(memory.lookup._cache.index.fresh.sum()) == 100
    memory.keys[100] = clustered(1)[0]
    memory(torch.randn(1, 16))
    assert len(built) == 2 and int(memory.lookup._cache.index.fresh.sum()) == 0
