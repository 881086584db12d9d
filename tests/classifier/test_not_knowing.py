"""Thresholds and confidence: fitted from data, and true of data that was not seen."""

import math

import pytest
import torch
from classifiers import at, bare, everything, hosted
from hypothesis import given
from hypothesis import strategies as st

from rarememory import EMPTY, Memory, wrap
from rarememory.classifier.blend import EXCLUDED, BlendWeights, Classes, Evidence
from rarememory.classifier.calibration import expected_calibration_error, fit_weights
from rarememory.classifier.openset import familiarity, threshold_at

FAR = st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5])


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=120), FAR)
def test_at_most_the_requested_rate_lies_above_the_threshold(numbers, far):
    strangers = torch.tensor(numbers).float()
    threshold = threshold_at(strangers, far)
    assert (strangers > threshold).float().mean() <= far + 1e-6
    # A lower line, at the next number, would let in more than the conformal place allows.
    lower = strangers[strangers < threshold]
    if len(lower) and len(numbers) + 1 >= 1 / far:
        accepted = (strangers > lower.max()).sum().item()
        assert accepted + 1 > far * (len(numbers) + 1) - 1e-6


def test_the_threshold_is_the_conformal_quantile():
    assert threshold_at(torch.arange(1.0, 100.0), 0.01) == 99
    assert threshold_at(torch.arange(1.0, 100.0), 0.1) == 90
    assert threshold_at(torch.arange(1.0, 101.0), 0.1) == 91
    assert threshold_at(torch.arange(1.0, 10.0), 0.01) == 9
    # (1 - 0.7) * 10 is a little more than 3 in floating point.
    assert threshold_at(torch.arange(1.0, 10.0), 0.7) == 3


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(far):
    with pytest.raises(ValueError, match="false_accept_rate must be between 0 and 1"):
        threshold_at(torch.ones(3), far)
    with pytest.raises(ValueError, match="needs examples, and there are 0"):
        threshold_at(torch.ones(0), 0.1)


def test_the_old_name_of_the_rate_still_works():
    classifier = bare()
    classifier.learn(at(0, 30, 90), ["kea", "weka", "kiwi"])
    with pytest.warns(DeprecationWarning, match="fit_threshold.false_accept_rate=."):
        old = classifier.fit_threshold(far=0.5)
    assert old == classifier.fit_threshold(false_accept_rate=0.5)


def weighing():
    return BlendWeights(*map(torch.tensor, (0.1, 0.5, 0.7, 0.3)))


def familiar(nearest, logits, value=7):
    """How familiar examples are whose only neighbour is of one class, beside a host's 0, 1, ..."""
    scores = torch.tensor(nearest).unsqueeze(1)
    values = torch.full(scores.shape, value).where(scores > -math.inf, EMPTY)
    host_ids = torch.arange(0 if logits is None else logits.shape[1])
    classes = Classes(torch.cat([host_ids, torch.tensor([7])]), host_ids)
    return familiarity(Evidence(scores, values, logits), weighing(), classes).tolist()


def test_familiarity_is_a_cosine_that_would_say_as_much():
    logits = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    odds = [math.exp(3) / (math.exp(1) + 1), 1 / 2]
    by_host = [0.5 + 0.1 * (0.7 * math.log(odd) + 0.3) for odd in odds]
    assert familiar([0.1, 0.1], logits) == pytest.approx(by_host)
    assert familiar([-math.inf, -math.inf], logits) == pytest.approx(by_host)
    assert familiar([0.9, 0.9], logits) == pytest.approx([0.9, 0.9])
    assert familiar([0.9, -math.inf], None) == [pytest.approx(0.9), -math.inf]


def test_what_host_and_memory_agree_on_is_more_familiar():
    logits = torch.tensor([[0.0, 2.0]])
    agreed, apart = familiar([0.6], logits, value=1), familiar([0.6], logits, value=0)
    assert agreed[0] > apart[0] and agreed[0] > 0.6


def test_familiarity_tells_apart_where_chances_round_to_one():
    one, other = familiar([0.0, 0.0], torch.tensor([[90.0, 0.0], [100.0, 0.0]]))
    assert one < other


def test_a_host_whose_classes_are_all_left_out_adds_nothing():
    for n_host in (1, 2):
        logits = torch.full((2, n_host), EXCLUDED)
        assert familiar([0.4, -math.inf], logits) == [pytest.approx(0.4), -math.inf]


def test_before_a_threshold_only_an_empty_memory_says_unknown():
    classifier = bare()
    assert classifier.predict(at(0)) == ["unknown"]
    classifier.learn(at(0), ["kea"])
    assert classifier.predict(at(180)) == ["kea"]


def test_unknown_examples_draw_the_line():
    classifier = bare()
    classifier.learn(at(0, 90), ["kea", "weka"])
    threshold = classifier.fit_threshold(unknown=at(*range(120, 330, 2)), false_accept_rate=0.05)
    assert classifier.threshold.item() == threshold
    assert classifier.predict(at(0, 20, 90, 200, 250)) == [
        "kea", "kea", "weka", "unknown", "unknown"
    ]  # fmt: skip
    strangers = classifier.predict(at(*range(120, 330, 2)))
    assert 0 < sum(label != "unknown" for label in strangers) <= 0.05 * len(strangers)


def test_a_single_class_cannot_play_the_stranger():
    classifier = bare()
    classifier.learn(at(0, 10), ["kea", "kea"])
    with pytest.raises(ValueError, match="give unknown="):
        classifier.fit_threshold(false_accept_rate=0.1)
    assert classifier.threshold == -math.inf


def test_what_lies_on_the_line_is_unknown():
    classifier = bare()
    classifier.learn(at(0), ["kea"])
    classifier.fit_threshold(unknown=at(60), false_accept_rate=0.5)
    assert classifier.predict(at(60, 59)) == ["unknown", "kea"]


def test_without_unknown_examples_every_class_plays_the_stranger():
    classifier = bare()
    classifier.learn(at(0, 30, 90), ["kea", "weka", "kiwi"])
    # The others are 30, 30 and 60 degrees away: cosines .866, .866 and .5.
    assert classifier.fit_threshold(false_accept_rate=0.5) == pytest.approx(math.cos(math.pi / 6))
    assert classifier.fit_threshold(false_accept_rate=0.75) == pytest.approx(0.5)
    held_out = classifier.fit_threshold(
        at(1, 29, 95), ["kea", "weka", "kiwi"], false_accept_rate=0.75
    )
    assert held_out == pytest.approx(math.cos(math.radians(65)), abs=1e-5)


def test_a_class_left_out_is_as_if_it_had_never_been_learnt():
    weight = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    whole, without = hosted(weight), hosted(weight)
    whole.learn(at(0, 20, 30, 90), ["kea", "weka", "weka", "kiwi"])
    without.learn(at(20, 30, 90), ["weka", "weka", "kiwi"])
    threshold = whole.fit_threshold(at(5), ["kea"], false_accept_rate=0.5)
    assert threshold == pytest.approx(without.familiarity(at(5)).item(), abs=1e-6)


def test_without_labels_the_class_that_answers_plays_the_stranger():
    one, other = bare(), bare()
    for classifier in (one, other):
        classifier.learn(at(0, 30, 90), ["kea", "weka", "kiwi"])
    inputs = at(1, 29, 95)
    labelled = one.fit_threshold(inputs, one.predict(inputs), false_accept_rate=0.4)
    assert other.fit_threshold(inputs, false_accept_rate=0.4) == labelled


def test_a_class_left_out_is_left_out_of_the_host_too():
    classifier = hosted(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), classes=["right", "up"])
    left_in = classifier.familiarity(at(0))
    left_out = classifier.fit_threshold(at(0), ["right"], false_accept_rate=0.5)
    # One class is left, and is all the host can say.
    assert left_out == pytest.approx(0.8 + 0.025 * 100) and left_in < 1
    three = hosted(torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]]))
    assert three.fit_threshold(at(0), [0], false_accept_rate=0.5) == pytest.approx(0.8)


def test_a_host_needs_examples_for_a_threshold():
    classifier = hosted(torch.eye(2))
    with pytest.raises(ValueError, match="give inputs, or unknown="):
        classifier.fit_threshold()
    with pytest.raises(ValueError, match="'keaa' is not known"):
        classifier.fit_threshold(at(0), ["keaa"])


def test_the_measured_rate_of_new_strangers_is_near_the_requested_one():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(300, 16, generator=generator)

    def drawn(classes):
        return directions[classes] + 0.3 * torch.randn(len(classes), 16, generator=generator)

    known, strange = torch.arange(200), torch.arange(200, 300)
    classifier = wrap(torch.nn.Identity(), host=False, memory=Memory(16, 400))
    classifier.learn(drawn(known), known)
    for far in (0.05, 0.1, 0.2):
        classifier.fit_threshold(drawn(known.repeat(10)), known.repeat(10), false_accept_rate=far)
        answers = classifier.predict(drawn(strange.repeat(40)))
        measured = sum(answer != "unknown" for answer in answers) / len(answers)
        assert far / 1.5 < measured < far * 1.5
        kept = classifier.predict(drawn(known.repeat(5)))
        assert sum(answer != "unknown" for answer in kept) / len(kept) > 0.8


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_that_of_bins_by_hand(pairs):
    total = 0.0
    for place in range(15):
        low, high = place / 15, (place + 1) / 15
        inside = [
            (percent / 100, right)
            for percent, right in pairs
            if low < percent / 100 <= high or (place == 0 and percent == 0)
        ]
        total += abs(sum(right for _, right in inside) - sum(sure for sure, _ in inside))
    sure = torch.tensor([percent / 100 for percent, _ in pairs], dtype=torch.float64)
    right = torch.tensor([right for _, right in pairs])
    error = expected_calibration_error(sure, right)
    assert error == pytest.approx(total / len(pairs), abs=1e-9)


def noisy(count, seed, spread=40.0):
    """Examples of four classes of the plane that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    angles = labels * 90 + spread * torch.randn(count, generator=generator)
    return at(*angles.tolist()), labels


def test_calibrating_makes_confidence_mean_what_it_says():
    classifier = hosted(20 * at(0, 90), memory_size=400)
    classifier.learn(*noisy(200, seed=1))
    classifier.ensembler.weights[0] = 1e-4
    inputs, labels = noisy(600, seed=3)

    def error():
        chances = classifier.predict_proba(inputs)
        right = torch.tensor(chances.classes)[chances.values.argmax(1)] == labels
        return expected_calibration_error(chances.confidence, right)

    before = error()
    report = classifier.calibrate(*noisy(600, seed=2))
    assert report.examples == 600
    assert report.loss < report.loss_before and report.error < report.error_before
    assert error() < 0.08 < before


def test_calibrating_finds_where_the_host_should_be_heard():
    """A host that is right about two classes, and a memory that knows the two others."""
    classifier = hosted(20 * at(0, 90), classes=["right", "up"])
    classifier.learn(at(180, 270), ["left", "down"])
    inputs = at(10, -10, 80, 100, 170, 190, 260, 280)
    labels = [name for name in ("right", "up", "left", "down") for _ in range(2)]
    classifier.ensembler.weights[1] = -0.9
    assert classifier.predict(inputs) != labels
    classifier.calibrate(inputs, labels)
    assert classifier.predict(inputs) == labels
    assert (classifier.ensembler.weights[[0, 2]] > 0).all()


def test_a_fit_that_makes_it_worse_is_not_kept():
    start = weighing()

    def chances(one):
        better = torch.stack([1 - one.temperature, one.temperature]).unsqueeze(0)
        return better if one is start else better * float("nan")

    kept, report = fit_weights(chances, torch.tensor([0]), start)
    assert kept is start and report.loss == report.loss_before


def test_calibrating_touches_nothing_but_the_weighing():
    classifier = bare()
    classifier.learn(at(0, 90), ["kea", "weka"])
    before = everything(classifier)
    classifier.calibrate(at(20, 50, 80), ["kea", "kea", "weka"])
    weights = classifier.ensembler.weights.clone()
    classifier.ensembler.weights.copy_(torch.tensor([0.025, 0.8, 1.0, 0.0]))
    assert everything(classifier) == before
    assert weights[0] != 0.025 and torch.equal(weights[1:], classifier.ensembler.weights[1:])


def test_calibrating_lets_the_hosts_classes_lose_no_more_than_they_may():
    """New classes in the middle of old ones: likelihood alone would take from the old."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 90]).repeat(100).tolist() + ["kea"] * 400
    angles = [45.0 if label == "kea" else label for label in labels]
    inputs = at(*(torch.tensor(angles) + 25 * torch.randn(600, generator=generator)).tolist())
    reports = {}
    for keep in (1.0, 0.05, 0.0):
        classifier = hosted(9 * at(0, 90), classes=[0, 90])
        classifier.learn(at(45), ["kea"])
        reports[keep] = classifier.calibrate(inputs, labels, keep=keep)
        answers = classifier.predict(inputs[:200])
        base = sum(a == b for a, b in zip(answers, labels[:200], strict=True)) / 200
        assert base == pytest.approx(reports[keep].base)
    alone = reports[1.0].base_alone
    assert reports[1.0].base < alone - 0.1
    assert alone - 0.05 <= reports[0.05].base < alone
    assert reports[0.0].base >= alone
    assert reports[1.0].loss < reports[0.05].loss < reports[0.0].loss


def test_calibrating_without_the_hosts_classes_says_nothing_of_them():
    classifier = hosted(9 * at(0, 90))
    classifier.learn(at(45), ["kea"])
    report = classifier.calibrate(at(40, 50), ["kea", "kea"])
    assert report.base is None and report.base_alone is None
