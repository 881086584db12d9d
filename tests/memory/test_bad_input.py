"""Bad input: one sentence with the number that was wrong, and a state that is left to the bit."""

import math
import re

import pytest
import torch

from rarememory import (
    AverageOrReplace,
    Memory,
    MemoryState,
    Recall,
)
from tests.memories import bits

pytestmark = pytest.mark.usefixtures("unchecked")


ROWS, LABELS = torch.ones(3, 4).cumsum(0).cumsum(1).cos(), torch.tensor([0, 1, 2])


def spoilt(value: float, *places: tuple[int, ...]) -> torch.Tensor:
    rows = ROWS.clone()
    for place in places:
        rows[place] = value
    return rows


def memory() -> Memory:
    filled = Memory(4, 9, k=3)
    filled.write(ROWS, LABELS)
    return filled


BAD_QUERIES = {
    "too narrow": (ROWS[:, :3], "queries have width 3, and the keys of this memory have 4"),
    "too wide": (torch.ones(3, 5), "queries have width 5, and the keys of this memory have 4"),
    "no width": (torch.tensor(1.0), "queries have no width, and the keys of this memory have 4"),
    "integers": (torch.ones(3, 4, dtype=int), "queries must be floating point, not torch.int64"),
    "bools": (torch.ones(3, 4) > 0, "queries must be floating point, not torch.bool"),
    "complex": (ROWS + 1j, "queries must be floating point, not torch.complex64"),
    "8 bits": (
        ROWS.to(torch.float8_e4m3fn),
        "queries must be float32, float64, float16 or bfloat16, not torch.float8_e4m3fn: convert",
    ),
    "sparse": (ROWS.to_sparse(), "queries must be dense, not torch.sparse_coo: give .to_dense()"),
    "nested": (
        torch.nested.as_nested_tensor([*ROWS], layout=torch.jagged),
        "queries must be dense, not nested: give",
    ),
    "NaN": (spoilt(torch.nan, (1, 2)), "finite and not zero, and these rows are not: 1 "),
    "inf": (spoilt(torch.inf, (0, 0)), "finite and not zero, and these rows are not: 0 "),
    "-inf": (spoilt(-torch.inf, (2, 3)), "finite and not zero, and these rows are not: 2 "),
    "zero": (spoilt(0.0, (0,), (2,)), "finite and not zero, and these rows are not: 0, 2 "),
}


BAD_LABELS = {
    "negative": (
        torch.tensor([0, -1, -7]),
        ">= 0, and these rows are not: 1, 2 (mask them, or mend",
    ),
    "float": (torch.tensor([0.0, 1.0, 2.0]), "labels must be integers >= 0, not torch.float32"),
    "bool": (torch.tensor([True, False, True]), "labels must be integers >= 0, not torch.bool"),
    "complex": (torch.tensor([0j, 1, 2]), "labels must be integers >= 0, not torch.complex64"),
    "too few": (torch.tensor([0, 1]), "labels of shape [2] for queries that ask for [3]"),
    "too many": (torch.arange(4), "labels of shape [4] for queries that ask for [3]"),
    "a matrix": (LABELS.unsqueeze(1), "labels of shape [3, 1] for queries that ask for [3]"),
    "sparse": (LABELS.to_sparse(), "labels must be dense, not torch.sparse_coo: give .to_dense()"),
    "nested": (
        torch.nested.as_nested_tensor([*LABELS.view(3, 1)], layout=torch.jagged),
        "labels must be dense, not nes",
    ),
    "one for all": (torch.tensor(1), "labels of shape [] for queries that ask for [3]"),
}


BAD_MASKS = {
    "integers": (torch.tensor([1, 0, 1]), "mask must be torch.bool, True for rows that count"),
    "too short": (torch.tensor([True]), "mask of shape [1] for queries that ask for [3]"),
    "sparse": ((LABELS > 0).to_sparse(), "mask must be dense, not torch.sparse_coo: give .to_d"),
    "a matrix": (torch.ones(3, 4) > 0, "mask of shape [3, 4] for queries that ask for [3]"),
}


def refused(filled: Memory, call, sentence: str, error: type[Exception] = ValueError) -> None:
    before, version = bits(filled), [buffer._version for buffer in filled.buffers()]
    with pytest.raises(error, match=re.escape(sentence)) as caught:
        call()
    assert bits(filled) == before
    assert [buffer._version for buffer in filled.buffers()] == version
    message = str(caught.value)
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_bad_queries_are_refused(name):
    queries, sentence = BAD_QUERIES[name]
    filled = memory()
    labels = torch.zeros(3, dtype=torch.int64)
    refused(filled, lambda: filled(queries), sentence)
    refused(filled, lambda: filled(queries, labels), sentence)
    refused(filled, lambda: filled.write(queries, labels), sentence)


@pytest.mark.parametrize("recalled", [False, True])
@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_refused(name, recalled):
    labels, sentence = BAD_LABELS[name]
    filled = memory()
    rows = filled(ROWS) if recalled else ROWS
    refused(filled, lambda: filled(ROWS, labels), sentence)
    refused(filled, lambda: filled.write(rows, labels), sentence)


@pytest.mark.parametrize("recalled", [False, True])
@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_are_refused(name, recalled):
    mask, sentence = BAD_MASKS[name]
    filled = memory()
    rows = filled(ROWS) if recalled else ROWS
    refused(filled, lambda: filled(ROWS, mask=mask), sentence)
    refused(filled, lambda: filled.write(rows, LABELS, mask=mask), sentence)


def test_bad_rows_are_named_by_their_place_in_any_leading_shape():
    filled = Memory(4, 9)
    rows = torch.ones(2, 3, 4)
    rows[0, 2], rows[1, 0] = 0.0, torch.nan
    refused(filled, lambda: filled(rows), "these rows are not: (0, 2), (1, 0) (leave them out, or")
    refused(
        filled,
        lambda: filled.write(torch.zeros(20, 4), torch.arange(20)),
        "these rows are not: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more (leave them out, or look for NaN",
    )
    refused(filled, lambda: filled(torch.zeros(4)), "and these rows are not: 0 (leave")


def test_masked_rows_may_hold_anything():
    filled = memory()
    mask = torch.tensor([True, False, True])
    rows, labels = spoilt(torch.nan, (1,)), torch.tensor([0, -9, 2])
    assert filled(rows, labels, mask=mask).loss.isfinite()
    assert filled.write(rows, labels, mask=mask).slots.tolist() == [0, -1, 2]
    assert filled.write(filled(rows, mask=mask), labels, mask=mask).slots.tolist() == [0, -1, 2]
    assert filled.state.keys.isfinite().all()


def test_without_validation_bad_rows_are_masked_besides_those_of_the_mask():
    filled = memory()
    filled.validate = False
    mask = torch.tensor([True, False, True])
    recall = filled(spoilt(torch.nan, (0,)), mask=mask)
    assert (recall.prediction == -1).tolist() == [True, True, False]


def test_what_a_read_left_out_is_not_written_even_without_a_mask():
    filled = memory()
    filled.validate = False
    recall = filled(spoilt(torch.nan, (1,)))
    assert recall.prediction.tolist() == [0, -1, 2]
    assert filled.write(recall, LABELS).slots.tolist() == [0, -1, 2]


def test_a_recall_of_other_keys_is_refused():
    filled, other = memory(), Memory(5, 9)
    recall = other(torch.ones(3, 5))
    refused(
        filled,
        lambda: filled.write(recall, LABELS),
        "queries have width 5, and the keys of this memory have 4",
    )
    recall = memory().double()(ROWS.double())
    assert filled.write(recall, LABELS).hits.all()
    assert filled.keys.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e30, 3e38, 1e18, 1e-20, 1e-22, 1e-30, 1e-44])
@pytest.mark.parametrize("validate", [True, False])
def test_huge_and_tiny_finite_rows_are_normalised_rightly(scale, validate):
    filled = Memory(4, 9, k=1, validate=validate)
    rows = torch.tensor([[1.0, -1, 0.5, 0], [0, 0, 0, 1]]) * scale
    truth = rows.double() / rows.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(filled(rows).queries.double(), truth, rtol=1e-6, atol=1e-7)
    filled.write(torch.cat([rows, torch.ones(1, 4)]), LABELS)
    assert filled(rows).prediction.tolist() == [0, 1]
    assert filled(rows).scores.squeeze(1).tolist() == pytest.approx([1, 1])
    assert filled(rows.double(), torch.tensor([0, 1])).loss.item() == 0


def test_the_gradient_of_a_huge_row_is_that_of_its_direction():
    filled = memory()
    slopes = []
    for scale in (1.0, 1e30):
        rows = (torch.tensor([[1.0, -1, 0.5, 2]]) * scale).requires_grad_()
        filled(rows).scores.sum().backward()
        slopes.append(rows.grad * scale)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ({}, "say what to forget: labels, slots or older_than; or clear() it all"),
        ({"slots": [0, 9, -1]}, "slots [9, -1] do not exist: this memory has 0 to 8"),
        ({"slots": 9}, "slots [9] do not exist: this memory has 0 to 8"),
        ({"slots": [9], "labels": 0}, "slots [9] do not exist"),
        ({"older_than": -3}, "older_than must be 0 or a positive number, not -3"),
        ({"older_than": -1, "labels": 0}, "older_than must be 0 or a positive number, not -1"),
        ({"older_than": math.nan}, "older_than must be 0 or a positive number, not nan"),
        ({"labels": torch.tensor(0.5)}, "labels to forget must be integers, not torch.float32"),
        ({"labels": 0.5}, "labels to forget must be integers, not torch.float32"),
        ({"slots": math.nan}, "slots to forget must be integers, not torch.float32"),
        ({"labels": "kea"}, "labels to forget must be integers, not ['k', 'e', 'a']"),
        ({"labels": [0.5]}, "labels to forget must be integers, not torch.float32"),
        ({"slots": torch.ones(9) > 0}, "slots to forget must be integers, not torch.bool"),
    ],
)
def test_bad_conditions_of_forgetting_are_refused(conditions, sentence):
    filled = memory()
    refused(filled, lambda: filled.forget(**conditions), sentence)


def test_nothing_is_as_old_as_no_integer_can_tell():
    for old in (10**20, math.inf, 2**63):
        assert memory().forget(older_than=old) == 0


def test_a_write_needs_labels():
    filled = memory()
    for queries in (ROWS, filled(ROWS)):
        refused(filled, lambda q=queries: filled.write(q, None), "labels must be integers, one for")


def test_queries_of_another_device_are_refused():
    filled = memory()
    meta = torch.empty(3, 4, device="meta")
    refused(filled, lambda: filled(meta), "queries are on meta, and the memory is on cpu")
    labels = torch.empty(3, dtype=torch.int64, device="meta")
    refused(filled, lambda: filled(ROWS, labels), "labels on meta for queries on cpu")


def test_a_write_that_is_refused_half_way_leaves_the_state_to_the_bit():
    class Refuses(AverageOrReplace):
        def eviction(self, ages, noise):
            raise ValueError("no slot is to spare")

    filled = memory()
    filled.update = Refuses()
    rows = torch.cat([ROWS[:1], -ROWS[:1]])
    refused(filled, lambda: filled.write(rows, torch.tensor([0, 9])), "no slot is to spare")


def test_the_nouns_are_plain_tuples():
    assert MemoryState._fields == ("keys", "values", "written", "clock", "seed")
    parts = ("slots", "scores", "values", "queries", "temperature", "loss", "filtered")
    assert Recall._fields == parts


def test_a_recall_of_slots_that_are_gone_is_refused():
    filled = memory()
    recall = filled(ROWS)
    filled.resize(2)
    sentence = "the recall names slot 2, and this memory has 0 to 1: read again, then write"
    refused(filled, lambda: filled.write(recall, LABELS), sentence)


def test_what_is_no_tensor_is_refused():
    filled = memory()
    refused(filled, lambda: filled([[0.5] * 4]), "queries must be a tensor [..., 4], not a list")
    refused(filled, lambda: filled(ROWS, [0, 1, 2]), "labels must be a tensor of integers >= 0")
    refused(filled, lambda: filled(ROWS, mask=[True] * 3), "mask must be torch.bool, True for")


def test_keys_of_8_bits_are_refused():
    filled = memory().to(torch.float8_e5m2)
    sentence = "keys must be float32, float64, float16 or bfloat16, not torch.float8_e5m2: convert"
    for call in (lambda: filled(ROWS), lambda: filled.write(ROWS, LABELS)):
        with pytest.raises(ValueError, match=sentence):
            call()
    assert filled.float()(ROWS).prediction.tolist() == [0, 1, 2]
