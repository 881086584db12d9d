import pickle
from itertools import product

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

from hypothesis import assume, given
from hypothesis import strategies as st
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC

from rarememory.integrations.torchmetrics import Forgetting, OpenSetAUROC, SightingAccuracy


def assert_equal(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


def drawn(seed, size, *bounds):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(bound, (size,), generator=generator) for bound in bounds]


def cut(tensors, parts):
    """The rows in a number of batches, some of them empty."""
    return zip(*(each.tensor_split(parts) for each in tensors), strict=True)


# By sighting


def sighting_loop(preds, target, seen, n_sightings):
    found = []
    for sighting in range(n_sightings):
        rows = [p == t for p, t, s in zip(preds, target, seen, strict=True) if s == sighting]
        found.append(float(np.mean([bool(row) for row in rows])) if rows else float("nan"))
    return found


@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 4), st.integers(1, 5))
def test_sightings_are_those_of_a_loop(seed, size, n_sightings, parts):
    rows = drawn(seed, size, 3, 3, 5)
    metric = SightingAccuracy(n_sightings)
    for batch in cut(rows, parts):
        metric.update(*batch)
    assert_equal(metric.compute().view(-1), sighting_loop(*rows, n_sightings))


def test_a_stream_is_counted_by_how_often_each_class_was_seen():
    metric, seen = SightingAccuracy(3), {}
    for answer, label in ((-1, 7), (-1, 4), (7, 7), (7, 4), (7, 7), (4, 4), (0, 7)):
        before = torch.tensor([seen.get(label, 0)])
        metric.update(torch.tensor([answer]), torch.tensor([label]), seen=before)
        seen[label] = seen.get(label, 0) + 1
    assert metric.compute().tolist() == [0.0, 0.5, 1.0]


def test_a_call_gives_the_accuracy_of_its_batch_and_counts_it():
    metric, one = SightingAccuracy(1), torch.tensor([1])
    assert metric(one, one, one - 1) == 1.0
    assert metric(one, one + 1, one - 1) == 0.0
    assert metric.compute() == 0.5


# Forgetting


def forgetting_loop(accuracy):
    """Of a dictionary (stage, task) -> accuracy."""
    last = max((stage for stage, _ in accuracy), default=0)
    lost = []
    for (stage, task), final in accuracy.items():
        earlier = [a for (s, t), a in accuracy.items() if t == task and s < last]
        if stage == last and earlier:
            lost.append(max(earlier) - final)
    return float(np.mean(lost)) if lost else float("nan")


histories = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6), min_size=1, max_size=4
)


def rows_of(stage):
    right = torch.tensor([int(hit) for _, hit in stage], dtype=torch.int64)
    tasks = torch.tensor([task for task, _ in stage], dtype=torch.int64)
    return right, torch.ones_like(right), tasks


@given(histories, st.integers(1, 3))
def test_forgetting_is_that_of_a_loop(stages, parts):
    assume(any(stages))
    metric, answers = Forgetting(), {}
    for number, stage in enumerate(stages):
        for task, hit in stage:
            answers.setdefault((number, task), []).append(hit)
        for batch in cut(rows_of(stage), parts):
            metric.update(*batch)
        if number < len(stages) - 1:
            metric.next_stage()
    accuracy = {cell: float(np.mean(hits)) for cell, hits in answers.items()}
    assert_equal(metric.compute(), forgetting_loop(accuracy))


def staged(*stages, metric=None):
    """Forgetting after stages, each given as the accuracy of every task in quarters."""
    metric = Forgetting() if metric is None else metric
    for number, stage in enumerate(stages):
        if number:
            metric.next_stage()
        for task, quarters in stage.items():
            preds = (torch.arange(4) < quarters).long()
            metric.update(preds, torch.ones(4).long(), torch.full((4,), task))
    return metric


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        # From the best earlier stage, not from the first or the latest.
        ([{0: 2}, {0: 4}, {0: 3}, {0: 1}], 0.75),
        # Without tasks of the last stage only, and those not in it.
        ([{0: 4, 8: 4}, {0: 3, 1: 0}], 0.25),
        # Negative where learning on helped.
        ([{0: 1, 1: 2}, {0: 3, 1: 2}], -0.25),
        # Stages without examples do not count.
        ([{0: 4}, {}, {0: 2}, {}], 0.5),
        ([{0: 4, 1: 1}], float("nan")),
        ([{0: 4}, {1: 4}], float("nan")),
    ],
)
def test_forgetting_of_small_histories(stages, expected):
    assert_equal(staged(*stages).compute(), expected)


def test_the_accuracies_of_all_stages_can_be_read():
    assert_equal(staged({0: 4}, {0: 2, 5: 3}).accuracies(), [[1.0, float("nan")], [0.5, 0.75]])


def test_a_new_stage_invalidates_the_computed_value():
    metric = staged({0: 4}, {0: 3})
    assert metric.compute() == 0.25
    assert staged({}, {0: 1}, metric=metric).compute() == 0.75


def test_a_call_counts_its_batch_in_the_current_stage():
    metric, one = staged({0: 4}), torch.tensor([1])
    metric.next_stage()
    assert metric(one - 1, one, one - 1).isnan()
    assert metric.compute() == 1.0


def test_merging_keeps_the_stage():
    metric = staged({0: 4}, {0: 2})
    metric.merge_state(staged({0: 4}, {0: 2}))
    assert_equal(staged({0: 0}, metric=metric).accuracies(), [[1.0], [1 / 3]])


# Open sets


@given(st.integers(0, 99), st.integers(2, 40), st.integers(1, 4), st.sampled_from([3, 1000]))
def test_the_area_is_that_of_scikit_learn_and_of_a_loop(seed, size, parts, levels):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, known = drawn(seed, size, levels, 2)
    scores, known = scores / levels * 4 - 2, known.bool()
    assume(known.any() and not known.all())
    metric = OpenSetAUROC()
    for batch in cut((scores, known), parts):
        metric.update(*batch)
    area = metric.compute().item()
    assert area == pytest.approx(metrics.roc_auc_score(known, scores), abs=1e-6)
    pairs = list(product(scores[known].tolist(), scores[~known].tolist()))
    assert area == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]), abs=1e-6)


def test_scores_of_any_range_keep_their_order_over_batches():
    batches = ([0.9, 0.1], [True, True]), ([0.5, -0.5], [False, False])
    ours, theirs = OpenSetAUROC(), BinaryAUROC()
    for scores, known in batches:
        ours.update(torch.tensor(scores), torch.tensor(known))
        theirs.update(torch.tensor(scores), torch.tensor(known).int())
    assert ours.compute() == 0.75
    # The sigmoid of the second batch alone puts -0.5 above 0.1.
    assert theirs.compute() == 0.5


@pytest.mark.parametrize(
    ("scores", "known", "area"),
    [([-torch.inf, -1.0, 1.0], [False, True, True], 1.0), ([0.1, 0.2], [True, True], torch.nan)],
)
def test_a_score_may_be_minus_infinity_and_one_kind_alone_has_no_area(scores, known, area):
    metric = OpenSetAUROC()
    metric.update(torch.tensor(scores), torch.tensor(known))
    assert_equal(metric.compute(), area)


# All three


def filled(metric, which):
    """The metric after the first half of the data, the second, or both."""
    rows = drawn(0, 40, 2, 2, 3)
    first, second = ([row[half] for row in rows] for half in (slice(0, 25), slice(25, 40)))
    for chosen, (preds, target, third) in (("first", first), ("second", second)):
        if isinstance(metric, Forgetting) and chosen == "second":
            metric.next_stage()
        if which not in (chosen, "both"):
            continue
        if isinstance(metric, OpenSetAUROC):
            metric.update(target + third / 7, preds.bool())
        else:
            metric.update(preds, target, third)
    return metric


METRICS = [lambda: SightingAccuracy(3), Forgetting, OpenSetAUROC]
of_each = pytest.mark.parametrize("make", METRICS, ids=["sighting", "forgetting", "open set"])


@of_each
def test_two_halves_merged_are_the_whole(make):
    whole = filled(make(), "both").compute()
    assert not whole.isnan().any()
    for incoming in (filled(make(), "second"), filled(make(), "second").metric_state):
        merged = filled(make(), "first")
        assert not torch.equal(merged.compute(), whole)
        merged.merge_state(incoming)
        torch.testing.assert_close(merged.compute(), whole)


@of_each
def test_a_copy_and_a_pickle_have_the_same_state(make):
    metric = filled(make(), "both")
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(copy.compute(), metric.compute())


@of_each
def test_a_persistent_state_is_in_the_state_dict(make):
    metric, again = filled(make(), "both"), make()
    metric.persistent(True)
    again.load_state_dict(metric.state_dict(), strict=False)
    again._update_count = 1
    assert torch.equal(again.compute(), metric.compute())


@of_each
def test_reset_clears_every_state(make):
    metric, alone = filled(make(), "both"), filled(make(), "both")
    metric.reset()
    assert torch.equal(filled(metric, "both").compute(), alone.compute())
    metric.reset()
    assert all(len(state) == 0 if isinstance(state, list) else not state.any()
               for state in metric.metric_state.values())  # fmt: skip


@of_each
def test_without_data_it_is_nan_and_torchmetrics_warns(make):
    with pytest.warns(UserWarning, match="called before the ``update`` method"):
        assert make().compute().isnan().all()


@of_each
def test_empty_batches_change_nothing(make):
    metric, none = filled(make(), "both"), torch.zeros(0, dtype=torch.int64)
    before = metric.compute()
    if isinstance(metric, OpenSetAUROC):
        metric.update(none.float(), none.bool())
    else:
        metric.update(none, none, none)
    assert torch.equal(metric.compute(), before)


@of_each
def test_any_leading_shape_is_accepted(make):
    flat, shaped = make(), make()
    rows = drawn(1, 12, 2, 2, 3)
    if isinstance(flat, OpenSetAUROC):
        rows = [rows[2].float(), rows[0].bool()]
    flat.update(*rows)
    shaped.update(*[row.view(3, 4) for row in rows])
    torch.testing.assert_close(shaped.compute(), flat.compute(), equal_nan=True)


TWO, THREE = torch.zeros(2).long(), torch.zeros(3).long()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "batch", "message"),
    [
        (METRICS[0], (TWO, THREE, TWO), r"not preds \[2\], target \[3\], seen \[2\]"),
        (METRICS[0], (TWO, TWO, TWO - 1), "seen counts from 0, and one is -1"),
        (Forgetting, (TWO, TWO, THREE), r"not preds \[2\], target \[2\], task \[3\]"),
        (Forgetting, (TWO, TWO, TWO - 1), "task counts from 0, and one is -1"),
        (OpenSetAUROC, (TWO.float(), THREE.bool()), r"not scores \[2\], known \[3\]"),
        (OpenSetAUROC, (torch.full((2,), torch.nan), TWO.bool()), "2 scores are not a number"),
        (lambda: SightingAccuracy(0), (), "n_sightings must be an integer of at least 1, not 0"),
    ],
)
def test_a_bad_batch_is_refused(make, batch, message):
    with pytest.raises(ValueError, match=message):
        make().update(*batch)


def test_they_work_in_a_collection():
    together = MetricCollection({"by sighting": SightingAccuracy(2), "lost": Forgetting()})
    one = torch.tensor([1])
    together["by sighting"].update(one, one, one)
    together["lost"].update(one, one, one)
    assert set(together.compute()) == {"by sighting", "lost"}
