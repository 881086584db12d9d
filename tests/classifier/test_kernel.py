"""The reader by distances: a kernel regression, when it is chosen, and the lengths of features."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rarememory
from rarememory.classifier import forms, kernel_regression
from rarememory.classifier.discriminant import LeftOut, fit_discriminant
from rarememory.classifier.forms import answers_more, better_form
from rarememory.classifier.kernel import KernelDiscriminant, fit_kernel
from rarememory.classifier.kernel_regression import (
    Samples,
    Telling,
    balanced,
    fitted_settings,
    regressed,
    telling,
)
from rarememory.classifier.metric import Examples
from rarememory.classifier.one_shot import OneShotDistances
from rarememory.memory import Memory
from tests import oracle


def drawn(seed: int, per_class: int = 12, dim: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Classes that differ in how long their features are, and not in their direction."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    lengths = 4.0 + 3.0 * labels + 0.3 * torch.randn(len(labels), generator=random)
    directions = torch.ones(dim) + 0.2 * torch.randn(len(labels), dim, generator=random)
    return lengths.unsqueeze(1) * nn.functional.normalize(directions, dim=1), labels


def taught(seed: int = 0, **options: object) -> rarememory.MemoryClassifier:
    classifier = rarememory.wrap(nn.Identity(), host=False, **options)
    features, labels = drawn(seed)
    classifier.learn(features, labels.tolist(), [f"{place}.csv" for place in range(len(labels))])
    return classifier


def accuracy(classifier: rarememory.MemoryClassifier) -> float:
    features, labels = drawn(1)
    return float(np.mean(np.array(classifier.predict(features)) == labels.numpy()))


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
    known = examples.rows, examples.places, len(examples.counts), columns
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
    _, columns = samples_of(rows, labels)
    known = [*rows.numpy()], labels.tolist()
    assert columns.weights.tolist() == pytest.approx(oracle.telling_columns(*known))
    for place, label in enumerate(labels):
        left_out = place if counts[label] > 1 else None
        wanted = oracle.telling_columns(*known, left_out)
        assert columns.without[place].tolist() == pytest.approx(wanted)


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
    assert found.judged.tolist() == list(range(11))
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
        assert found.left_out[place].tolist() == pytest.approx(wanted, abs=1e-6)


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


def test_width_ridge_and_scale_are_those_of_the_greatest_likelihood() -> None:
    rows, labels = shuffled([8, 6, 7], dim=4, seed=3)
    samples, _ = samples_of(rows, labels)
    width, ridge, scale = fitted_settings(samples)
    weights = 1 / labels.bincount()[labels] / 3

    def loss(width: float, ridge: float, scale: float) -> float:
        logits = scale * regressed(samples, width, ridge).left_out
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_every_dtype_are_answered(dtype: torch.dtype) -> None:
    features, labels = drawn(0)
    found = fit_kernel(features.to(dtype), labels)
    assert found is not None
    logits = found.logits(drawn(1)[0].to(dtype))
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
    for name, most in (("CENTRES", 40), ("JUDGED", 50), ("TRIED", 30)):
        monkeypatch.setattr(kernel_regression, name, most)
    features, labels = drawn(0, per_class=60)
    found = fit_kernel(features, labels)
    assert found is not None and len(found.left_out.logits) == 48
    assert len(found.regression.centres) == 40 and len(found.regression.samples.rows) == 240
    queries, right = drawn(1, per_class=60)
    assert (found.logits(queries).argmax(1) == right).double().mean() > 0.9


def test_the_form_that_answers_more_is_chosen() -> None:
    features, labels = drawn(0)
    unit = nn.functional.normalize(features, dim=1)
    cosines = fit_discriminant(unit, labels)
    by_length = fit_kernel(features, labels)
    assert by_length is not None
    assert answers_more(by_length.left_out, cosines.left_out)
    assert not answers_more(cosines.left_out, by_length.left_out)
    assert not answers_more(by_length.left_out, by_length.left_out)
    assert isinstance(better_form(cosines, features, labels), KernelDiscriminant)


def test_what_is_not_sure_is_settled_by_equal_lengths_and_by_how_many_columns_there_are() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(4)
    noise = torch.randn(12, 5, generator=random)
    unit = nn.functional.normalize(noise, dim=1)
    # Nine examples beyond the first of their class.
    wide = torch.cat([noise, torch.randn(12, 86, generator=random)], 1)
    for features, by_cosines in ((unit, True), (noise, False), (wide, True), (wide[:, :90], False)):
        kernel = fit_kernel(features, labels)
        assert kernel is not None
        # Both say the same of what is left out.
        tie = dataclasses.replace(fit_discriminant(unit, labels), left_out=kernel.left_out)
        assert (better_form(tie, features, labels) is tie) == by_cosines


def test_kernels_are_not_tried_for_unit_features_along_many_directions() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(20)
    unit = nn.functional.normalize(torch.randn(160, 64, generator=random), dim=1)
    # Left-out answers that are all wrong: whatever is tried is better.
    wrong = torch.eye(8)[(labels + 1) % 8]
    discriminant = fit_discriminant(unit, labels)
    left_out = discriminant.left_out
    worst = dataclasses.replace(left_out, unrefined=wrong[left_out.samples])
    discriminant = dataclasses.replace(discriminant, left_out=worst)
    assert better_form(discriminant, unit, labels) is discriminant
    of_lengths = unit * (1 + labels.unsqueeze(1))
    for features in (of_lengths, unit[:, :4]):
        assert isinstance(better_form(discriminant, features, labels), KernelDiscriminant)


def test_readers_are_compared_example_by_example() -> None:
    """Every example of which the better one is wrong is one of which the other is right."""
    right = torch.tensor([True, True, False, True, False, True, True, True])
    one = said_of(torch.arange(8), right)
    order = torch.tensor([5, 0, 3, 7, 1, 6, 2, 4])
    same = said_of(order, right[order])
    assert not answers_more(one, same) and not answers_more(same, one)
    worse = right.clone()
    worse[[0, 5]] = False
    # The difference of two examples of eight is beyond its standard error: no example is lost.
    assert answers_more(one, said_of(order, worse[order]))
    # Two more and one fewer are within it.
    lone, pair = torch.ones(8).bool(), torch.ones(8).bool()
    lone[0], pair[1:3] = False, False
    everything = torch.arange(8)
    assert not answers_more(said_of(everything, lone), said_of(everything, pair))
    # What is alone in its class does not count.
    single = said_of(everything, torch.ones(8).bool())
    alone = dataclasses.replace(single, several=worse)
    assert answers_more(single, said_of(everything, worse))
    assert not answers_more(alone, said_of(everything, worse))
    few = order[:5].sort().values
    assert answers_more(said_of(few, right[few]), said_of(order, worse[order]))


def said_of(samples: Tensor, right: Tensor) -> LeftOut:
    """Of examples of the classes 0, 0, 0, 0, 1, 1, 1, 1."""
    classes = (samples >= 4).long()
    logits = nn.functional.one_hot(torch.where(right, classes, 1 - classes), 2).float()
    several = torch.ones_like(right)
    return LeftOut(logits, logits, logits.clone, samples, classes, several, torch.eq)


def discriminant(classifier: rarememory.MemoryClassifier) -> object:
    return classifier.reader._of(classifier.memory, classifier.ensembler.host_ids).discriminant


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


@pytest.mark.parametrize(("per_class", "by_distance"), [(3, False), (12, True)])
def test_beside_a_host_distances_need_examples_in_all_directions(
    per_class: int, by_distance: bool
) -> None:
    features, labels = drawn(0, per_class=per_class, dim=40)
    names = [f"new {label}" for label in labels.tolist()]
    torch.manual_seed(0)
    alone = rarememory.wrap(nn.Identity(), host=False)
    hosted = rarememory.wrap(nn.Linear(40, 3))
    for classifier in (alone, hosted):
        classifier.learn(features, names)
    assert isinstance(discriminant(alone), KernelDiscriminant)
    assert isinstance(discriminant(hosted), KernelDiscriminant) == by_distance


def test_single_examples_along_few_directions_are_compared_by_distances() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    features = torch.tensor([[1.0], [2.0], [4.0], [7.0], [11.0], [16.0]]) * torch.tensor(
        [1.0, 90.0]
    )
    classifier.learn(features, list("abcdef"))
    assert isinstance(discriminant(classifier), OneShotDistances)
    assert classifier.predict(features + torch.tensor([0.2, 9.0])) == list("abcdef")
    best = classifier.explain(features[0])[0]
    assert best.label == "a" and best.weight > 0.3
    # A second example of a class: it can be left out.
    classifier.learn(features[:1] * 1.01, ["a"])
    assert not isinstance(discriminant(classifier), OneShotDistances)


def test_single_examples_in_many_directions_are_compared_by_cosines() -> None:
    random = torch.Generator().manual_seed(0)
    for count in (2, 3, 6):
        classifier = rarememory.wrap(nn.Identity(), host=False)
        classifier.learn(torch.randn(count, 64, generator=random), list("abcdef")[:count])
        assert not isinstance(discriminant(classifier), OneShotDistances)


def test_a_class_of_one_example_is_told_beside_classes_of_many() -> None:
    classifier = taught()
    single = torch.tensor([[9.0, -9.0, 0.0]])
    classifier.learn(single, ["new"])
    assert isinstance(discriminant(classifier), KernelDiscriminant)
    assert classifier.predict(single * 1.05) == ["new"]
    assert accuracy(classifier) > 0.9


def rings(seed: int, per_class: int = 20) -> tuple[Tensor, Tensor]:
    """Three classes around one another: their means are all the same."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    directions = nn.functional.normalize(torch.randn(len(labels), 2, generator=random), dim=1)
    lengths = 1.0 + 2.0 * labels + 0.2 * torch.randn(len(labels), generator=random)
    return 3.0 + lengths.unsqueeze(1) * directions, labels


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


def test_lengths_follow_what_is_learnt_forgotten_evicted_and_resized() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False, memory_size=4)
    norms = classifier.memory.get_buffer("norms")
    classifier.learn(torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 2.0]]), ["a", "b", "c"])
    assert norms.tolist() == pytest.approx([5.0, 10.0, 2.0, 1.0])
    classifier.forget("b")
    assert norms.tolist() == pytest.approx([5.0, 1.0, 2.0, 1.0])
    classifier.learn(torch.tensor([[1.0, 0.0], [0.0, 7.0], [9.0, 0.0]]), ["d", "e", "f"])
    kept = {one.label: norms[one.slot].item() for one in classifier.examples()}
    assert kept == pytest.approx({"c": 2.0, "d": 1.0, "e": 7.0, "f": 9.0})
    classifier.learn(torch.tensor([[0.0, 6.0]]), ["g"])
    classifier.resize(1)
    assert norms.tolist() == pytest.approx([6.0])


def test_a_mean_of_examples_has_their_mean_length() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])
    classifier.learn(rows, ["a", "a", "b"], average=True)
    assert classifier.memory.get_buffer("norms")[:3].tolist() == pytest.approx([7.5, 1.0, 1.0])


def test_refreshed_keys_have_their_new_length() -> None:
    classifier = taught()
    before = classifier.memory.get_buffer("norms").clone()
    features, labels = drawn(0)
    refs = [f"{place}.csv" for place in range(len(labels))]
    classifier.refresh([(2 * features, refs)])
    after = classifier.memory.get_buffer("norms")
    torch.testing.assert_close(after[: len(labels)], 2 * before[: len(labels)])
    assert after[len(labels) :].eq(1).all()


def test_lengths_are_saved_and_old_files_have_none(tmp_path) -> None:
    classifier = taught()
    path, queries = tmp_path / "table.safetensors", drawn(1)[0]
    classifier.save(path)
    same = rarememory.MemoryClassifier.load(path, nn.Identity())
    assert same.predict(queries) == classifier.predict(queries)
    state = classifier.state_dict()
    other = rarememory.wrap(nn.Identity(), host=False)
    other.load_state_dict(state)
    assert other.predict(queries) == classifier.predict(queries)
    # Of a version that knew no lengths, or into a memory that knows none.
    del state["memory.norms"]
    other.load_state_dict(state)
    assert other.memory.get_buffer("norms").eq(1).all()
    plain = rarememory.wrap(nn.Identity(), host=False, memory=Memory(3, 8192))
    plain.load_state_dict(classifier.state_dict())
    assert plain.predict(queries) == other.predict(queries)


@pytest.mark.parametrize("norm", [0.0, -1.0, torch.inf, torch.nan])
def test_lengths_that_no_features_have_are_refused(norm: float) -> None:
    classifier = taught()
    state = classifier.state_dict()
    state["memory.norms"][2] = norm
    with pytest.raises(RuntimeError, match="norms must be"):
        classifier.load_state_dict(state)
    assert accuracy(classifier) > 0.9


def test_there_is_a_length_for_every_slot() -> None:
    classifier = taught()
    state = classifier.state_dict()
    state["memory.norms"] = state["memory.norms"][:3]
    with pytest.raises(RuntimeError, match="its norms must be a float for each slot"):
        classifier.load_state_dict(state)
    assert accuracy(classifier) > 0.9


def test_features_whose_square_no_float_holds_are_learnt() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(torch.tensor([[3e38, 3e38], [1e-38, 2e-38]]), ["a", "b"])
    assert classifier.memory.get_buffer("norms")[:2].isfinite().all()
    assert classifier.predict(torch.tensor([[2e38, 2e38], [1e-38, 2e-38]])) == ["a", "b"]


@pytest.mark.parametrize("distances", [False, True])
def test_held_out_examples_choose_between_cosines_and_distances(
    distances: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By itself it finds out the opposite.
    monkeypatch.setattr(forms, "answers_more", lambda one, other: distances)
    random = torch.Generator().manual_seed(0)
    features, labels = rings(0, 40) if distances else straight(random)
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(features[::2], labels[::2].tolist())
    assert isinstance(discriminant(classifier), KernelDiscriminant) != distances
    classifier.calibrate(features[1::2], labels[1::2].tolist())
    assert classifier.reader.settings["distances"] == distances
    assert isinstance(discriminant(classifier), KernelDiscriminant) == distances


def straight(random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes that differ in their direction, and lengths that say nothing."""
    labels = torch.arange(6).repeat_interleave(20)
    centres = torch.randn(6, 24, generator=random)
    rows = centres[labels] + 0.6 * torch.randn(120, 24, generator=random)
    return rows * torch.exp(1.5 * torch.randn(120, 1, generator=random)), labels


def test_a_setting_of_distances_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distances must be 0, 1 or None, not 0\.5"):
        rarememory.wrap(nn.Identity(), host=False).reader.having(distances=0.5)
