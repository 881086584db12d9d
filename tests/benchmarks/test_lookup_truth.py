"""What is called a wrong answer, and that no rival gives one."""

from dataclasses import replace

import pytest
import torch

from benchmarks.lookup import clock, rivals, rivals_cuda, truth
from benchmarks.lookup.bench import Bench
from benchmarks.lookup.candidates import Candidate, Refused, ours
from benchmarks.lookup.cells import DATA, Cell, Inputs, make_inputs
from rarememory import EMPTY, Lookup
from rarememory.lookup import LOOKUPS, TorchLookup

TRUTH = torch.tensor([[0.1, 0.9, 0.5, -0.2, 0.5 + 5e-7, 0.3]], dtype=torch.float64)


def fault(slots, scores=None, k=3, in_order=False):
    scores = None if scores is None else torch.tensor([scores])
    return truth.fault(TRUTH, k, torch.tensor([slots]), scores, in_order=in_order)


def test_the_k_best_in_any_order_are_right():
    assert fault([4, 1, 2]) is None
    assert fault([2, 4, 1]) is None
    assert fault([1]) == "row 0 has 1 slots and not 3"


def test_scores_that_float32_cannot_tell_apart_may_change_places():
    assert fault([1, 2], k=2) is None and fault([1, 4], k=2) is None
    assert fault([1, 2, 4], in_order=True) is None and fault([1, 4, 2], in_order=True) is None


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ([1, 2, EMPTY], "row 0 has 2 slots and not 3"),
        ([1, 2, 6], "row 0 has a slot that does not exist"),
        ([1, 2, -7], "row 0 has a slot that does not exist"),
        ([1, 2, 2], "row 0 has a slot twice"),
        ([1, 2, 5], "row 0 has a slot that scores 2.0e-01 lower than the k-th best"),
    ],
)
def test_a_wrong_set_of_slots_is_wrong_in_a_sentence(slots, said):
    assert fault(slots) == said


def test_a_wrong_order_is_wrong_where_order_was_promised():
    assert fault([2, 1, 4]) is None
    assert "not the slots of the truth" in fault([2, 1, 4], in_order=True)


def test_a_wrong_score_is_wrong():
    assert fault([1, 4, 2], [0.9, 0.5, 0.5]) is None
    assert fault([1, 4, 2], [0.9, 0.5, 0.501]) == "row 0 has a score that is 1.0e-03 off"


def test_more_neighbours_than_there_are_leave_places_empty():
    true = TRUTH.clone()
    true[0, 2:] = -torch.inf
    assert truth.fault(true, 4, torch.tensor([[1, 0, EMPTY, EMPTY]])) is None
    assert truth.fault(true, 4, torch.tensor([[1, 0]])) is None
    assert "has 3 slots and not 2" in truth.fault(true, 4, torch.tensor([[1, 0, 2, EMPTY]]))
    true[:] = -torch.inf
    assert truth.fault(true, 4, torch.tensor([[EMPTY]])) is None


def test_true_scores_are_float64_in_chunks_and_leave_empty_slots_out(monkeypatch):
    given = make_inputs(Cell(3, 50, 8, 1), 0, "cpu")
    occupied = torch.arange(50) % 3 != 0
    whole = given.queries.double() @ given.keys.double().T
    monkeypatch.setattr(truth, "_KEYS_AT_ONCE", 7)
    found = truth.true_scores(given.queries, given.keys, occupied)
    assert found.dtype == torch.float64 and found[:, ~occupied].eq(-torch.inf).all()
    torch.testing.assert_close(found[:, occupied], whole[:, occupied], rtol=0, atol=1e-15)


def equal_pairs():
    """Slots 0 and 2 hold one key, 1 and 3 another, and 4 what is empty."""
    keys = torch.eye(3)[[0, 1, 0, 1, 0]]
    occupied = torch.tensor([True, True, True, True, False])
    values = torch.tensor([0, 0, 0, 1, EMPTY])
    return Inputs(torch.eye(3)[:1], keys, occupied, values, torch.tensor([0]))


def test_of_equal_keys_the_lower_slot_is_in():
    given = equal_pairs()
    for right in ([0, 2], [0, 1], [1, 3, 0], [0], [2, 0, 3, 1]):
        assert truth.tie_fault(given, torch.tensor([right])) is None, right
    for wrong in ([2], [0, 3], [2, 1], [0, 2, 3]):
        assert "higher slot of equal keys" in truth.tie_fault(given, torch.tensor([wrong])), wrong


def test_the_nearest_pair_is_judged_side_by_side():
    given = equal_pairs()
    true = truth.true_scores(given.queries, given.keys, given.occupied)

    def judged(positive, negative):
        slots = torch.tensor([positive]), torch.tensor([negative])
        return truth.pair_fault(true, given.values, given.labels, slots) or truth.pair_tie_fault(
            given, slots
        )

    assert judged(0, 3) is None
    assert judged(2, 3) == "row 0 has a higher slot of equal keys, and not the lower"
    assert judged(1, 3) == "a positive scores 1.0e+00 lower than the best"
    assert judged(0, 1) == "a negative scores inf lower than the best"
    assert judged(EMPTY, 3).startswith("a positive is EMPTY where there is one")


def test_recall_is_the_share_of_the_best():
    assert truth.recall(TRUTH, 2, torch.tensor([[1, 2]])) == 1
    assert truth.recall(TRUTH, 2, torch.tensor([[1, 0]])) == 0.5


@pytest.mark.parametrize("data", DATA)
def test_keys_are_of_unit_length_and_the_same_for_the_same_seed(data):
    cell = Cell(3, 200, 16, 5, data)
    one, again, other = (make_inputs(cell, seed, "cpu") for seed in (0, 0, 1))
    assert torch.equal(one.keys, again.keys) and torch.equal(one.queries, again.queries)
    assert not torch.equal(one.keys, other.keys)
    torch.testing.assert_close(one.keys.norm(dim=1), torch.ones(200))
    torch.testing.assert_close(one.queries.norm(dim=1), torch.ones(3))
    reused = make_inputs(cell, 0, "cpu", one.keys)
    assert reused.keys is one.keys and torch.equal(reused.queries, one.queries)


def test_data_lie_as_their_name_says():
    rising = make_inputs(Cell(3, 200, 16, 5, "sorted"), 0, "cpu")
    assert (rising.keys @ rising.queries[0]).diff().ge(-1e-6).all()
    twice = make_inputs(Cell(3, 200, 16, 5, "duplicates"), 0, "cpu")
    best = (twice.keys @ twice.queries[0]).topk(100).indices
    assert len(twice.keys[best].unique(dim=0)) == 1 and (best % 2 == 0).all()
    assert len(make_inputs(Cell(3, 200, 16, 5, "equal"), 0, "cpu").keys.unique(dim=0)) == 1
    near = make_inputs(Cell(3, 640, 16, 5, "clustered"), 0, "cpu").keys
    assert (near[:64] @ near[0]).min() > (near[64:128] @ near[0]).mean()


@pytest.mark.parametrize(
    ("batch", "slots", "k", "data"),
    [(1, 40, 1, "random"), (5, 1000, 10, "clustered"), (3, 64, 64, "random")],
)
def test_every_rival_on_a_cpu_is_right_or_says_why_not(monkeypatch, batch, slots, k, data):
    monkeypatch.setattr(clock, "WARM", 0.0)
    monkeypatch.setattr(clock, "_BURST", 0.0)
    bench = Bench("cpu")
    bench.load(Cell(batch, slots, 32, k, data))
    refused = {
        name: facts["refused"]
        for name in bench.candidates(pair=False)
        if "refused" in (facts := bench.check(name, 60.0))
    }
    assert all(excused(reason) for reason in refused.values()), refused
    for name in bench.candidates(pair=False).keys() - refused.keys():
        assert min(bench.measure(name, "wall")) > 0


def excused(reason: str | None) -> bool:
    """Whether who is not installed, or searches on a GPU, says so and nothing worse."""
    return reason is None or reason.endswith(("is not installed", "and the keys are on cpu"))


def test_every_rival_of_the_nearest_pair_is_right():
    bench = Bench("cpu")
    bench.load(Cell(4, 3000, 32, 0))
    for name in bench.candidates(pair=True):
        assert excused(bench.check(name, 60.0).get("refused"))


def test_a_rival_that_rounds_is_timed_with_its_recall_and_an_exact_one_is_refused(monkeypatch):
    bench = Bench("cpu")
    bench.load(Cell(8, 3000, 32, 100))
    assert 0.8 < bench.check("torch.bfloat16", 60.0)["recall"] < 1
    rounding = next(one for one in rivals.NEAREST if one.name == "torch.bfloat16")
    claimed = Candidate("claimed", "torch", "", rounding.prepare)
    monkeypatch.setattr(rivals, "NEAREST", [claimed])
    assert bench.check("claimed", 60.0)["refused"].startswith("a wrong answer: row ")


def test_what_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    bench = Bench("cpu")
    bench.load(Cell(2, 30, 8, 3))
    assert bench.check("usearch", 60.0) == {"refused": "usearch is not installed"}


@pytest.mark.parametrize("name", ["topk", "chunked"])
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_the_rivals_of_a_gpu_answer_on_a_cpu_too(monkeypatch, name, dtype):
    monkeypatch.setattr(rivals, "KEYS_AT_ONCE", 100)
    cell = Cell(4, 1234, 32, 60)
    given = make_inputs(cell, 0, "cpu")
    candidates = {one.name: one for one in rivals_cuda.NEAREST}
    before = torch.backends.cuda.matmul.fp32_precision
    slots, scores = candidates[f"torch.{dtype}.{name}"].prepare(given, cell)()
    assert torch.backends.cuda.matmul.fp32_precision == before
    true = truth.true_scores(given.queries, given.keys, given.occupied)
    if dtype == "bfloat16":
        assert truth.recall(true, 60, slots) > 0.8
    else:
        assert truth.fault(true, 60, slots, scores) is None


def test_on_a_gpu_torch_takes_part_in_every_precision_and_only_float32_is_exact():
    names = {one.name: one for one in rivals_cuda.NEAREST}
    exact = {name for name, one in names.items() if one.exact and one.family == "torch"}
    forms = ("topk", "topk.compiled", "chunked")
    assert exact == {f"torch.float32.{form}" for form in forms}
    dtypes = ("float16", "bfloat16", "tf32", "float32")
    assert {f"torch.{dtype}.{form}" for dtype in dtypes for form in forms} <= names.keys()
    assert {"torch.float16.topk_float32", "torch.bfloat16.chunked_float32"} <= names.keys()


@pytest.mark.parametrize("package", ["faiss.gpu", "cuvs.gpu"])
def test_what_a_gpu_machine_lacks_is_named(package):
    cell = Cell(2, 30, 8, 3)
    rival = next(one for one in rivals_cuda.NEAREST if one.name == package)
    with pytest.raises(Refused, match=r"is not installed|has no GPU search"):
        rival.prepare(make_inputs(cell, 0, "cpu"), cell)


def test_every_lookup_of_the_package_takes_part_and_auto_with_what_a_read_adds(monkeypatch):
    monkeypatch.setitem(LOOKUPS, "mine", TorchLookup)
    names = [*LOOKUPS, "auto"]
    assert [one.name for one in ours("cpu", pair=False)] == [*names, "auto.ordered"]
    assert [one.name for one in ours("cpu", pair=True)] == names


def test_a_lookup_that_wants_a_half_precision_copy_is_given_one_on_a_gpu(monkeypatch):
    given = make_inputs(Cell(2, 30, 8, 3), 0, "cpu")
    seen = []

    class Half(Lookup):
        name = "half"

        def why_not(self, queries, keys, k):
            return None

        def nearest(self, queries, keys, occupied, k, *, half_keys=None):
            seen.append(half_keys)

    class OnGpu:
        is_cuda = True

        def half(self):
            return given.keys.half()

    monkeypatch.setitem(LOOKUPS, "half", Half)
    for device, keys, reads in (("cpu", given.keys, "float32"), ("cuda", OnGpu(), "float16")):
        (one,) = (one for one in ours(device, pair=False) if one.name == "half")
        assert one.reads == reads
        one.prepare(replace(given, keys=keys), Cell(2, 30, 8, 3))()
    assert seen[0] is None and torch.equal(seen[1], given.half_keys)
