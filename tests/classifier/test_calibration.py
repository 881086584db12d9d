"""Calibration: blend weights fitted by likelihood, judged on examples that were not seen."""

import pytest
import torch
from classifiers import at, bare, everything, hosted

from rarememory.classifier.blend import BlendWeights
from rarememory.classifier.calibration import expected_calibration_error, fit_weights


def test_the_calibration_error_is_that_of_torchmetrics():
    reason = "torchmetrics is not installed"
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason=reason)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 20, 500):
        probabilities = torch.randn(count, 5, generator=generator).softmax(1).double()
        labels = torch.randint(0, 5, (count,), generator=generator)
        best = probabilities.max(1)
        ours = expected_calibration_error(best.values, best.indices == labels)
        theirs = metrics.multiclass_calibration_error(probabilities, labels, 5, n_bins=15)
        assert ours == pytest.approx(theirs.item(), abs=1e-6)
    assert expected_calibration_error(torch.tensor([1.0, 0.0]), torch.tensor([True, False])) == 0
    assert expected_calibration_error(torch.tensor([]), torch.tensor([]).bool()) == 0


def noisy(count, seed, spread=40.0):
    """Examples of four classes of the plane that overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    angles = labels * 90 + spread * torch.randn(count, generator=generator)
    return at(*angles.tolist()), labels


@pytest.mark.parametrize(("reader", "temperature"), [("nearest", 1e-4), ("fitted", 0.02)])
def test_calibrating_makes_confidence_agree_with_accuracy(reader, temperature):
    classifier = hosted(20 * at(0, 90), memory_size=400, reader=reader)
    classifier.learn(*noisy(200, seed=1))
    classifier.ensembler.weights[0] = temperature
    inputs, labels = noisy(600, seed=3)

    def error():
        answer = classifier.predict_proba(inputs)
        correct = torch.tensor(answer.classes)[answer.values.argmax(1)] == labels
        return expected_calibration_error(answer.confidence, correct)

    before = error()
    report = classifier.calibrate(*noisy(600, seed=2), objective="likelihood")
    assert report.examples == 600
    assert report.loss < report.loss_before and report.error < report.error_before
    assert error() < 0.08 < before


@pytest.mark.parametrize(("reader", "host_score"), [("nearest", -0.9), ("fitted", -40.0)])
def test_calibrating_finds_how_much_the_host_counts(reader, host_score):
    """A host that is right about two classes, and a memory of the two others."""
    classifier = hosted(20 * at(0, 90), classes=["right", "up"], reader=reader)
    classifier.learn(at(180, 270), ["left", "down"])
    inputs = at(10, -10, 80, 100, 170, 190, 260, 280)
    labels = [name for name in ("right", "up", "left", "down") for _ in range(2)]
    classifier.ensembler.weights[1] = host_score
    assert classifier.predict(inputs) != labels
    classifier.calibrate(inputs, labels)
    assert classifier.predict(inputs) == labels
    assert classifier.blend_weights.temperature > 0 and classifier.blend_weights.host_weight > 0


def test_a_fit_that_makes_it_worse_is_not_used():
    start = BlendWeights(*map(torch.tensor, (0.1, 0.5, 0.7, 0.3)))

    def probabilities(weights):
        better = torch.stack([1 - weights.temperature, weights.temperature]).unsqueeze(0)
        return better if weights is start else better * float("nan")

    weights, report = fit_weights(probabilities, torch.tensor([0]), start)
    assert weights is start and report.loss == report.loss_before


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_calibrating_changes_nothing_but_the_weights(reader):
    classifier = bare(reader=reader)
    classifier.learn(at(0, 90), ["kea", "weka"])
    before, initial = everything(classifier), classifier.ensembler.weights.clone()
    classifier.calibrate(at(20, 50, 80), ["kea", "kea", "weka"])
    weights = classifier.ensembler.weights.clone()
    classifier.ensembler.weights.copy_(initial)
    assert everything(classifier) == before
    assert weights[0] != initial[0] and torch.equal(weights[1:], initial[1:])


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_the_hosts_classes_lose_no_more_accuracy_than_they_may(reader):
    """New classes in the middle of old ones: likelihood alone would take from the old."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 90]).repeat(100).tolist() + ["kea"] * 400
    angles = [45.0 if label == "kea" else label for label in labels]
    inputs = at(*(torch.tensor(angles) + 25 * torch.randn(600, generator=generator)).tolist())
    reports = {}
    for keep in (1.0, 0.05, 0.0):
        classifier = hosted(9 * at(0, 90), classes=[0, 90], reader=reader)
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


def test_a_report_without_examples_of_the_hosts_classes_has_no_accuracy_of_them():
    classifier = hosted(9 * at(0, 90))
    classifier.learn(at(45), ["kea"])
    report = classifier.calibrate(at(40, 50), ["kea", "kea"])
    assert report.base is None and report.base_alone is None


@pytest.mark.parametrize("host", [True, False])
def test_calibrating_works_in_inference_mode(host):
    def learnt():
        classifier = hosted(3 * at(0, 90)) if host else bare()
        classifier.learn(at(0, 90, 180, 270), ["a", "b", "c", "d"])
        return classifier

    inputs, labels = noisy(40, seed=3)
    examples = inputs, ["abcd"[label] for label in labels.tolist()]
    outside, inside = learnt(), learnt()
    report = outside.calibrate(*examples)
    with torch.inference_mode():
        assert inside.calibrate(*examples) == report
        inside.fit_threshold(unknown=at(45), false_accept_rate=0.5)
    assert torch.equal(inside.ensembler.weights, outside.ensembler.weights)
    assert inside.calibrate(*examples).loss == outside.calibrate(*examples).loss


@pytest.mark.parametrize("keep", [-0.1, 5.0, torch.nan])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        bare().calibrate(torch.ones(1, 2), ["kea"], keep=keep)
