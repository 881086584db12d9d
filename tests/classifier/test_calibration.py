"""Calibration: blend weights fitted by likelihood, judged on examples that were not seen."""

from typing import NamedTuple

import pytest
import torch
from classifiers import at, bare, everything, hosted
from torch import nn

from rarememory.classifier.blend import BlendWeights
from rarememory.classifier.calibration import (
    CURVE_POINTS,
    OBJECTIVES,
    OldAgainstNew,
    expected_calibration_error,
    fit_weights,
    log_loss,
    quality,
)
from tests.classifier.made_classes import classifier, world


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


def beside_a_host(seed, reader="fitted"):
    """Six classes of a host that is rarely sure, four that are learnt, and examples to spare."""
    random = torch.Generator().manual_seed(seed)
    rows, labels = world([40] * 10, spread=0.9, seed=seed)
    of_host, place = labels < 6, torch.arange(len(labels)) % 40
    inputs = torch.cat([rows[of_host], torch.ones(240, 1)], 1)
    inputs += 0.05 * torch.randn(inputs.shape, generator=random)
    solution = torch.linalg.lstsq(inputs, nn.functional.one_hot(labels[of_host], 6).float())[0]
    classifier = hosted(1.2 * solution[:-1].T, memory_size=64, reader=reader)
    # In two of three worlds nothing of the host's classes is remembered.
    known = (place < 5) & (labels >= (4 if seed % 3 == 0 else 6))
    classifier.learn(rows[known], labels[known].tolist())
    return classifier, rows[place >= 20], labels[place >= 20]


class Standing(NamedTuple):
    accuracy: float
    likelihood: float
    harmonic: float
    old: float
    new: float

    @classmethod
    def of(cls, classifier, inputs, labels):
        answer = classifier.predict_proba(inputs)
        columns = torch.tensor([answer.classes.index(label) for label in labels.tolist()])
        likelihood = -log_loss(answer.values.double(), columns).item()
        right = (answer.values.argmax(1) == columns).double()
        old, new = right[labels < 6].mean().item(), right[labels >= 6].mean().item()
        harmonic = OldAgainstNew(0.0, old, new).harmonic
        return cls(right.mean().item(), likelihood, harmonic, old, new)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_beside_a_host_an_objective_is_not_worse_after_calibrating(objective, reader):
    # Of the second the likeliest weights are not those of the most right answers.
    for seed in (1, 3):
        classifier, *examples = beside_a_host(seed, reader)
        before = Standing.of(classifier, *examples)
        report = classifier.calibrate(*examples, objective=objective)
        after = Standing.of(classifier, *examples)
        assert getattr(after, objective) >= getattr(before, objective) - 1e-6
        # The report says what it was before and after.
        assert (report.loss_before, report.loss) == pytest.approx(
            (-before.likelihood, -after.likelihood), abs=1e-4
        )
        assert (report.base, report.new) == pytest.approx((after.old, after.new))
        assert 0 < report.base_alone < 1 and report.examples == 200
        curve = report.curve
        assert len(curve) == CURVE_POINTS
        assert [point.host_bias for point in curve] == sorted(point.host_bias for point in curve)
        olds, news = [point.old for point in curve], [point.new for point in curve]
        assert olds == sorted(olds) and news == sorted(news, reverse=True)
        reached = {
            "accuracy": max(0.6 * point.old + 0.4 * point.new for point in curve),
            "harmonic": max(point.harmonic for point in curve),
        }
        # Each point of the curve is a bias, and the best of them was taken.
        if objective in reached:
            assert getattr(after, objective) == pytest.approx(reached[objective], abs=0.006)
        # Once more, from where it is now.
        classifier.calibrate(*examples, objective=objective)
        again = Standing.of(classifier, *examples)
        assert getattr(again, objective) >= getattr(after, objective) - 1e-6


def test_beside_a_host_each_objective_is_reached_best_by_its_own_calibration():
    found = {}
    for objective in OBJECTIVES:
        classifier, *examples = beside_a_host(0)
        classifier.calibrate(*examples, objective=objective)
        found[objective] = Standing.of(classifier, *examples)
    for objective in OBJECTIVES:
        most = max(getattr(one, objective) for one in found.values())
        # The likelihood is fitted with a penalty on the weights, which others do not pay.
        less = 2e-3 if objective == "likelihood" else 1e-6
        assert getattr(found[objective], objective) >= most - less
    assert len({*found.values()}) > 1


def test_readers_are_compared_by_the_likelihood_that_they_are_calibrated_to(monkeypatch):
    found = []

    def usual_reader(usual, merit, error):
        found.append((merit(usual), error(0.5)))
        return usual

    for objective in OBJECTIVES:
        monkeypatch.setattr("rarememory.classifier.answering.best_reader", usual_reader)
        classifier, *examples = beside_a_host(1)
        report = classifier.calibrate(*examples, objective=objective)
        merit, error = found.pop()
        if objective == "likelihood":
            assert merit == pytest.approx(-report.loss) and error == 0
        else:
            assert 0 < merit < 1 and error > 0.03


def test_what_is_reached_is_the_objective():
    p = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.9, 0.1]])
    labels, of_host = torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, True, False])
    found = {one: quality(p, labels, of_host, one) for one in OBJECTIVES}
    loss = -torch.tensor([0.6, 0.3, 0.8, 0.1]).log().mean().item()
    assert all(one.loss == pytest.approx(loss) and one.error > 0 for one in found.values())
    assert found["accuracy"].reached == 0.5 and found["harmonic"].reached == 0
    assert found["likelihood"].reached == pytest.approx(-loss)
    assert quality(p[:3], labels[:3], of_host[:3], "harmonic").reached == pytest.approx(2 / 3)


def test_a_reader_with_which_less_is_reached_is_not_taken(monkeypatch):
    classifier, *examples = beside_a_host(1)
    classifier.calibrate(*examples, objective="accuracy")
    before, present = Standing.of(classifier, *examples), classifier.reader
    # It sees no directions, and refines nothing.
    other = present.having(shrinkage=1.0, penalty=1e6, distances=0.0)
    monkeypatch.setattr("rarememory.classifier.answering.best_reader", lambda *_: other)
    report = classifier.calibrate(*examples, objective="accuracy")
    assert classifier.reader is present
    after = Standing.of(classifier, *examples)
    assert after.accuracy >= before.accuracy
    assert report.loss == pytest.approx(-after.likelihood, abs=1e-4)
    # In place of an objective.
    classifier.calibrate(*examples, keep=1.0)
    assert classifier.reader is other


@pytest.mark.parametrize("keep", [-0.1, 5.0, torch.nan])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        bare().calibrate(torch.ones(1, 2), ["kea"], keep=keep)


def test_the_objective_decides_how_old_and_new_are_traded() -> None:
    keys, labels = world([10] * 6, spread=0.9)
    held_out, right = world([12] * 6, spread=0.9)
    birds = classifier(host=True)
    birds.learn(keys, labels.tolist())
    report = birds.calibrate(held_out, right.tolist())
    assert report.curve and report.base is not None and report.new is not None
    best = max(point.harmonic for point in report.curve)
    chosen = 2 * report.base * report.new / (report.base + report.new)
    assert chosen >= best - 0.02
    assert len(report.table(5).splitlines()) <= 6
    all_old = birds.calibrate(held_out, right.tolist(), keep=0.0)
    assert all_old.base is not None and all_old.base >= report.base - 1e-9
    with pytest.raises(ValueError, match="no objective 'f1'"):
        birds.calibrate(held_out, right.tolist(), objective="f1")


def test_the_curve_is_drawn(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    keys, labels = world([6] * 6, spread=0.9)
    birds = classifier(host=True)
    birds.learn(keys, labels.tolist())
    report = birds.calibrate(keys + 0.05, labels.tolist())
    report.plot(tmp_path / "curve.png")
    report.plot(tmp_path / "small.png", dpi=20)
    assert (tmp_path / "curve.png").stat().st_size > (tmp_path / "small.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="and of new ones"):
        report._replace(curve=()).plot(tmp_path / "none.png")
