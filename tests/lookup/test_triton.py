"""The Triton search against the definition: on a GPU if there is one, else in the interpreter."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, Memory
from rarememory.lookup import TritonLookup, triton_plan
from rarememory.lookup import triton as triton_file
from rarememory.lookup.exact import order, score
from rarememory.lookup.triton_plan import Chip, make_plan
from tests.lookup import test_pair
from tests.lookup.test_nearest import KEYS, check, units
from tests.memories import bits

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_A_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: none here")


def triton() -> TritonLookup:
    return TritonLookup(interpret=DEVICE == "cpu")


def tight(slots: int, key_dim: int) -> torch.Tensor:
    """So close together that float16 puts them in another order."""
    keys = units(1, key_dim) + 1e-4 * torch.randn(slots, key_dim)
    return torch.nn.functional.normalize(keys, dim=1)


KINDS = {**KEYS, "tight": tight}


def with_holes(keys: torch.Tensor, holes: int) -> tuple[torch.Tensor, torch.Tensor]:
    occupied = torch.ones(len(keys), dtype=torch.bool)
    occupied[torch.randperm(len(keys))[:holes]] = False
    return keys.masked_fill(~occupied.unsqueeze(1), 0.0), occupied


def check_nearest(queries, keys, occupied, k, half_keys) -> None:
    found = triton().nearest(queries, keys, occupied, k, half_keys=half_keys)
    check(found.cpu(), queries.cpu(), keys.cpu(), occupied.cpu(), k)


def check_pair(queries, keys, values, labels, half_keys) -> None:
    found = triton().nearest_pair(queries, keys, values, labels, half_keys=half_keys)
    found = [slots.cpu() for slots in found]
    test_pair.check(found, queries.cpu(), keys.cpu(), values.cpu(), labels.cpu())


LAUNCH = triton_file.launch


def without_rescore(kernel, grid, *arguments, **options) -> None:
    if kernel.__name__ != "rescore":
        LAUNCH(kernel, grid, *arguments, **options)
        return
    # What nobody has written is nothing, and not what was there before.
    counts, candidates, (singles, wholes) = arguments[4], arguments[6], arguments[11:13]
    more = (counts[:, 0] > singles) | (counts[:, 1] > wholes)
    candidates[more] = -(2**63) + 2**32 - 1


def own_best(queries, keys, occupied, k):
    """The k best by the package's own scores of every slot, in the one order."""
    slots = torch.arange(len(keys)).expand(len(queries), -1)
    scores = score(queries, keys, slots).masked_fill(~occupied, -torch.inf)
    best = slots.gather(1, order(scores, slots))[:, :k]
    return best.masked_fill(scores.gather(1, best) == -torch.inf, EMPTY)


# Any search


@settings(max_examples=5)
@given(
    st.integers(1, 301),
    st.integers(1, 40),
    st.sampled_from([0, 1, 3, 15, 16, 17]),
    st.sampled_from([1, 5, 7, 17, 20, 33, 60]),
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@example(1, 1, 1, 1, "units", False, 0.0)
@example(7, 3, 4, 33, "few", True, 0.3)
@example(129, 33, 4, 7, "tight", False, 0.0)
@example(301, 5, 3, 20, "clusters", True, 0.3)
@example(600, 5, 3, 1, "rising", False, 0.3)
def test_any_search_finds_what_the_definition_finds(slots, key_dim, batch, k, kind, half, empty):
    with torch.device(DEVICE):
        keys, occupied = with_holes(KINDS[kind](slots, key_dim), round(empty * slots))
        queries = torch.cat([keys[:2], -keys[:2], units(16, key_dim)])[:batch]
        half_keys = keys.half() if half else None
        check_nearest(queries, keys, occupied, k, half_keys)
        values = torch.randint(0, 1 + slots % 3, (slots,)).masked_fill(~occupied, EMPTY)
        labels = torch.randint(0, 4, (len(queries),))
        check_pair(queries, keys, values, labels, half_keys)


@pytest.mark.parametrize("key_dim", [1, 2, 16, 65, 129, 300, 1024])
@pytest.mark.parametrize("streamed", ["keys", "half_keys"])
def test_keys_may_have_any_width(key_dim, streamed):
    keys, queries = units(70, key_dim), units(2, key_dim)
    half_keys = keys.half() if streamed == "half_keys" else None
    occupied, values = torch.ones(70, dtype=torch.bool), torch.arange(70) % 3
    for k in (1, 20):
        check_nearest(queries, keys, occupied, k, half_keys)
    check_pair(queries, keys, values, torch.tensor([1, 2]), half_keys)


@pytest.mark.parametrize("k", [200, 700, 1024])
def test_k_may_be_large(k):
    keys, queries, occupied = units(1500, 8), units(1, 8), torch.arange(1500) % 7 > 0
    check_nearest(queries, keys, occupied, k, keys.half())


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other():
    # The interpreter multiplies in NumPy, which warns of what it cannot multiply.
    keys, queries, occupied = units(129, 5), units(7, 5), torch.ones(129, dtype=torch.bool)
    values, labels = torch.randint(0, 3, (129,)), torch.randint(0, 3, (7,))
    good, bad, spoilt = [0, 2, 4, 6], [1, 3, 5], queries.clone()
    spoilt[1], spoilt[3, 1], spoilt[5] = torch.nan, torch.inf, -torch.inf

    def found(asked):
        for k in (1, 7, 20, 200):
            yield triton().nearest(asked, keys, occupied, k).sort(1).values
        yield from triton().nearest_pair(asked, keys, values, labels)

    for slots, alone in zip(found(spoilt), found(queries), strict=True):
        assert slots[bad].eq(EMPTY).all() and torch.equal(slots[good], alone[good])


def test_two_zeros_are_one_score():
    keys = torch.eye(4).repeat(10, 1)
    keys[::2] *= -1
    query, occupied = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.arange(40) % 4 < 3
    for k in (1, 3, 20):
        found = triton().nearest(query, keys, occupied, k).sort(1).values
        assert torch.equal(found[0], occupied.nonzero().squeeze(1)[:k])


@pytest.mark.parametrize("k", [5, 20])
def test_a_row_with_more_candidates_than_there_is_room_for_is_rescued(monkeypatch, k):
    monkeypatch.setattr(triton_plan, "_LEAST_CAPACITY", 64)
    # Two thirds of the slots are closer together than a streamed score can tell.
    keys = units(1, 6) + 0.01 * torch.randn(400, 6)
    keys[::3] = torch.randn(len(keys[::3]), 6)
    keys = torch.nn.functional.normalize(keys, dim=1)
    keys[200::50] = keys[201]
    queries = torch.cat([keys[1:2], -keys[1:2], units(1, 6)])
    occupied = torch.arange(400) % 7 > 0
    whole = triton().nearest(queries, keys, occupied, k)
    check(whole.cpu(), queries.cpu(), keys.cpu(), occupied.cpu(), k)
    monkeypatch.setattr(triton_file, "launch", without_rescore)
    found = triton().nearest(queries, keys, occupied, k)
    assert (found.sort(1).values != whole.sort(1).values).any(1).tolist() == [True, False, False]


def test_a_bin_that_hides_more_than_its_best_is_searched_whole(monkeypatch):
    plan = make_plan(1, 2000, 6, 20, torch.float32, chip=Chip(1, 9))
    tile, in_bin = torch.arange(2000) // plan.bins, torch.arange(2000) % plan.bins
    near = (in_bin < 5) | ((in_bin < 22) & (tile == 0))
    keys = torch.nn.functional.normalize(units(1, 6) + 0.02 * torch.randn(2000, 6), dim=1)
    keys[~near] *= -1
    monkeypatch.setattr(triton_file, "launch", without_rescore)
    check_nearest(keys[:1].clone(), keys, torch.ones(2000, dtype=torch.bool), 20, None)


@pytest.mark.parametrize("k", [7, 20])
def test_scores_below_zero_are_ordered_too(k):
    keys = torch.nn.functional.normalize(units(1, 6) + 0.3 * torch.randn(129, 6), dim=1)
    check_nearest(-keys[:2].clone(), keys, torch.ones(129, dtype=torch.bool), k, None)


def test_labels_may_be_any_integer_of_64_bits():
    keys, queries = units(64, 5), units(3, 5)
    values = torch.arange(64) % 2 * 2**40 + 7
    for label in (7, 2**40 + 7, 2**41 + 7):
        check_pair(queries, keys, values, torch.full((3,), label), None)


# Histories and parts


@pytest.mark.parametrize("k", [1, 20])
def test_parts_of_a_batch_do_not_change_the_answer(monkeypatch, k):
    keys, queries, occupied = KINDS["few"](129, 9), units(5, 9), torch.rand(129) < 0.8
    values, labels = torch.randint(0, 3, (129,)), torch.randint(0, 4, (5,))

    def found():
        yield triton().nearest(queries, keys, occupied, k)
        yield from triton().nearest_pair(queries, keys, values, labels)

    whole = list(found())
    for workspace in (1, 130) if k == 1 else (700,):
        monkeypatch.setattr(triton_file, "WORKSPACE", workspace)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found(), whole, strict=True))


def test_a_memory_is_the_same_after_many_mutations_and_finds_the_same():
    mine = Memory(5, 70, k=20, lookup=triton(), seed=2).to(DEVICE)
    theirs = Memory(5, 70, k=20, lookup="torch", seed=2).to(DEVICE)
    for step in range(34):
        rows, labels = torch.randn(3, 5), torch.randint(0, 9, (3,))
        for memory in (mine, theirs):
            if step % 13 == 12:
                memory.forget(labels=step % 9)
            elif step % 29 == 28:
                memory.resize(60 + step)
            else:
                memory.write(rows, labels)
    assert bits(mine) == bits(theirs)
    queries, labels = torch.randn(5, 5), torch.randint(0, 9, (5,))
    for k in (1, 20, 200):
        for ours, others in zip(mine(queries, k=k)[:4], theirs(queries, k=k)[:4], strict=True):
            assert torch.equal(ours, others)
    assert torch.equal(mine(queries, labels).slots, theirs(queries, labels).slots)


@NEEDS_A_GPU
def test_keys_beyond_two_billion_numbers_are_found():
    keys = torch.zeros(10**7, 256, dtype=torch.float16)
    keys[-3:] = units(3, 256).half()
    occupied = torch.ones(10**7, dtype=torch.bool)
    for k in (1, 3, 20):
        found = triton().nearest(keys[-3:], keys, occupied, k)
        assert (found == torch.arange(10**7 - 3, 10**7).unsqueeze(1)).any(1).all()
    values = torch.arange(10**7)
    positive, negative = triton().nearest_pair(keys[-3:], keys, values, values[-3:])
    assert torch.equal(positive, values[-3:]) and (negative != positive).all()


def test_queries_and_labels_may_lie_apart():
    keys, values = units(129, 5), torch.randint(0, 3, (129,))
    queries, labels = units(5, 4).T, torch.randint(0, 3, (4, 2))[:, 1]
    occupied = (torch.arange(258) % 5 > 0)[::2]
    for k in (1, 7):
        apart = triton().nearest(queries, keys, occupied, k)
        together = triton().nearest(queries.contiguous(), keys, occupied.contiguous(), k)
        assert torch.equal(apart, together)
    apart = triton().nearest_pair(queries, keys, values, labels)
    together = triton().nearest_pair(queries.contiguous(), keys, values, labels.contiguous())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(apart, together, strict=True))
