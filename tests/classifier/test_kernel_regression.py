"""Classes regressed on examples by a kernel, beside the same in loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rarememory.classifier import kernel_regression
from rarememory.classifier.kernel_regression import (
    Samples,
    Telling,
    balanced,
    fitted_settings,
    regressed,
    telling,
)
from rarememory.classifier.metric import Examples
from tests import oracle


def shuffled(counts: list[int], dim: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Examples class by class in the order of their first column, as a fit sorts them."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    rows = torch.randn(len(labels), dim, generator=random, dtype=torch.double)
    rows = rows + labels.unsqueeze(1) * torch.linspace(0, 1, dim, dtype=torch.double)
    order = torch.from_numpy(np.lexsort((rows[:, 0], labels)))
    return rows[order], labels


def samples_of(rows: Tensor, labels: Tensor, equal: bool = True) -> tuple[Samples, Telling]:
    examples = Examples.of(rows, labels)
    columns = telling(examples.rows, examples.places, examples.counts)
    known = examples.rows * columns.roots, examples.places, len(examples.counts)
    return Samples.of(*known, len(rows), equal=equal), columns


def said(
    rows: Tensor, labels: Tensor, asked: Tensor, columns: list[list[float]], centres: Tensor
) -> list[float]:
    """By the definition, with the weights that all of these rows have."""
    counts, classes = labels.bincount(), int(labels.max()) + 1
    weights = [int(counts[label]) * classes / len(labels) for label in labels]
    known = [*rows.numpy()], labels.tolist(), asked.numpy()
    return oracle.kernel_regression(*known, *columns, 0.3, 0.1, weights, [*centres.numpy()])


@pytest.mark.parametrize("counts", [[3, 4, 2], [1, 5, 2, 1], [2, 2]])
def test_columns_count_by_all_examples_and_by_all_but_one(counts: list[int]) -> None:
    rows, labels = shuffled(counts)
    samples, columns = samples_of(rows, labels)
    known = [*rows.numpy()], labels.tolist()
    assert columns.weights.tolist() == pytest.approx(oracle.telling_columns(*known))
    without = columns.without(samples.rows, labels) * columns.weights
    for place, label in enumerate(labels):
        left_out = place if counts[label] > 1 else None
        wanted = oracle.telling_columns(*known, left_out)
        assert without[place].tolist() == pytest.approx(wanted)


def test_distances_of_telling_columns_are_log_odds_that_two_samples_are_of_one_class() -> None:
    random = torch.Generator().manual_seed(0)
    classes = torch.tensor([0, 1, 2, 0, 1, 0, 1])
    shifts = classes.double()[:, None] * torch.tensor([5.0, 3.0, 4.0])
    rows = torch.randn(7, 3, generator=random, dtype=torch.double) + shifts
    found = telling(rows, classes, torch.tensor([3.0, 3.0, 1.0]).double()).weights
    for column, factor in zip(rows.T, found, strict=True):
        whole = ((column - column.mean()) ** 2).mean()
        means = torch.stack([column[classes == own].mean() for own in classes])
        # Seven samples, less three classes; one more, as far from the mean as samples are.
        within = (((column - means) ** 2).sum() + whole) / (7 - 3 + 1)
        assert within < 0.95 * whole
        of_one, of_two = (
            torch.distributions.Normal(0.0, (2 * variance).sqrt()) for variance in (within, whole)
        )
        apart = column - column[0]
        odds = of_one.log_prob(apart) - of_two.log_prob(apart)
        torch.testing.assert_close(odds - odds[0], -factor * apart**2 / 4)


def test_a_column_that_says_little_by_itself_counts_a_little_and_a_constant_one_nothing() -> None:
    classes = torch.arange(40) % 2
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    rows = rows - torch.stack([rows[classes == own].mean(0) for own in (0, 1)])[classes]
    rows[:, 1], rows[:, 2] = 7.0, 0.3
    rows[0, 2] = 0.1 + 0.2
    found = telling(rows, classes, torch.full((2,), 20.0).double()).weights
    within = (rows[:, 0].square().sum() + rows[:, 0].square().mean()) / 39
    torch.testing.assert_close(found[0], 0.05 / within)
    assert found[1:].tolist() == [0, 0]


@pytest.mark.parametrize("centres", [1000, 6])
def test_classes_are_regressed_on_kernels_of_the_centres(
    centres: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_regression, "CENTRES", centres)
    rows, labels = shuffled([5, 2, 4])
    samples, columns = samples_of(rows, labels)
    found = regressed(samples, 0.3, 0.1)
    asked = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    values = found.values(asked * columns.weights.sqrt())
    chosen = rows[balanced(labels, centres)]
    assert len(chosen) == {1000: 11, 6: 6}[centres]
    by = columns.weights.tolist()
    for place in range(len(asked)):
        wanted = said(rows, labels, asked[place], [by, by], chosen)
        assert values[place].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("centres", [1000, 6])
def test_an_example_that_is_left_out_is_asked_about_as_if_it_had_not_been_seen(
    centres: int, equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_regression, "CENTRES", centres)
    rows, labels = shuffled([5, 2, 4])
    samples, columns = samples_of(rows, labels, equal)
    found, chosen = regressed(samples, 0.3, 0.1), rows[balanced(labels, centres)]
    left_out = found.left_out(samples, columns.without(samples.rows, labels))
    weights, levels = weighing([5, 2, 4], equal)
    for place in range(len(rows)):
        kept = [other for other in range(len(rows)) if other != place]
        wanted = oracle.kernel_regression(
            [*rows[kept].numpy()],
            labels[kept].tolist(),
            rows[place].numpy(),
            columns.weights.tolist(),
            oracle.telling_columns([*rows.numpy()], labels.tolist(), place),
            *(0.3, 0.1),
            [weights[other] for other in kept],
            [*chosen.numpy()],
            levels,
        )
        assert left_out[place].tolist() == pytest.approx(wanted, abs=1e-6)


def weighing(counts: list[int], equal: bool) -> tuple[list[float], list[float]]:
    """The weight of each example, and the level of each class."""
    total = sum(counts)
    levels = [1 / len(counts) if equal else count / total for count in counts]
    of_class = [count * len(counts) / total if equal else 1.0 for count in counts]
    return [own for own, count in zip(of_class, counts, strict=True) for _ in range(count)], levels


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("centres", [1000, 6, 4])
def test_a_class_that_is_left_out_is_as_if_it_had_never_been_learnt(
    centres: int, equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_regression, "CENTRES", centres)
    rows, labels = shuffled([5, 2, 4])
    samples, columns = samples_of(rows, labels, equal)
    found, chosen = regressed(samples, 0.3, 0.1), rows[balanced(labels, centres)]
    by, (weights, levels) = columns.weights.tolist(), weighing([5, 2, 4], equal)
    foreign = found.foreign(samples.rows, labels)
    for place, label in enumerate(labels.tolist()):
        kept = (labels != label).nonzero().squeeze(1).tolist()
        others = [c for c in range(3) if c != label]
        wanted = oracle.kernel_regression(
            [*rows[kept].numpy()],
            labels[kept].tolist(),
            rows[place].numpy(),
            *(by, by, 0.3, 0.1),
            [weights[other] for other in kept],
            [*chosen.numpy()],
            [levels[c] / (1 - levels[label]) for c in others],
        )
        assert foreign[place, others].tolist() == pytest.approx(wanted, abs=1e-6)
        assert foreign[place, label] == -torch.inf


@pytest.mark.parametrize("counts", [[8, 6, 7], [6, 6, 1, 1, 1, 1, 1, 1]])
def test_width_ridge_and_scale_are_those_of_the_greatest_likelihood(counts: list[int]) -> None:
    rows, labels = shuffled(counts, dim=4, seed=3)
    samples, columns = samples_of(rows, labels)
    own = columns.without(samples.rows, labels)
    width, ridge, scale, left_out = fitted_settings(samples, own)
    by_centres = regressed(samples, width, ridge).left_out(samples, own)
    torch.testing.assert_close(left_out, by_centres, rtol=0, atol=1e-6)
    # Without an example that is alone, nothing is known of its class.
    several = [count for count in counts if count > 1]
    weights = (1 / labels.bincount()[labels] / len(several)).where(
        labels.bincount()[labels] > 1, 0.0
    )

    def loss(width: float, ridge: float, scale: float) -> float:
        logits = scale * regressed(samples, width, ridge).left_out(samples, own)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return float((weights * losses).sum())

    best = loss(width, ridge, scale)
    for other in (0.001, 0.01, 0.03, 0.1, 0.3, 1.0):
        for times in (2.0, 4.0, 8.0, 16.0):
            assert loss(width, other, times) >= best - 1e-9
    # Of the widths beside it, by their own best ridge and scale.
    for factor in (0.5, 2.0):
        others = [loss(factor * width, r, s) for r in (0.001, 0.01, 0.1, 1.0) for s in (2.0, 8.0)]
        assert min(others) >= best - 1e-9


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), most=st.integers(1, 99))
def test_of_every_class_as_many_examples_as_of_another_that_has_more(
    counts: list[int], most: int
) -> None:
    places = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    some = balanced(places, most)
    chosen = places[some].bincount(minlength=len(counts)).tolist()
    assert sum(chosen) <= max(most, len(counts)) and min(chosen) >= 1
    quota = max(chosen)
    assert chosen == [min(count, quota) for count in counts]
    more = [min(count, quota + 1) for count in counts]
    assert chosen == counts or sum(more) > most
    assert some.tolist() == sorted({*some.tolist()})
