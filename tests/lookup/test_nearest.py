"""The search for the k nearest, on every lookup, against brute force in float64."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from rarememory import EMPTY, Lookup, Memory
from rarememory.lookup import LOOKUPS as MAKERS
from rarememory.lookup import (
    AutoLookup,
    FaissLookup,
    NativeLookup,
    TorchLookup,
    choose_lookup,
    pair,
)
from rarememory.lookup import faiss as faiss_file
from rarememory.lookup import torch as torch_file
from rarememory.lookup.exact import ranked, score
from rarememory.lookup.pair import nearest_pair
from tests.memories import LOOKUPS, NewTensors, bits, holding

ODD = [1, 7, 33, 129]


def units(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def clusters(slots: int, key_dim: int) -> torch.Tensor:
    """Consecutive slots lie close together."""
    centres = torch.randn(slots // 10 + 1, key_dim).repeat_interleave(10, dim=0)[:slots]
    return torch.nn.functional.normalize(centres + 0.01 * torch.randn(slots, key_dim), dim=1)


def few(slots: int, key_dim: int) -> torch.Tensor:
    """Exact duplicates, more of them than k."""
    return units(3, key_dim)[torch.randint(0, 3, (slots,))]


def all_equal(slots: int, key_dim: int) -> torch.Tensor:
    return units(1, key_dim).repeat(slots, 1)


def rising(slots: int, key_dim: int) -> torch.Tensor:
    """Every next slot is nearer to the first axis: adversarial for running maxima."""
    angles = torch.linspace(3, 0.1, slots)
    keys = torch.zeros(slots, max(2, key_dim))
    keys[:, 0], keys[:, 1] = angles.cos(), angles.sin()
    return torch.nn.functional.normalize(keys[:, :key_dim] + 1e-9, dim=1)


def falling(slots: int, key_dim: int) -> torch.Tensor:
    return rising(slots, key_dim).flip(0).contiguous()


KEYS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "units": units,
    "clusters": clusters,
    "few": few,
    "all equal": all_equal,
    "rising": rising,
    "falling": falling,
}


def check(found, queries, keys, occupied, k: int) -> None:
    """The found slots have the k best scores, and of exact copies the lower slots are in."""
    assert found.shape[0] == len(queries) and found.shape[1] <= k and found.dtype == torch.int64
    truth = (queries.double() @ keys.double().T).masked_fill(~occupied, -torch.inf)
    expected, there = min(k, int(occupied.sum())), found != EMPTY
    # An empty slot would stand with -inf among the best.
    scores = truth.gather(1, found.clamp(min=0)).masked_fill(~there, -torch.inf)
    best = torch.full_like(scores, -torch.inf)
    best[:, :expected] = truth.topk(expected, dim=1).values
    scores = scores.sort(1, descending=True).values
    torch.testing.assert_close(scores, best, rtol=0, atol=2e-6)
    inside = torch.zeros(len(queries), len(keys) + 1, dtype=torch.bool, device=keys.device)
    inside.scatter_(1, found.where(there, len(keys)), True)
    assert inside[:, : len(keys)].sum(1).eq(expected).all()
    # Of each two neighbours among the copies of a key, the lower is in if the higher is.
    slots = occupied.nonzero().squeeze(1)
    copies = keys[slots].unique(dim=0, return_inverse=True)[1]
    slots, copies = slots[copies.argsort(stable=True)], copies.sort(stable=True).values
    higher = inside[:, slots[1:]] & (copies[1:] == copies[:-1])
    assert (inside[:, slots[:-1]] | ~higher).all()


@pytest.mark.parametrize("make", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(("slots", "key_dim", "batch"), [(1, 1, 1), (7, 3, 33), (129, 33, 7)])
def test_the_k_nearest_are_found(make, kind, slots, key_dim, batch):
    lookup, keys = choose_lookup(make), KEYS[kind](slots, key_dim)
    queries = torch.cat([units(batch, key_dim), keys[:3]])
    for holes, k in product((0, 3, slots), ODD):
        occupied = torch.ones(slots, dtype=bool)
        occupied[torch.randperm(slots)[:holes]] = False
        stored = keys.masked_fill(~occupied.unsqueeze(1), 0.0)
        check(lookup.nearest(queries, stored, occupied, k), queries, stored, occupied, k)


@pytest.mark.parametrize("make", LOOKUPS)
@pytest.mark.parametrize("k", [1, 7, 33, 300])
def test_the_k_nearest_are_found_among_more_than_faiss_fetches_at_once(make, k):
    lookup = choose_lookup(make)
    for kind in ("units", "few", "all equal", "clusters"):
        keys = KEYS[kind](1001, 5)
        queries = torch.cat([units(33, 5), keys[::100]])
        occupied = torch.rand(1001) < 0.9
        stored = keys.masked_fill(~occupied.unsqueeze(1), 0.0)
        check(lookup.nearest(queries, stored, occupied, k), queries, stored, occupied, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_torch_searches_keys_of_any_float_type(dtype):
    keys, queries = units(129, 9).to(dtype), units(7, 9).to(dtype)
    occupied = torch.arange(129) % 5 > 0
    truth = (queries.double() @ keys.double().T).masked_fill(~occupied, -9)
    for k in ODD:
        found = TorchLookup().nearest(queries, keys, occupied, k)
        scores = truth.gather(1, found.clamp(min=0)).masked_fill(found == EMPTY, -9)
        best = truth.topk(k, dim=1).values
        near = 1e-3 if dtype == torch.float16 else 1e-15
        torch.testing.assert_close(scores.sort(descending=True).values, best, rtol=0, atol=near)


@pytest.mark.parametrize("make", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other(make, k):
    lookup, keys, queries = choose_lookup(make), units(129, 5), units(33, 5)
    occupied = torch.ones(129, dtype=bool)
    alone = lookup.nearest(queries, keys, occupied, k)
    queries[2], queries[5], queries[32], queries[7, 1] = torch.nan, torch.inf, -torch.inf, torch.inf
    found = lookup.nearest(queries, keys, occupied, k)
    spoilt = ~queries.isfinite().all(1)
    assert found[spoilt].eq(EMPTY).all() and spoilt.sum() == 4
    assert torch.equal(found[~spoilt].sort(1).values, alone[~spoilt].sort(1).values)


@pytest.mark.parametrize("make", LOOKUPS)
@pytest.mark.parametrize("odd", range(4))
def test_tensors_that_are_not_contiguous_are_searched_as_their_copies(make, odd):
    lookup, keys, queries = choose_lookup(make), units(129, 5), units(7, 5)
    values, labels = torch.randint(-1, 4, (129,)), torch.randint(0, 4, (7,))
    given = [queries, keys, values, labels]
    pair = lookup.nearest_pair(*given)
    slots = lookup.nearest(queries, keys, values != EMPTY, 9)
    of_each = [*ranked(queries, keys, values, slots), score(queries, keys, slots)]
    given[odd] = strided(given[odd])
    queries, keys, values, _ = given
    for one, other in zip(lookup.nearest_pair(*given), pair, strict=True):
        assert torch.equal(one, other)
    occupied = strided(values != EMPTY) if odd == 2 else values != EMPTY
    assert torch.equal(lookup.nearest(queries, keys, occupied, 9), slots)
    slots = strided(slots) if odd == 3 else slots
    again = [*ranked(queries, keys, values, slots), score(queries, keys, slots)]
    assert all(map(torch.equal, again, of_each))


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, with others between them."""
    return torch.stack([tensor, tensor.roll(1)], -1)[..., 0]


@pytest.mark.parametrize("make", LOOKUPS)
def test_no_queries_find_nothing(make):
    lookup = choose_lookup(make)
    assert lookup.nearest(units(0, 5), units(9, 5), torch.ones(9, dtype=bool), 3).shape[0] == 0


@pytest.mark.parametrize("at_once", [1, 129, 300, 10**9])
@pytest.mark.parametrize("k", [1, 33])
def test_chunks_do_not_change_the_answer(monkeypatch, at_once, k):
    keys, queries = clusters(129, 9), units(33, 9)
    occupied = torch.rand(129) < 0.8
    whole = TorchLookup().nearest(queries, keys, occupied, k)
    monkeypatch.setattr(torch_file, "SCORES_AT_ONCE", at_once)
    assert torch.equal(TorchLookup().nearest(queries, keys, occupied, k), whole)


@pytest.mark.parametrize("k", [1, 33])
def test_never_more_than_a_bounded_chunk_of_scores_is_held(monkeypatch, k):
    keys, queries, occupied = units(1000, 4), units(129, 4), torch.ones(1000, dtype=bool)
    monkeypatch.setattr(torch_file, "SCORES_AT_ONCE", 3500)
    with NewTensors(keys, queries, occupied) as new:
        TorchLookup().nearest(queries, keys, occupied, k)
    assert 3000 <= new.largest <= max(3500, 129 * k)


def test_the_bound_is_64_mebibytes_of_float32():
    assert torch_file.SCORES_AT_ONCE * 4 == 64 * 2**20


def test_every_lookup_finds_the_same_after_many_changes():
    memories = {name: Memory(5, 33, k=7, lookup=name, seed=2) for name in [*LOOKUPS, "auto"]}
    for step in range(100):
        rows, labels = torch.randn(2, 5), torch.randint(0, 9, (2,))
        for memory in memories.values():
            if step % 31 == 30:
                memory.forget(labels=step % 9)
            elif step == 70:
                memory.clear()
            elif step % 23 == 22:
                memory.resize(20 + step % 41)
            else:
                memory.write(rows, labels)
    first, *others = memories.values()
    queries = torch.randn(33, 5)
    for other in others:
        assert bits(first) == bits(other)
        for mine, theirs in zip(first(queries)[:4], other(queries)[:4], strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_the_rounding_of_the_product_does_not_change_the_answer(monkeypatch, k):
    keys, queries, occupied = few(129, 33), units(33, 33), torch.ones(129, dtype=bool)
    values, labels = torch.randint(0, 3, (129,)), torch.randint(0, 4, (33,))
    whole = TorchLookup().nearest(queries, keys, occupied, k)
    pairs = nearest_pair(queries, keys, values, labels)
    real = pair.occupied_scores

    def rounded(*arguments):
        # As another BLAS might: every score within d eps / 2 of the truth.
        scores = real(*arguments)
        return scores + (torch.rand_like(scores) - 0.5) * 32 * torch.finfo(scores.dtype).eps

    for file in (pair, torch_file):
        monkeypatch.setattr(file, "occupied_scores", rounded)
    found = TorchLookup().nearest(queries, keys, occupied, k)
    assert torch.equal(found.sort(1).values, whole.sort(1).values)
    for mine, theirs in zip(nearest_pair(queries, keys, values, labels), pairs, strict=True):
        assert torch.equal(mine, theirs)


# Faiss


def test_the_blas_threshold_of_faiss_is_put_back_even_after_an_error(monkeypatch):
    faiss = pytest.importorskip("faiss")
    before = faiss.cvar.distance_compute_blas_threshold
    seen = []
    real = faiss.knn

    def watched(*args, **kwargs):
        seen.append(faiss.cvar.distance_compute_blas_threshold)
        return real(*args, **kwargs)

    monkeypatch.setattr(faiss, "knn", watched)
    FaissLookup().nearest(units(3, 5), units(9, 5), torch.ones(9, dtype=bool), 2)
    assert seen == [800 * torch.get_num_threads()] != [before]
    assert faiss.cvar.distance_compute_blas_threshold == before

    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(faiss, "knn", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        FaissLookup().nearest(units(3, 5), units(9, 5), torch.ones(9, dtype=bool), 2)
    assert faiss.cvar.distance_compute_blas_threshold == before


def test_faiss_reads_the_keys_where_they_lie(monkeypatch):
    faiss = pytest.importorskip("faiss")
    seen = []
    real = faiss.knn
    monkeypatch.setattr(
        faiss, "knn", lambda q, keys, *a, **b: seen.append(keys) or real(q, keys, *a, **b)
    )
    memory = holding(units(9, 5), list(range(9)), memory_size=12, lookup="faiss")
    memory(units(1, 5))
    assert seen[0].ctypes.data == memory.keys.data_ptr() and seen[0].shape == (9, 5)


def test_faiss_fetches_a_few_more_than_k_and_asks_the_definition_where_that_leaves_a_doubt(
    monkeypatch,
):
    asked = []
    real = TorchLookup.nearest

    def watched(self, queries, keys, occupied, k):
        asked.append(len(queries))
        return real(self, queries, keys, occupied, k)

    monkeypatch.setattr(faiss_file.TorchLookup, "nearest", watched)
    near, far = all_equal(100, 5), units(100, 5)
    occupied = torch.ones(200, dtype=bool)
    keys = torch.cat([far, near])
    queries = torch.cat([near[:1], -near[:1]])
    FaissLookup().nearest(queries, keys, occupied, 7)
    assert asked == [1]
    FaissLookup().nearest(units(9, 5), units(200, 5), occupied, 7)
    assert asked == [1]


# Choosing


def test_a_lookup_is_chosen_by_name_by_object_or_by_auto():
    assert list(MAKERS) == ["triton", "native", "faiss", "torch"]
    for name in MAKERS:
        assert choose_lookup(name).name == name == Memory(3, 4, lookup=name).lookup.name
    assert isinstance(choose_lookup("auto"), AutoLookup)
    own = TorchLookup()
    assert choose_lookup(own) is own


def test_auto_takes_the_first_that_can_serve(monkeypatch):
    used = []
    for lookup in (NativeLookup, FaissLookup, TorchLookup):
        real = lookup.nearest
        monkeypatch.setattr(
            lookup,
            "nearest",
            lambda self, *args, real=real: used.append(self.name) or real(self, *args),
        )
    memory = Memory(3, 4)
    # Rows with a mask are searched by themselves; others in one call with all that comes after.
    memory.write(units(3, 3), torch.arange(3), mask=torch.ones(3, dtype=torch.bool))
    assert used == ["native"]
    memory.double()(units(3, 3))
    assert used == ["native", "torch"]


def test_a_lookup_of_ones_own_plugs_in_with_one_method():
    class Loops(Lookup):
        name = "loops"

        def nearest(self, queries, keys, occupied, k):
            found = torch.full((len(queries), k), EMPTY)
            for row, query in enumerate(queries):
                slots = occupied.nonzero().squeeze(1).tolist()
                slots.sort(key=lambda slot: -float(query @ keys[slot]))
                found[row, : len(slots)] = torch.tensor(slots[:k], dtype=torch.int64)
            return found

    mine, theirs = Memory(5, 9, k=4, lookup=Loops()), Memory(5, 9, k=4, lookup="torch")
    for _ in range(5):
        rows, labels = torch.randn(3, 5), torch.randint(0, 3, (3,))
        for memory in (mine, theirs):
            memory.write(rows, labels)
    assert bits(mine) == bits(theirs)
    queries, labels = torch.randn(7, 5), torch.randint(0, 4, (7,))
    assert torch.equal(mine(queries).slots, theirs(queries).slots)
    assert torch.equal(mine(queries, labels).slots, theirs(queries, labels).slots)
    assert Loops().why_not(queries, mine.keys, 4) is None


def test_a_score_is_the_same_for_the_same_key_wherever_it_lies():
    key, queries = units(1, 33), units(129, 33)
    keys = torch.cat([units(1001, 33), key, units(129, 33), key])
    slots = torch.tensor([[1001, 1131, EMPTY]]).repeat(129, 1)
    scores = score(queries, keys, slots)
    assert torch.equal(scores[:, 0], scores[:, 1]) and scores[:, 2].eq(-torch.inf).all()
