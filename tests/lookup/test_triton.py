"""The Triton search against the definition: on a GPU if there is one, else in the interpreter."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, Memory
from rarememory.lookup import AutoLookup, TorchLookup, TritonLookup
from rarememory.lookup import triton as triton_file
from rarememory.lookup.exact import order, score
from rarememory.lookup.triton_plan import Chip, error, make_plan
from tests.lookup import test_pair
from tests.lookup.test_nearest import KEYS, check, units
from tests.memories import bits

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_A_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: none here")

# The interpreter multiplies in NumPy, which tells of what it cannot multiply.
IN_NUMPY = pytest.mark.filterwarnings("ignore:invalid value encountered")


@pytest.fixture(autouse=True)
def device():
    """Every tensor of these tests is made where the kernels run."""
    with torch.device(DEVICE):
        yield DEVICE


@pytest.fixture
def bfloat16(monkeypatch):
    """The interpreter takes bfloat16 for integers when it multiplies, and cuts it off, not rounds.

    Here it does as a chip.
    """
    if DEVICE == "cuda":
        return
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    convert, multiply = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def rounded(numbers, source, target, mode):
        if target.scalar == bfloat16:
            digits = numbers.view(np.uint32)
            numbers = (digits + 0x7FFF + (digits >> 16 & 1)).view(np.float32)
        return convert(numbers, source, target, mode)

    def wide(handle):
        if handle.dtype.scalar != bfloat16:
            return handle
        digits = handle.data.view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(digits.view(np.float32), float32)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)
    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda self, a, b, *rest: multiply(self, wide(a), wide(b), *rest),
    )


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


LAUNCH = triton_file._launch


def without_rescore(kernel, *arguments, **options) -> None:
    if kernel.__name__ != "rescore":
        LAUNCH(kernel, *arguments, **options)


def own_best(queries, keys, occupied, k):
    """The k best by the package's own scores of every slot, in the one order."""
    slots = torch.arange(len(keys)).expand(len(queries), -1)
    scores = score(queries, keys, slots).masked_fill(~occupied, -torch.inf)
    best = slots.gather(1, order(scores, slots))[:, :k]
    return best.masked_fill(scores.gather(1, best) == -torch.inf, EMPTY)


# The k nearest


@pytest.mark.parametrize("streamed", ["keys", "half_keys"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slots", "key_dim", "batch", "k"),
    [(1, 1, 1, 1), (7, 3, 4, 33), (129, 33, 4, 1), (129, 33, 4, 7), (301, 5, 3, 20)],
)
def test_the_k_nearest_are_found(kind, slots, key_dim, batch, k, streamed):
    keys = KINDS[kind](slots, key_dim)
    queries = torch.cat([units(batch, key_dim), keys[:2]])
    for holes in (0, slots // 3):
        stored, occupied = with_holes(keys, holes)
        half_keys = stored.half() if streamed == "half_keys" else None
        check_nearest(queries, stored, occupied, k, half_keys)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_an_empty_memory_finds_nothing(k):
    keys, occupied = with_holes(units(129, 5), 129)
    assert triton().nearest(units(3, 5), keys, occupied, k).eq(EMPTY).all()
    values, labels = torch.full((129,), EMPTY), torch.tensor([0, 1, EMPTY])
    for slots in triton().nearest_pair(units(3, 5), keys, values, labels):
        assert slots.eq(EMPTY).all()


@pytest.mark.parametrize("batch", [0, 1, 15, 16, 17])
@pytest.mark.parametrize("k", [1, 5, 17])
def test_any_number_of_queries_is_served(batch, k):
    keys, queries, occupied = units(129, 9), units(batch, 9), torch.arange(129) % 5 > 0
    found = triton().nearest(queries, keys, occupied, k)
    assert found.shape == (batch, k) and found.dtype == torch.int64
    assert torch.equal(found.sort(1).values, own_best(queries, keys, occupied, k).sort(1).values)


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


@pytest.mark.parametrize("kind", ["units", "few", "all equal", "tight"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_half_precision_keys_are_ordered_by_their_exact_scores(bfloat16, kind, dtype, k):
    keys, queries = KINDS[kind](301, 17).to(dtype), units(3, 17).to(dtype)
    keys, occupied = with_holes(keys, 40)
    found = triton().nearest(queries, keys, occupied, k)
    assert torch.equal(found.sort(1).values, own_best(queries, keys, occupied, k).sort(1).values)


@IN_NUMPY
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [1, 7, 20, 200])
def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other(bad, k):
    keys, queries, occupied = units(129, 5), units(5, 5), torch.ones(129, dtype=torch.bool)
    alone = triton().nearest(queries, keys, occupied, k).sort(1).values
    spoilt = queries.clone()
    spoilt[1], spoilt[3, 1] = bad, bad
    found = triton().nearest(spoilt, keys, occupied, k).sort(1).values
    assert found[[1, 3]].eq(EMPTY).all()
    assert torch.equal(found[[0, 2, 4]], alone[[0, 2, 4]])


def test_two_zeros_are_one_score():
    keys = torch.eye(4).repeat(10, 1)
    keys[::2] *= -1
    query, occupied = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.arange(40) % 4 < 3
    for k in (1, 3, 20):
        found = triton().nearest(query, keys, occupied, k).sort(1).values
        assert torch.equal(found[0], occupied.nonzero().squeeze(1)[:k])


@pytest.mark.parametrize(("slots", "k"), [(1300, 5), (1300, 60)])
def test_a_row_with_more_candidates_than_there_is_room_for_is_rescued(monkeypatch, slots, k):
    # Two thirds of the slots are closer together than a streamed score can tell.
    keys = units(1, 6) + 0.01 * torch.randn(slots, 6)
    keys[::3] = torch.randn(len(keys[::3]), 6)
    keys = torch.nn.functional.normalize(keys, dim=1)
    keys[700::50] = keys[701]
    queries = torch.cat([keys[1:2], -keys[1:2], units(1, 6)])
    occupied = torch.arange(slots) % 7 > 0
    check_nearest(queries, keys, occupied, k, None)
    whole = triton().nearest(queries, keys, occupied, k).sort(1).values
    monkeypatch.setattr(triton_file, "_launch", without_rescore)
    found = triton().nearest(queries, keys, occupied, k).sort(1).values
    assert (found != whole).any(1).tolist() == [True, False, False]


def test_a_bin_that_hides_more_than_its_best_is_searched_whole(monkeypatch):
    plan = make_plan(1, 2000, 6, 20, torch.float32, chip=Chip(1, 9))
    tile, in_bin = torch.arange(2000) // plan.bins, torch.arange(2000) % plan.bins
    near = (in_bin < 5) | ((in_bin < 22) & (tile == 0))
    keys = torch.nn.functional.normalize(units(1, 6) + 0.02 * torch.randn(2000, 6), dim=1)
    keys[~near] *= -1
    monkeypatch.setattr(triton_file, "_launch", without_rescore)
    check_nearest(keys[:1].clone(), keys, torch.ones(2000, dtype=torch.bool), 20, None)


@pytest.mark.parametrize("k", [7, 20])
def test_scores_below_zero_are_ordered_too(k):
    keys = torch.nn.functional.normalize(units(1, 6) + 0.3 * torch.randn(129, 6), dim=1)
    check_nearest(-keys[:2].clone(), keys, torch.ones(129, dtype=torch.bool), k, None)


@settings(max_examples=12)
@given(
    st.integers(1, 200),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 60),
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.integers(0, 200),
)
def test_any_search_finds_what_the_definition_finds(slots, key_dim, batch, k, kind, copied, holes):
    with torch.device(DEVICE):
        keys, occupied = with_holes(KINDS[kind](slots, key_dim), min(slots, holes))
        queries = torch.cat([units(batch, key_dim), keys[:1]])
        check_nearest(queries, keys, occupied, k, keys.half() if copied else None)
        values = torch.randint(0, 3, (slots,)).masked_fill(~occupied, EMPTY)
        labels = torch.randint(0, 4, (batch + 1,))
        check_pair(queries, keys, values, labels, keys.half() if copied else None)


# The pair


@pytest.mark.parametrize("streamed", ["keys", "half_keys"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("slots", "key_dim", "batch"), [(1, 1, 1), (7, 3, 17), (129, 33, 5), (600, 5, 3)]
)
def test_the_nearest_pair_is_found(kind, slots, key_dim, batch, streamed):
    keys = KINDS[kind](slots, key_dim)
    queries = torch.cat([units(batch, key_dim), keys[:2], -keys[:2]])
    labels = torch.randint(0, 4, (len(queries),))
    for classes, holes in ((1, 0), (3, slots // 3)):
        stored, occupied = with_holes(keys, holes)
        values = torch.randint(0, classes, (slots,)).masked_fill(~occupied, EMPTY)
        half_keys = stored.half() if streamed == "half_keys" else None
        check_pair(queries, stored, values, labels, half_keys)


def test_labels_may_be_any_integer_of_64_bits():
    keys, queries = units(64, 5), units(3, 5)
    values = torch.arange(64) % 2 * 2**40 + 7
    for label in (7, 2**40 + 7, 2**41 + 7):
        check_pair(queries, keys, values, torch.full((3,), label), None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_pair_of_half_precision_keys_is_that_of_their_exact_scores(bfloat16, dtype):
    keys, queries = tight(301, 17).to(dtype), units(3, 17).to(dtype)
    values, labels = torch.randint(0, 3, (301,)), torch.tensor([0, 1, 5])
    positive, negative = triton().nearest_pair(queries, keys, values, labels)
    right = values == labels.unsqueeze(1)
    for row in range(3):
        for slot, among in ((positive, right), (negative, ~right)):
            assert slot[row] == own_best(queries[row : row + 1], keys, among[row], 1)


@IN_NUMPY
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_pair_of_a_query_that_is_not_finite_is_empty(bad):
    keys, queries, values = units(129, 5), units(5, 5), torch.randint(0, 3, (129,))
    labels = torch.randint(0, 3, (5,))
    alone = triton().nearest_pair(queries, keys, values, labels)
    queries[1], queries[3, 1] = bad, bad
    for slots, before in zip(
        triton().nearest_pair(queries, keys, values, labels), alone, strict=True
    ):
        assert slots[[1, 3]].eq(EMPTY).all()
        assert torch.equal(slots[[0, 2, 4]], before[[0, 2, 4]])


# Histories and parts


@pytest.mark.parametrize("workspace", [1, 130, 700])
@pytest.mark.parametrize("k", [1, 20])
def test_parts_of_a_batch_do_not_change_the_answer(monkeypatch, workspace, k):
    keys, queries, occupied = KINDS["few"](129, 9), units(5, 9), torch.rand(129) < 0.8
    values, labels = torch.randint(0, 3, (129,)), torch.randint(0, 4, (5,))
    whole = triton().nearest(queries, keys, occupied, k)
    pair = triton().nearest_pair(queries, keys, values, labels)
    monkeypatch.setattr(triton_file, "WORKSPACE", workspace)
    assert torch.equal(triton().nearest(queries, keys, occupied, k), whole)
    for mine, theirs in zip(
        triton().nearest_pair(queries, keys, values, labels), pair, strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_memory_is_the_same_after_many_mutations_and_finds_the_same():
    mine = Memory(5, 70, k=20, lookup=triton(), seed=2).to(DEVICE)
    theirs = Memory(5, 70, k=20, lookup="torch", seed=2).to(DEVICE)
    for step in range(60):
        rows, labels = torch.randn(3, 5), torch.randint(0, 9, (3,))
        for memory in (mine, theirs):
            if step % 23 == 22:
                memory.forget(labels=step % 9)
            elif step % 41 == 40:
                memory.resize(60 + step % 41)
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


# How far a score may err


@pytest.mark.parametrize("key_dim", [2, 3, 64, 1000])
@pytest.mark.parametrize(
    ("streamed", "keys"),
    [
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_no_streamed_score_errs_by_more_than_is_allowed_for(key_dim, streamed, keys):
    generator = torch.Generator("cpu").manual_seed(0)
    worst = 0.0
    for _ in range(20):
        drawn = torch.randn(2, 50, key_dim, generator=generator, device="cpu")
        drawn[:, 25:] = drawn[0, 25:] + 1e-3 * drawn[1, 25:]
        q, k = torch.nn.functional.normalize(drawn, dim=2)
        k = k.to(keys)
        own = q.double() @ k.double().T
        rough = [as_streamed(rows, streamed).double() for rows in (q, k)]
        worst = max(worst, float((rough[0] @ rough[1].T - own).abs().max()))
    allowed = error(key_dim, streamed, 0)
    assert allowed / 100 < worst <= allowed


def as_streamed(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype != torch.float32:
        return rows.to(dtype)
    # tf32 reads the upper 19 bits, and may well drop the others.
    return (rows.view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_a_tile_number_in_the_low_bits_is_allowed_for():
    scores = torch.linspace(-1, 1, 10001, device="cpu")
    for tile_bits in (1, 5, 9):
        for tile in (0, 2**tile_bits - 1):
            put = (scores.view(torch.int32) & (-1 << tile_bits)) | tile
            off = (put.view(torch.float32) - scores).abs().max()
            with_tile, without = (error(64, torch.float16, number) for number in (tile_bits, 0))
            assert off <= with_tile - without + 2**-23


# The host


def test_no_matrix_of_scores_is_stored(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        triton_file,
        "_launch",
        lambda kernel, grid, *arguments, **_: shapes.extend(
            tuple(a.shape) for a in arguments if isinstance(a, torch.Tensor)
        ),
    )
    with torch.device("meta"):
        keys, queries = torch.empty(2**20, 64), torch.empty(256, 64)
        lookup = TritonLookup(interpret=True)
        for k in (1, 8, 256, 1024):
            lookup.nearest(queries, keys, torch.empty(2**20, dtype=torch.bool), k)
        lookup.nearest_pair(queries, keys, torch.empty(2**20).long(), torch.empty(256).long())
    inputs = {(2**20, 64), (2**20,)}
    assert max(torch.Size(shape).numel() for shape in {*shapes} - inputs) < 256 * 2**20 / 8


def test_the_host_never_waits_for_the_chip(monkeypatch):
    lookup, keys, queries = triton(), units(300, 5), units(3, 5)
    occupied, values = torch.arange(300) % 3 > 0, torch.arange(300) % 4
    labels = values[:3]

    def search() -> None:
        for k in (1, 7, 20, 200):
            lookup.nearest(queries, keys, occupied, k, half_keys=keys.half())
        lookup.nearest_pair(queries, keys, values, labels)

    if DEVICE == "cuda":
        search()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            search()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    # Tensors without numbers: whatever asks for one, or for a size that hangs on one, raises.
    monkeypatch.setattr(triton_file, "_launch", lambda *arguments, **options: None)
    with torch.device("meta"):
        keys, queries, occupied, values, labels = (
            torch.empty_like(tensor, device="meta")
            for tensor in (keys, queries, occupied, values, labels)
        )
        search()
        with pytest.raises((RuntimeError, NotImplementedError)):
            occupied.nonzero()
        with pytest.raises(RuntimeError):
            bool(occupied.any())


@NEEDS_A_GPU
def test_a_search_can_be_captured_in_a_cuda_graph():
    keys, queries, occupied = units(5000, 64), units(16, 64), torch.rand(5000) < 0.9
    for k in (1, 7, 100):
        triton().nearest(queries, keys, occupied, k)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = triton().nearest(queries, keys, occupied, k)
        queries.copy_(units(16, 64))
        graph.replay()
        expected = TorchLookup().nearest(queries, keys, occupied, k)
        assert torch.equal(found.sort(1).values, expected.sort(1).values)


# Saying no


def test_why_not_is_one_sentence_with_the_facts():
    with torch.device("cpu"):
        queries, keys = units(2, 4), units(9, 4)
    lookup = TritonLookup()
    assert lookup.why_not(queries, keys, 3) == ("triton searches on a gpu, and the keys are on cpu")
    lookup = TritonLookup(interpret=True)
    assert lookup.why_not(queries, keys, 2000) is None
    assert lookup.why_not(queries, keys.double(), 3) == (
        "triton searches float32, float16 or bfloat16 keys, and these are torch.float64"
    )
    assert lookup.why_not(queries, units(2000, 4), 1025) == (
        "triton finds at most 1024 neighbours, and k is 1025"
    )
    assert lookup.why_not(queries, keys.T.contiguous().T, 3) == (
        "triton searches contiguous keys, and these have strides (1, 9)"
    )


def test_auto_never_picks_the_interpreter():
    with torch.device("cpu"):
        lookups = AutoLookup().lookups
        assert lookups[0].name == "triton"
        assert lookups[0].why_not(units(2, 4), units(9, 4), 3) is not None


def test_without_triton_the_lookup_says_what_to_install(monkeypatch):
    filled = triton()
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else find(name)
    )
    sentence = 'triton is not installed; run: pip install "rarememory[triton]"'
    with pytest.raises(ImportError) as raised:
        TritonLookup()
    assert str(raised.value) == sentence
    assert pickle.loads(pickle.dumps(filled)).why_not(units(2, 4), units(9, 4), 3) == sentence
    assert [lookup.name for lookup in AutoLookup().lookups] == ["native", "faiss", "torch"]
