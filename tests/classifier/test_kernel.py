"""The reader by distances: a kernel regression of remembered examples."""

import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier import kernel, kernel_regression
from rarememory.classifier.kernel import KernelDiscriminant, KernelTrial, fit_kernel
from rarememory.memory import Memory
from tests.classifier.lengths import accuracy, discriminant, drawn, rings, taught


def test_few_examples_of_many_columns_are_left_out_exactly() -> None:
    """With columns that count by what all examples say, once all of them were answered rightly."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(15).repeat_interleave(5)
    found = fit_kernel(torch.randn(75, 600, generator=random), labels)
    assert found is not None
    # Noise tells nothing of classes.
    right = found.left_out.logits.argmax(1) == found.left_out.classes
    assert right.double().mean() < 0.3


def test_a_column_that_is_the_same_everywhere_changes_nothing() -> None:
    features, labels = drawn(0)
    queries, _ = drawn(1)
    with_constant = torch.cat([features, torch.full((len(features), 1), 7.0)], dim=1)
    wider = torch.cat([queries, torch.full((len(queries), 1), 9.0)], dim=1)
    one, other = fit_kernel(features, labels), fit_kernel(with_constant, labels)
    assert one is not None and other is not None
    torch.testing.assert_close(one.logits(queries), other.logits(wider))
    assert fit_kernel(torch.ones(6, 2), torch.arange(6) % 2) is None
    # But for rounding, beside the others.
    random = torch.Generator().manual_seed(2)
    noise = 1e-7 * torch.randn(len(features), 1, generator=random, dtype=torch.double)
    rounded = fit_kernel(torch.cat([features.double(), noise], 1), labels)
    assert rounded is not None
    wider = torch.cat([queries, torch.zeros(len(queries), 1)], dim=1)
    torch.testing.assert_close(one.logits(queries), rounded.logits(wider))


def test_an_example_is_as_like_another_as_the_kernel_says() -> None:
    features, labels = drawn(0)
    found = fit_kernel(features.double(), labels)
    assert found is not None
    rows = (features.double() - found.mean) * found.columns
    wanted = (-found.regression.width * (rows[:, None] - rows).square().sum(2)).exp()
    torch.testing.assert_close(found.similarities(features, features), wanted.float())
    # Of a class of one example: that kernel, and the level of four classes.
    one, other = torch.tensor([3, 30]), torch.tensor([5, 40])
    alone = found.left_out.one_shot(one, other)
    places = found.left_out.samples
    kernels = wanted[places[one], places[other]]
    torch.testing.assert_close(alone, found.scale * (kernels + 1 / 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_every_dtype_are_answered(dtype: torch.dtype) -> None:
    features, labels = drawn(0)
    found = fit_kernel(features.to(dtype), labels)
    assert found is not None
    logits = found.logits(drawn(1)[0].to(dtype))
    assert found.left_out.logits.dtype == torch.promote_types(dtype, torch.float32)
    assert logits.dtype == dtype and (logits.argmax(1) == labels).double().mean() > 0.8


def test_equal_examples_of_one_class_and_of_two_are_learnt() -> None:
    rows = torch.tensor([[0.0, 1.0], [5.0, 1.0]]).repeat(20, 1)
    labels = torch.arange(40) // 20
    found = fit_kernel(torch.cat([rows, rows + 9]), torch.cat([labels, labels.new_full((40,), 7)]))
    assert found is not None
    logits = found.logits(torch.tensor([[0.0, 1.0], [5.0, 1.0], [9.0, 10.0]]))
    assert logits.isfinite().all() and logits[2].argmax() == 2
    torch.testing.assert_close(logits[:2, 0], logits[:2, 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spread", [1e-2, 3e-4, 1e-4])
def test_examples_far_from_their_mean_beside_their_distances_are_learnt(spread: float) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    rows = torch.randn(400, 2, generator=random, dtype=torch.double) + 4 * labels.unsqueeze(1)
    far = torch.rand(400, generator=random) < 0.2
    rows = spread * rows + 2.5 * far.unsqueeze(1)
    found = fit_kernel(rows, labels)
    assert found is not None
    assert (found.logits(rows).argmax(1) == labels).double().mean() > 0.95


def test_more_examples_than_can_be_centres_are_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_regression, "CENTRES", 40)
    monkeypatch.setattr(kernel, "JUDGED", 50)
    monkeypatch.setattr(kernel, "TRIED", 30)
    features, labels = drawn(0, per_class=60)
    found = fit_kernel(features, labels)
    assert found is not None and len(found.left_out.logits) == 48
    trial = KernelTrial.of(features, labels)
    assert trial is not None and not trial.is_whole and len(trial.samples.rows) == 28
    assert len(found.regression.centres) == 40 and len(found.regression.samples.rows) == 240
    queries, right = drawn(1, per_class=60)
    assert (found.logits(queries).argmax(1) == right).double().mean() > 0.9


def test_a_classifier_tells_classes_by_their_lengths() -> None:
    classifier = taught()
    assert accuracy(classifier) > 0.9
    assert isinstance(discriminant(classifier), KernelDiscriminant)
    assert accuracy(taught(memory=Memory(3, 99))) < 0.6
    proba = classifier.predict_proba(drawn(1)[0]).values
    torch.testing.assert_close(proba.sum(1), torch.ones(len(proba)))
    best = classifier.explain(drawn(1)[0][:1])[0]
    assert best[0].label == 0 and best[0].weight > 0
    classifier.fit_threshold(false_accept_rate=0.05)
    assert classifier.predict(1000 * drawn(1)[0][:1]) == ["unknown"]


def test_a_class_of_one_example_is_told_beside_classes_of_many() -> None:
    classifier = taught()
    single = torch.tensor([[9.0, -9.0, 0.0]])
    classifier.learn(single, ["new"])
    assert isinstance(discriminant(classifier), KernelDiscriminant)
    assert classifier.predict(single * 1.05) == ["new"]
    assert accuracy(classifier) > 0.9


def test_classes_around_one_another_are_told_and_forgotten_without_a_trace() -> None:
    features, labels = rings(0)
    queries, right = rings(1)
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(features, labels.tolist())
    assert (torch.tensor(classifier.predict(queries)) == right).double().mean() > 0.9
    probabilities = classifier.predict_proba(queries).values
    classifier.learn(features[:9] + 1, ["gone"] * 9)
    classifier.predict(queries)
    classifier.forget("gone")
    torch.testing.assert_close(
        classifier.predict_proba(queries).values, probabilities, rtol=0, atol=1e-5
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    other = rarememory.wrap(nn.Identity(), host=False)
    other.learn(features[order], labels[order].tolist())
    columns = [other.classes.index(label) for label in classifier.classes]
    torch.testing.assert_close(
        other.predict_proba(queries).values[:, columns], probabilities, rtol=0, atol=1e-5
    )
