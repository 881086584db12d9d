"""Which form of the fitted reader answers."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import rarememory
from rarememory.classifier import forms, kernel
from rarememory.classifier.discriminant import Answered, Discriminant, Settings, fit_discriminant
from rarememory.classifier.forms import answers_more, better_form
from rarememory.classifier.kernel import KernelDiscriminant, KernelTrial, fit_kernel
from rarememory.classifier.one_shot import OneShotDistances, one_shot_distances
from tests.classifier.lengths import discriminant, drawn, rings


def test_the_form_that_answers_more_is_chosen() -> None:
    features, labels = drawn(0)
    unit = nn.functional.normalize(features, dim=1)
    cosines = fit_discriminant(unit, labels)
    by_length = fit_kernel(features, labels)
    assert by_length is not None
    one, other = by_length.left_out.answered, cosines.left_out.answered
    assert answers_more(one, other)
    assert not answers_more(other, one)
    assert not answers_more(one, one)
    assert isinstance(better_form(cosines, features, labels), KernelDiscriminant)


def answering(found: Discriminant, features: Tensor, right: bool | None) -> Discriminant:
    """As if all that is left out were answered rightly, or wrongly; or as by distances (None)."""
    left_out, by_distances = found.left_out, fit_kernel(features, found.classes[LABELS])
    assert by_distances is not None
    if right is None:
        return dataclasses.replace(found, left_out=by_distances.left_out)
    answers = torch.eye(len(found.classes))[(left_out.classes + (not right)) % len(found.classes)]
    return dataclasses.replace(found, left_out=dataclasses.replace(left_out, unrefined=answers))


LABELS = torch.arange(8).repeat_interleave(20)


@pytest.mark.parametrize(
    ("columns", "equal", "by_cosines"),
    [(64, False, True), (10, True, True), (10, False, False)],
)
def test_what_is_not_sure_is_read_as_features_of_networks_are_or_columns_of_tables(
    columns: int, equal: bool, by_cosines: bool
) -> None:
    features = torch.randn(160, columns, generator=torch.Generator().manual_seed(0))
    if equal:
        features = nn.functional.normalize(features, dim=1)
    cosines = fit_discriminant(features, LABELS)
    # Both say the same of what is left out.
    tie = answering(cosines, features, None)
    assert (better_form(tie, features, LABELS) is tie) == by_cosines
    wrong, right = (answering(cosines, features, true) for true in (False, True))
    assert isinstance(better_form(wrong, features, LABELS), KernelDiscriminant)
    assert better_form(right, features, LABELS) is right


def test_few_examples_of_many_columns_are_read_by_cosines_where_it_is_not_sure() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(4)
    # Nine examples beyond the first of their class.
    wide = torch.randn(12, 91, generator=random)
    for features, by_cosines in ((wide, True), (wide[:, :90], False)):
        kernel = fit_kernel(features, labels)
        assert kernel is not None
        tie = dataclasses.replace(fit_discriminant(wide, labels), left_out=kernel.left_out)
        assert (better_form(tie, features, labels) is tie) == by_cosines


def test_kernels_are_not_tried_for_unit_features_along_many_directions() -> None:
    features = torch.randn(160, 64, generator=torch.Generator().manual_seed(0))
    unit = nn.functional.normalize(features, dim=1)
    wrong = answering(fit_discriminant(unit, LABELS), unit, False)
    assert better_form(wrong, unit, LABELS) is wrong


@pytest.mark.parametrize("columns", [64, 10])
def test_what_some_examples_are_sure_of_is_not_asked_of_all(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "TRIED", 80)
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(8, columns, generator=random)
    features = centres[LABELS] + 0.7 * torch.randn(160, columns, generator=random)
    if columns == 64:
        # Lengths that say nothing, along many directions.
        features = features * torch.exp(1.5 * torch.randn(160, 1, generator=random))
    else:
        # One class in two places.
        features[LABELS == 0] *= torch.tensor([1.0, -1.0]).repeat(10).unsqueeze(1)
    cosines = fit_discriminant(features, LABELS)
    # What was said of all the opposite.
    answers = answering(cosines, features, columns == 10)
    found = better_form(answers, features, LABELS)
    if columns == 64:
        assert found is answers
    else:
        assert isinstance(found, KernelDiscriminant) and "left_out" not in vars(found)


def test_some_examples_are_compared_by_the_cosines_that_all_are_read_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "TRIED", 80)
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 10, generator=random)
    features = centres[LABELS] + 0.6 * torch.randn(160, 10, generator=random)
    # Lengths that say nothing, along few directions.
    features = features * torch.exp(2.5 * torch.randn(160, 1, generator=random))
    cosines = fit_discriminant(nn.functional.normalize(features, dim=1), LABELS)
    assert better_form(cosines, features, LABELS) is cosines


def test_an_example_that_is_alone_says_nothing_of_the_form() -> None:
    features, labels = drawn(0)
    labels[-1] = 9
    trial = KernelTrial.of(features, labels)
    assert trial is not None and int((~trial.answered.several).sum()) == 1


@pytest.mark.parametrize("right", [False, True])
def test_what_some_examples_are_not_sure_of_is_asked_of_all(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "TRIED", 80)
    monkeypatch.setattr(forms, "fit_discriminant", lambda *_: as_the_trial)
    features = torch.randn(160, 10, generator=torch.Generator().manual_seed(0))
    trial = KernelTrial.of(features, LABELS)
    assert trial is not None
    answered = trial.answered._replace(samples=torch.arange(80))
    as_the_trial = SimpleNamespace(left_out=SimpleNamespace(answered=answered))
    cosines = answering(fit_discriminant(features, LABELS), features, right)
    assert (better_form(cosines, features, LABELS) is cosines) == right


@pytest.mark.parametrize(("classes", "by_distance"), [(20, True), (21, False)])
def test_distances_are_tried_up_to_a_number_of_classes(
    classes: int, by_distance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "TRIED", 30)
    monkeypatch.setattr(kernel, "MOST_CLASSES", 20)
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(6)
    # Each class in two places.
    places = torch.randn(2 * classes, 4, generator=random)
    features = places.repeat_interleave(3, 0) + 0.1 * torch.randn(6 * classes, 4, generator=random)
    cosines = fit_discriminant(features, labels)
    for settings in (Settings(), Settings(distances=1.0)):
        found = better_form(cosines, features, labels, settings)
        assert isinstance(found, KernelDiscriminant) == by_distance
    if by_distance:
        assert (found.logits(features).argmax(1) == labels).double().mean() > 0.9
        # Two of each class, though so few are enough otherwise.
        trial = KernelTrial.of(features, labels)
        assert trial is not None and len(trial.samples.rows) == 40


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
    alone = single._replace(several=worse)
    assert answers_more(single, said_of(everything, worse))
    assert not answers_more(alone, said_of(everything, worse))
    few = order[:5].sort().values
    assert answers_more(said_of(few, right[few]), said_of(order, worse[order]))


def said_of(samples: Tensor, right: Tensor) -> Answered:
    """Of examples of the classes 0, 0, 0, 0, 1, 1, 1, 1."""
    return Answered(samples, (samples >= 4).long(), torch.ones_like(right), right)


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


def test_the_likelihood_of_single_examples_does_not_depend_on_how_many_columns_say_it() -> None:
    features = torch.tensor([[1.0, 9.0], [3.0, 2.0], [4.0, 4.0]])
    asked, values = torch.tensor([[2.0, 5.0]]), torch.tensor([3, 5, 7])
    once = one_shot_distances(features, values)
    constant = torch.full((3, 1), 7.0)
    twice = one_shot_distances(torch.cat([features, constant, features], 1), values)
    assert once is not None and twice is not None
    wider = torch.cat([asked, constant[:1], asked], 1)
    torch.testing.assert_close(twice.logits(wider), once.logits(asked))


def test_single_examples_in_many_directions_are_compared_by_cosines() -> None:
    random = torch.Generator().manual_seed(0)
    for count in (2, 3, 6):
        classifier = rarememory.wrap(nn.Identity(), host=False)
        classifier.learn(torch.randn(count, 64, generator=random), list("abcdef")[:count])
        assert not isinstance(discriminant(classifier), OneShotDistances)


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
    reader = rarememory.wrap(nn.Identity(), host=False).reader
    for wrong in (0.5, torch.nan):
        with pytest.raises(ValueError, match=f"distances must be 0, 1 or None, not {wrong}"):
            reader.having(distances=wrong)
