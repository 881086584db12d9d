"""A whole class left out: the closed form is what is computed without the class."""

import pytest
import torch
from torch import Tensor

import rarememory
from rarememory.classifier import metric as metric_module
from rarememory.classifier.class_scores import ClassScores
from rarememory.classifier.discriminant import Settings, fit_discriminant
from rarememory.classifier.fitted_reader import FittedReader
from rarememory.classifier.leave_class_out import foreign_scores
from tests import oracle
from tests.classifier.made_classes import world


@pytest.mark.parametrize("with_shares", [False, True])
@pytest.mark.parametrize("n_classes", [3, 6])
def test_scores_are_those_of_the_other_class_means(n_classes: int, with_shares: bool) -> None:
    random = torch.Generator().manual_seed(n_classes)
    rows = torch.randn(9, 5, generator=random, dtype=torch.double)
    means = torch.randn(n_classes, 5, generator=random, dtype=torch.double)
    means -= means.mean(0)
    places = torch.arange(9) % n_classes
    counts = torch.arange(n_classes).double() + 1
    scoring = ClassScores(*torch.tensor([2.0, 3.0, 1.5, 2.5]).double())
    shares = torch.rand(5, generator=random, dtype=torch.double)
    found = foreign_scores(rows, places, means, shares if with_shares else scoring, counts)
    for row, own, scores in zip(rows, places.tolist(), found, strict=True):
        wanted = oracle.foreign_scores(
            *(row.numpy(), own, list(means.numpy()), counts.int().tolist(), 3.0, 1.5),
            shares.tolist() if with_shares else None,
        )
        assert scores.tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("dim", [6, 40])
@pytest.mark.parametrize("counts", [[4] * 5, [1] * 5, [2, 9, 4, 3, 6]])
def test_features_are_answered_as_if_their_class_had_never_been_learnt(
    dim: int, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_module, "SCALES", (8.0,))
    keys, labels = world(counts, dim=dim)
    queries, own = world([2] * 5, dim=dim, seed=7)
    fitted = fit_discriminant(keys, labels, Settings(0.3))
    found = fitted.foreign(3 * queries, own) / fitted.found.scale
    # The metric is that of all classes; a direction that no axis covers has a precision too.
    axes = fitted.metric / fitted.found.precision.sqrt()
    whole = (
        fitted.found.outside * (torch.eye(dim) - axes @ axes.T) + fitted.metric @ fitted.metric.T
    )
    root = torch.linalg.cholesky(whole.double())
    lengths_of = (keys - fitted.mean).norm(dim=1)
    length = torch.stack([lengths_of[labels == c].mean() for c in range(5)]).mean()
    root = root / length
    means = torch.stack([keys[labels == c].mean(0) for c in range(5)]).double() @ root
    scoring = fitted.found.scoring
    for query, place, scores in zip(queries.double() @ root, own.tolist(), found, strict=True):
        others = means[torch.arange(5) != place]
        x, m = query - others.mean(0), others - others.mean(0)
        if isinstance(scoring, ClassScores):
            numbers = float(scoring.row_length), float(scoring.variance)
            left = [count for c, count in enumerate(counts) if c != place]
            lengths = oracle.class_lengths(m.square().sum(1).tolist(), left, *numbers)
            wanted = torch.tensor(
                [
                    oracle.class_score(float(one @ x / x.norm()), float(one.norm()), n, lengths)
                    for one, n in zip(m, left, strict=True)
                ]
            ).double()
        else:
            prototypes = m / m.norm(dim=1).mean()
            coordinates = prototypes @ torch.linalg.inv(length * root) @ fitted.metric.double()
            wanted = prototypes @ x / x.norm() - coordinates.square() @ scoring.double() / 2
        assert torch.allclose(scores[scores.isfinite()].double(), wanted, atol=1e-3)


def learnt(keys: Tensor, labels: Tensor) -> rarememory.MemoryClassifier:
    classifier = rarememory.wrap(torch.nn.Identity(), host=False)
    classifier.learn(keys, labels.tolist())
    return classifier


def test_a_threshold_is_fitted_to_classes_that_are_left_out_of_the_mean_too() -> None:
    # Of three classes, one moves the mean far.
    keys, labels = world([12] * 3, spread=0.3)
    inputs, own = world([40] * 3, spread=0.3)
    classifier = learnt(keys, labels)
    found = classifier.fit_threshold(inputs, own.tolist(), false_accept_rate=0.2, alike=True)
    accepted = []
    for label in range(3):
        others = learnt(keys[labels != label], labels[labels != label])
        accepted.append(others.familiarity(inputs[own == label]) > found)
    assert torch.cat(accepted).double().mean().item() <= 0.25


def test_an_example_of_a_class_that_is_not_remembered_is_asked_for_as_it_is() -> None:
    keys, labels = world([4] * 4)
    classifier = learnt(keys, labels)
    host_ids, nobody = classifier.ensembler.host_ids, torch.full((len(keys),), 99)
    reader = FittedReader()
    without = reader.without_own_class(classifier.memory, host_ids, keys, None, nobody)
    evidence = reader.evidence(classifier.memory, host_ids, keys, None)
    assert torch.equal(without.scores, evidence.scores)
