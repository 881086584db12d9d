"""Reads among some labels or slots: every lookup against the oracle, and against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, FirstInFirstOut, Lookup, Memory
from rarememory.lookup import FaissIVF, LocalitySensitiveHashing, TorchLookup
from rarememory.memory import filters
from tests.memories import LOOKUPS, NewTensors, bits
from tests.oracle import PaperMemory

CLASSES = 6


class OneSet(Lookup):
    """A search from outside, which knows nothing of filters."""

    name = "one set"

    def nearest(self, queries, keys, occupied, k):
        assert occupied.dim() == 1
        return TorchLookup().nearest(queries, keys, occupied, k)


def lookups() -> dict[str, object]:
    made = {name: name for name in [*LOOKUPS, "auto"]} | {"one set": OneSet()}
    made["hashing"] = LocalitySensitiveHashing(2, 1, 0, exact_below=0)
    made["lists"] = FaissIVF(n_lists=1, exact_below=0)
    return made


def among_of(kind: str, batch: int, slots: int) -> torch.Tensor:
    """What a read is among, and which slots of each row it allows, by its own words."""
    return {
        "labels": lambda: torch.randint(0, CLASSES, (int(torch.randint(0, 4, ())),)),
        "mask": lambda: torch.rand(slots) < torch.rand(()),
        "labels of each": lambda: torch.randint(-1, CLASSES, (batch, 3)),
        "mask of each": lambda: torch.rand(batch, slots) < torch.rand(batch, 1),
    }[kind]()


KINDS = ["labels", "mask", "labels of each", "mask of each"]


def allowed(among: torch.Tensor, row: int, values: list[int]) -> list[int]:
    """The slots of one row, in loops."""
    own = (among[row] if among.dim() == 2 else among).tolist()
    if among.dtype == torch.bool:
        return [slot for slot in range(len(values)) if own[slot]]
    return [slot for slot, value in enumerate(values) if value != EMPTY and value in own]


def memories(key_dim: int, slots: int, stored: int) -> tuple[dict[str, Memory], PaperMemory]:
    """The same memory on every lookup, and its oracle."""
    rows, labels = torch.randn(stored, key_dim), torch.randint(0, CLASSES, (stored,))
    oracle = PaperMemory(key_dim, slots)
    made = {}
    for name, lookup in lookups().items():
        memory = Memory(key_dim, slots, k=5, lookup=lookup, update=FirstInFirstOut())
        memory.write(rows, labels)
        memory.forget(slots=[0, 3])
        made[name] = memory
    oracle.write(rows.tolist(), labels.tolist(), average=False)
    oracle.forget(slots=[0, 3])
    return made, oracle


@settings(max_examples=25)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 9),
    st.integers(4, 40),
    st.sampled_from([1, 7, 33]),
    st.sampled_from([1, 3, 50]),
    st.integers(0, 10**6),
)
def test_a_read_finds_the_nearest_among_those_that_it_may_find(kind, batch, slots, dim, k, seed):
    torch.manual_seed(seed)
    made, oracle = memories(dim + 2, slots, stored=max(4, slots - 3))
    queries, among = torch.randn(batch, dim + 2), among_of(kind, batch, slots)
    recalls = {name: memory(queries, k=k, among=among) for name, memory in made.items()}
    first = recalls["torch"]
    assert first.filtered
    for row, query in enumerate(queries.tolist()):
        truth = oracle.read(query, k, allowed(among, row, oracle.values))
        found = len(truth.slots)
        assert first.slots[row, :found].tolist() == truth.slots
        assert first.values[row, :found].tolist() == truth.values
        assert first.scores[row, :found].tolist() == pytest.approx(truth.scores, abs=5e-6)
        assert first.prediction[row] == truth.prediction
        assert set(first.slots[row, found:].tolist()) <= {EMPTY}
        assert set(first.scores[row, found:].tolist()) <= {-torch.inf}
    for name, recall in recalls.items():
        assert torch.equal(recall.slots, first.slots), name
        assert torch.equal(recall.scores, first.scores), name


@settings(max_examples=25)
@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(4, 40), st.integers(0, 10**6))
def test_the_loss_is_that_of_a_memory_with_no_other_slots(kind, batch, slots, seed):
    torch.manual_seed(seed)
    made, oracle = memories(5, slots, stored=slots)
    queries, among = torch.randn(batch, 5), among_of(kind, batch, slots)
    labels = torch.randint(0, CLASSES, (batch,))
    recalls = {name: memory(queries, labels, among=among) for name, memory in made.items()}
    losses = []
    for row, (query, label) in enumerate(zip(queries.tolist(), labels.tolist(), strict=True)):
        slots_of_row = allowed(among, row, oracle.values)
        losses.append(oracle.row_loss(query, label, slots_of_row))
        pair = {
            slot for slot in oracle.nearest_pair(query, label, slots_of_row) if slot is not None
        }
        for name, recall in recalls.items():
            assert set(recall.slots[row].tolist()) - {EMPTY} == pair, name
    for name, recall in recalls.items():
        assert recall.loss.item() == pytest.approx(sum(losses) / batch, abs=5e-6), name


@settings(max_examples=25)
@given(
    st.sampled_from([*KINDS, "all"]),
    st.integers(1, 9),
    st.integers(4, 40),
    st.sampled_from([1, 3, 50]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_one_slot_and_one_label_of_each_row_are_left_out(kind, batch, slots, k, both, seed):
    torch.manual_seed(seed)
    made, oracle = memories(4, slots, stored=slots)
    queries = torch.randn(batch, 4)
    among = None if kind == "all" else among_of(kind, batch, slots)
    first, labels = made["torch"], torch.randint(0, CLASSES, (batch,))
    # The nearest slot of most rows, so that leaving it out tells.
    not_slots = first(queries, k=1).slots[:, 0]
    not_slots[::3] = EMPTY
    not_labels = first(queries, k=1).values[:, 0].roll(1) if both else None
    left_out = {"among": among, "exclude": not_slots, "exclude_labels": not_labels}
    found = {name: memory(queries, k=k, **left_out) for name, memory in made.items()}
    pairs = {name: memory(queries, labels, **left_out) for name, memory in made.items()}
    for row, query in enumerate(queries.tolist()):
        mine = list(range(slots)) if among is None else allowed(among, row, oracle.values)
        mine = [slot for slot in mine if slot != not_slots[row]]
        if both:
            mine = [slot for slot in mine if oracle.values[slot] != not_labels[row]]
        truth = oracle.read(query, k, mine)
        pair = {slot for slot in oracle.nearest_pair(query, int(labels[row]), mine)} - {None}
        for name, recall in found.items():
            assert recall.slots.shape == (batch, min(k, slots))
            there = recall.slots[row][recall.slots[row] != EMPTY].tolist()
            assert there == truth.slots, name
            assert torch.equal(recall.scores, found["torch"].scores), name
            assert set(pairs[name].slots[row].tolist()) - {EMPTY} == pair, name


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_of_equal_keys_the_lower_slots_remain(lookup):
    memory = Memory(3, 9, k=3, lookup=lookup, update=FirstInFirstOut())
    memory.write(torch.ones(8, 3), torch.arange(8))
    found = memory(torch.ones(3, 3), exclude=torch.tensor([1, 7, EMPTY]))
    assert found.slots.tolist() == [[0, 2, 3], [0, 1, 2], [0, 1, 2]]


def small(**options: object) -> Memory:
    memory = Memory(3, 6, k=2, update=FirstInFirstOut(), **options)
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    return memory


def test_a_single_query_and_a_block_of_them_take_labels_and_masks():
    memory, queries = small(), torch.eye(3)
    mask = torch.tensor([False, True, True, True, True, True])
    assert memory(queries[0], among=8).prediction == 8
    assert memory(queries[0], among=mask).prediction == 8
    block = queries.expand(2, 3, 3)
    assert memory(block, among=[9]).prediction.tolist() == [[9, 9, 9]] * 2
    of_each = torch.tensor([[7, 8], [7, 8], [7, 8]]).expand(2, 3, 2)
    assert memory(block, among=of_each).prediction[:, 0].tolist() == [7, 7]
    assert memory(block, among=mask.expand(2, 3, 6)).prediction.tolist()[1][1:] == [8, 9]


def test_among_nothing_a_read_finds_nothing():
    memory = small()
    for among in ([], torch.zeros(6, dtype=torch.bool), [1, 2], torch.full((3, 2), EMPTY)):
        recall = memory(torch.eye(3), among=among)
        assert recall.prediction.tolist() == [EMPTY] * 3
        assert recall.confidence.tolist() == [0.0] * 3


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_mask_that_names_empty_slots_finds_none_of_them(lookup):
    memory = small(lookup=lookup)
    for among in (torch.ones(6, dtype=torch.bool), torch.ones(3, 6, dtype=torch.bool)):
        # The key of an empty slot is zero, and so nearer than these.
        recall = memory(-torch.eye(3), k=6, among=among)
        assert recall.slots[:, 3:].eq(EMPTY).all() and recall.slots[:, :3].ge(0).all()


def test_masked_rows_find_nothing():
    rows = torch.tensor([True, False, True])
    recall = small()(torch.eye(3), mask=rows, among=torch.tensor([[7], [8], [9]]))
    assert recall.prediction.tolist() == [7, EMPTY, 9]


def test_no_queries_find_nothing():
    memory, none = small(), torch.zeros(0, 3)
    assert memory(none, among=torch.zeros(0, 2, dtype=torch.int64)).slots.shape == (0, 2)
    labels = torch.zeros(0, dtype=torch.int64)
    assert memory(none, labels, among=torch.zeros(0, 6, dtype=torch.bool)).slots.shape == (0, 2)


@pytest.mark.parametrize(
    ("among", "message"),
    [
        (torch.ones(2), r"labels, which are integers, or a mask of slots, not torch.float32"),
        (["kea"], r"among must be labels, which are integers, not \['kea'\]"),
        (torch.ones(5, dtype=torch.bool), "a mask of 5 slots, and this memory has 6"),
        (
            torch.ones(2, 6, dtype=torch.bool),
            r"among of shape \[2, 6\] for queries of shape \[3\]: give it one dimension, for all "
            r"of them, or \[3, 'n'\]",
        ),
        (torch.zeros(1, device="meta"), "among is on meta, and the memory is on cpu: move one"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_filter_is_refused(among, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.eye(3), among=among)


def test_a_filtered_recall_is_written_by_the_nearest_of_all():
    written, plain = (Memory(3, 6, k=2) for _ in range(2))
    for memory in (written, plain):
        memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    queries, labels = torch.eye(3) + 0.1, torch.tensor([7, 8, 9])
    written.write(written(queries, among=[9]), labels)
    plain.write(queries, labels)
    assert bits(written) == bits(plain)


def test_reading_among_some_changes_nothing_and_the_gradient_is_that_of_the_scores():
    memory, queries = small(), torch.randn(4, 3, requires_grad=True)
    before = bits(memory)
    memory(queries, among=torch.tensor([[8], [9], [7], [7]])).scores[:, 0].sum().backward()
    units = torch.nn.functional.normalize(queries.detach(), dim=1)
    keys = torch.eye(3)[[1, 2, 0, 0]]
    cosines = (units * keys).sum(1, keepdim=True)
    lengths = torch.linalg.vector_norm(queries.detach(), dim=1, keepdim=True)
    torch.testing.assert_close(queries.grad, (keys - cosines * units) / lengths)
    assert bits(memory) == before


def test_marks_of_each_row_are_made_for_some_rows_at_a_time(monkeypatch):
    memory, queries = Memory(4, 500, k=3), torch.randn(64, 4)
    memory.write(torch.randn(400, 4), torch.randint(0, 9, (400,)))
    labels = torch.randint(0, 9, (64, 2))
    whole = memory(queries, among=labels)
    monkeypatch.setattr(filters, "_MARKS_AT_ONCE", 5 * 500)
    with NewTensors() as new:
        parts = memory(queries, among=labels)
    assert torch.equal(whole.slots, parts.slots)
    assert new.largest <= 5 * 500


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": torch.tensor([0, 1, 6])}, r"slot 6, and this memory has 0 to 5, and EMPTY"),
        ({"exclude": torch.tensor([0, -2, 1])}, "exclude names slot -2"),
        (
            {"exclude": torch.tensor([0, 1])},
            r"exclude of shape \[2\] for queries that ask for \[3\]",
        ),
        ({"exclude": torch.ones(3)}, "exclude must be integers, one a query, not torch.float32"),
        ({"exclude_labels": torch.tensor(7)}, r"exclude_labels of shape \[\] for queries that ask"),
        (
            {"exclude": torch.zeros(3).long().to("meta")},
            "exclude on meta for queries on cpu: move one",
        ),
    ],
)
def test_what_cannot_be_left_out_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.eye(3), **options)


@pytest.mark.parametrize(
    "labels",
    [[], [3], [EMPTY], [5, EMPTY, 1], range(20), [3, 68], [10**12 + n for n in range(20)]],
)
def test_slots_are_marked_by_few_many_and_far_labels(engine, labels):
    labels = list(labels)
    memory = Memory(3, 200, update=FirstInFirstOut())
    memory.write(torch.randn(150, 3), torch.tensor([1, 3, 7, 10**12, 10**12 + 3] * 30))
    found = memory(torch.randn(1, 3), k=200, among=labels + labels[:1])
    wanted = [
        slot for slot, value in enumerate(memory.values.tolist()) if value in {*labels} - {EMPTY}
    ]
    assert sorted(found.slots[found.slots != EMPTY].tolist()) == wanted
