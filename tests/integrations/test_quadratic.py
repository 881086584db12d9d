import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)

from rarememory.integrations import quadratic
from rarememory.integrations.pool import fit_pool
from rarememory.integrations.quadratic import fit_quadratic
from rarememory.integrations.sklearn import MemoryNeighbors


def samples(counts, columns, seed=0):
    """Rows of classes that differ in mean and covariance."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    classes = classes[torch.randperm(len(classes), generator=random)]
    mixes = torch.randn(len(counts), columns, columns, generator=random, dtype=torch.double)
    means = torch.randn(len(counts), columns, generator=random, dtype=torch.double)
    noise = torch.randn(len(classes), columns, generator=random, dtype=torch.double)
    return means[classes] + (mixes[classes] @ noise.unsqueeze(2)).squeeze(2), classes


def student_t(row, mean, scatter, count, strength):
    """Log-density, but for a constant, of a class with that scatter and an inverse Wishart prior.

    Written anew from the definition: `strength + columns + 1` degrees of freedom of the prior, so
    that its mean is the prior's scatter divided by `strength`, and a flat prior of the mean.
    """
    columns = len(row)
    degrees = count + strength + 1
    shape = scatter * (count + 1) / (count * degrees)
    apart = row - mean
    square = apart @ torch.linalg.solve(shape, apart)
    return (
        torch.lgamma(torch.tensor((degrees + columns) / 2.0))
        - torch.lgamma(torch.tensor(degrees / 2.0))
        - columns / 2 * np.log(degrees)
        - torch.logdet(shape) / 2
        - (degrees + columns) / 2 * torch.log1p(square / degrees)
    ).item()


def chosen(monkeypatch, strength, shrinkage):
    monkeypatch.setattr(quadratic, "_STRENGTHS", (strength,))
    monkeypatch.setattr(quadratic, "_SHRINKAGES", (shrinkage,))


def prior_of(rows, classes, shrinkage, degrees):
    residuals = rows - torch.stack([rows[classes == label].mean(0) for label in classes])
    pooled = residuals.T @ residuals / degrees
    level = pooled.diagonal().mean()
    return residuals, (1 - shrinkage) * pooled, shrinkage * level * torch.eye(rows.shape[1])


@pytest.mark.parametrize("strength", [1.0, 30.0])
@pytest.mark.parametrize("shrinkage", [0.1, 0.9])
def test_a_density_is_that_of_a_class_whose_covariance_is_not_known(
    monkeypatch, strength, shrinkage
):
    chosen(monkeypatch, strength, shrinkage)
    rows, classes = samples([5, 9, 2], 4)
    found = fit_quadratic(rows, classes, torch.arange(16))
    residuals, pooled, level = prior_of(rows, classes, shrinkage, 16 - 3)
    queries = samples([3, 3, 3], 4, seed=1)[0]
    expected = torch.tensor(
        [
            [
                student_t(
                    query,
                    rows[classes == label].mean(0),
                    residuals[classes == label].T @ residuals[classes == label]
                    + strength * (pooled + level),
                    int((classes == label).sum()),
                    strength,
                )
                for label in range(3)
            ]
            for query in queries
        ],
        dtype=torch.double,
    )
    differences = found.logits(queries) / found.scale - expected
    torch.testing.assert_close(
        differences, differences.mean().expand_as(differences), rtol=0, atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4).filter(lambda counts: max(counts) > 2),
    st.integers(1, 8),
    st.sampled_from([1.0, 30.0]),
    st.integers(0, 100),
)
def test_a_left_out_sample_is_in_neither_mean_nor_scatter(counts, columns, strength, seed):
    rows, classes = samples(counts, columns, seed)
    with pytest.MonkeyPatch.context() as patch:
        chosen(patch, strength, 0.3)
        found = fit_quadratic(rows, classes, torch.arange(len(rows)))
    degrees = max(1, len(rows) - len(counts))
    _, _, level = prior_of(rows, classes, 0.3, degrees)
    of_classes = rows.new_tensor(counts)
    for place, own in enumerate(classes.tolist()):
        if counts[own] == 1:
            continue
        others = torch.arange(len(rows)) != place
        residuals, pooled, _ = prior_of(rows[others], classes[others], 0.3, degrees)
        squares = []
        for label in range(len(counts)):
            of_label = classes[others] == label
            scatter = residuals[of_label].T @ residuals[of_label] + strength * (pooled + level)
            apart = rows[place] - rows[others][of_label].mean(0)
            squares.append(apart @ torch.linalg.solve(scatter, apart))
        expected = quadratic._log_densities(
            torch.stack(squares), found.constants, of_classes, strength, columns
        )
        torch.testing.assert_close(
            found.left_out[place] / found.scale, expected, rtol=1e-4, atol=1e-4
        )


def test_a_strong_prior_is_linear_discriminant_analysis_and_a_weak_one_quadratic(monkeypatch):
    rows, classes = samples([300, 300, 300], 3)
    queries = samples([100, 100, 100], 3, seed=1)[0]
    for strength, rival in (
        (1e7, LinearDiscriminantAnalysis(priors=[1 / 3] * 3)),
        (1e-3, QuadraticDiscriminantAnalysis(priors=[1 / 3] * 3)),
    ):
        chosen(monkeypatch, strength, 1e-6)
        found = fit_quadratic(rows, classes, torch.arange(900)).logits(queries).argmax(1)
        expected = rival.fit(rows.numpy(), classes.numpy()).predict(queries.numpy())
        assert (found.numpy() == expected).mean() > 0.99


def test_classes_of_one_mean_that_lie_along_other_directions_are_told_apart():
    random = np.random.default_rng(0)
    y = np.arange(1000) % 2
    X = random.normal(size=(1000, 4)) @ np.diag([1, 1, 1e3, 1])
    X[:, 1] = np.where(y == 1, 1, -1) * X[:, 0] + 0.5 * X[:, 1]
    assert MemoryNeighbors().fit(X[:40], y[:40]).score(X[40:], y[40:]) > 0.8


def test_samples_that_are_left_out_are_answered_about_as_well_as_new_ones():
    # Fifteen samples with forty columns, where determinants would say which class one is taken of.
    merits = []
    for seed in range(10):
        rows, classes = samples([45, 45, 45], 40, seed)
        few = torch.cat([(classes == label).nonzero()[:5, 0] for label in range(3)])
        found = fit_quadratic(rows[few], classes[few], torch.arange(15))
        left_out = (found.left_out.argmax(1) == classes[few]).double().mean()
        merits.append(left_out - (found.logits(rows).argmax(1) == classes).double().mean())
    assert abs(torch.stack(merits).mean()) < 0.15


def test_the_samples_of_a_part_are_left_out_as_those_of_all_are(monkeypatch):
    chosen(monkeypatch, 4.0, 0.3)
    rows, classes = samples([8, 8], 3)
    some = torch.tensor([1, 5, 6, 11])
    whole, part = (fit_quadratic(rows, classes, which) for which in (torch.arange(16), some))
    torch.testing.assert_close(whole.left_out[some] / whole.scale, part.left_out / part.scale)


def test_many_columns_have_no_densities_and_the_pool_answers_all_the_same(monkeypatch):
    monkeypatch.setattr(quadratic, "_COST", 100)
    rows, classes = samples([8, 8], 3)
    keys = torch.nn.functional.normalize(rows, dim=1)
    pool = fit_pool([keys], classes, 5, 0.1, rows)
    assert pool.quadratic is None
    assert len(pool.weights) == 5
    assert pool.probabilities([keys], rows).isfinite().all()


@pytest.mark.parametrize("far", [1e30, 1e160, 1e200, 1e300])
def test_a_row_that_is_very_far_has_probabilities(far):
    rows, labels = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    found = MemoryNeighbors().fit(rows, labels).predict_proba(np.full((1, 5), far))
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)


def test_many_classes_have_no_densities(monkeypatch):
    rows = torch.randn(120, 4, dtype=torch.double)
    classes, some = torch.arange(120) % 30, torch.arange(120)
    assert fit_quadratic(rows, classes, some) is not None
    monkeypatch.setattr(quadratic, "_NUMBERS", 30 * 4 * 119)
    assert fit_quadratic(rows, classes, some) is None
