"""The map of features: the formula, what it is good for, and that it travels along."""

import pytest
import torch
from classifiers import bare
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap
from rarememory.backbones.whitening import append_projection, whitening


def streaks(classes, each, seed=0):
    """Classes a unit apart along one axis, whose examples are strewn along the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    angles = (labels + 1) * torch.pi / 2 / (classes + 1)
    points = torch.stack([angles.cos(), angles.sin(), torch.zeros(len(labels))], 1)
    points[:, 2] = 3 * torch.randn(len(labels), generator=generator)
    return points + 0.02 * torch.randn(points.shape, generator=generator), labels.tolist()


@given(st.integers(1, 5), st.floats(0.01, 10), st.integers(0, 1000))
def test_the_map_is_the_inverse_root_of_the_covariance_within_classes(dim, shrinkage, seed):
    features = torch.randn(12, dim, generator=torch.Generator().manual_seed(seed)).double()
    labels = [row % 4 for row in range(12)]
    covariance = torch.zeros(dim, dim).double()
    for label in range(4):
        rows = [features[row] for row in range(12) if labels[row] == label]
        mean = sum(rows) / len(rows)
        for row in rows:
            covariance += torch.outer(row - mean, row - mean) / 12
    round_one = torch.eye(dim).double() * shrinkage * covariance.trace() / dim
    matrix = whitening(features, labels, shrinkage)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(
        matrix @ (covariance + round_one) @ matrix, torch.eye(dim).double(), atol=1e-7, rtol=1e-7
    )


def answered(classifier, seed):
    inputs, labels = streaks(8, 20, seed)
    answers = classifier.predict(inputs)
    return sum(a == b for a, b in zip(answers, labels, strict=True)) / len(labels)


def of_space(reader="nearest", **options):
    return wrap(nn.Identity(), host=False, memory=Memory(3, 64), reader=reader, **options)


def test_classes_that_only_a_direction_hides_are_told_apart():
    plain, white = of_space(), of_space()
    white.whiten(*streaks(4, 50, seed=1), shrinkage=1e-4)
    for classifier in (plain, white):
        classifier.learn(*streaks(8, 1, seed=2))
    assert answered(plain, 3) < 0.6 and answered(white, 3) > 0.9


def test_whitening_remembers_nothing_and_names_nothing():
    classifier = of_space()
    classifier.whiten(*streaks(4, 5))
    assert len(classifier.memory) == 0 and classifier.classes == []


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_map_is_saved_and_loaded(tmp_path, reader):
    classifier = of_space(reader)
    classifier.whiten(*streaks(4, 50))
    classifier.learn(*streaks(8, 1), refs=[f"{n}.png" for n in range(8)])
    classifier.save(tmp_path / "it.safetensors")
    loaded = MemoryClassifier.load(tmp_path / "it.safetensors", nn.Identity())
    inputs, _ = streaks(8, 3, seed=5)
    assert loaded.predict(inputs) == classifier.predict(inputs)
    assert torch.equal(loaded.memory.projection.weight, classifier.memory.projection.weight)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_refreshing_goes_through_the_map(reader):
    classifier = of_space(reader)
    classifier.whiten(*streaks(4, 50))
    inputs, labels = streaks(8, 1)
    refs = [f"{n}.png" for n in range(8)]
    classifier.learn(inputs, labels, refs)
    drift = classifier.refresh([(inputs, refs)])
    assert drift.cosine == pytest.approx(1) and drift.lowest == pytest.approx(1)


def test_what_is_remembered_already_would_not_fit_any_more():
    classifier = bare()
    classifier.learn(torch.eye(2), ["kea", "weka"])
    with pytest.raises(ValueError, match="holds 2 examples, whose keys would not fit any more"):
        classifier.whiten(torch.eye(2), ["kea", "kea"])
    assert classifier.memory.projection is None


def test_examples_that_do_not_differ_within_a_class_are_refused():
    with pytest.raises(ValueError, match="2 examples of 2 classes do not differ within any class"):
        bare().whiten(torch.eye(2), ["kea", "weka"])
    with pytest.raises(ValueError, match="shrinkage"):
        bare().whiten(torch.eye(2), ["kea", "kea"], shrinkage=0.0)


def test_mapped_keys_cannot_play_the_stranger():
    classifier = of_space()
    classifier.whiten(*streaks(4, 50))
    classifier.learn(*streaks(8, 1))
    with pytest.raises(ValueError, match="its keys are projected already: give inputs"):
        classifier.fit_threshold(false_accept_rate=0.1)
    assert classifier.fit_threshold(*streaks(8, 5, seed=4), false_accept_rate=0.1) > 0


def test_the_fitted_reader_leaves_mapped_keys_out_of_itself():
    classifier = of_space(reader="fitted")
    classifier.whiten(*streaks(4, 50))
    classifier.learn(*streaks(8, 5))
    found = classifier.fit_threshold(false_accept_rate=0.1)
    assert classifier.threshold.item() == pytest.approx(found) and found.examples == 40


@pytest.mark.parametrize("bias", [False, True])
def test_an_encoder_that_ends_in_the_map_gives_what_the_map_gives(bias):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=bias))
    features, matrix = torch.randn(9, 6), torch.randn(3, 3)
    expected = encoder(features) @ matrix.T
    append_projection(encoder, matrix)
    torch.testing.assert_close(encoder(features), expected)


def test_what_cannot_end_in_the_map_is_refused_and_stays():
    with pytest.raises(ValueError, match="Flatten has no linear layer"):
        append_projection(nn.Flatten(), torch.eye(2))
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="linear layer is 3 wide, and the map is for 2"):
        append_projection(layer, torch.eye(2))
    assert torch.equal(layer.weight, before)
