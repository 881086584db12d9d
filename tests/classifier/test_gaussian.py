"""The reader by distances: densities, when they are chosen, and the lengths of features."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

import rarememory
from rarememory.classifier.discriminant import LeftOut, Settings, fit_discriminant
from rarememory.classifier.gaussian import GaussianDiscriminant, answers_more, fit_gaussian
from rarememory.classifier.leave_one_out import left_out_products
from rarememory.classifier.metric import Spread
from rarememory.memory import Memory


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


def test_logits_are_those_of_linear_discriminant_analysis() -> None:
    features, labels = drawn(0, dim=3)
    queries, _ = drawn(1)
    scale = features.std(0, correction=0) * torch.tensor([1.0, 30.0, 0.01])
    features, queries = features / scale, queries / scale
    found = fit_gaussian(features, labels, Settings(1e-6))
    assert found is not None
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(4, 0.25))
    theirs.fit(features.double(), labels)
    # Their covariance is divided by the number of examples, ours by the degrees of freedom.
    wanted = theirs.decision_function(queries.double()) * (len(labels) - 4) / len(labels)
    ours = found.logits(queries).double().numpy() / found.found.scale
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True), rtol=0.01
    )


def test_directions_outside_of_few_examples_count_too() -> None:
    features, labels = drawn(0, per_class=2, dim=40)
    found = fit_gaussian(features, labels, Settings(0.5))
    assert found is not None
    assert found.metric.shape[1] < found.metric.shape[0]
    mean = torch.stack([features[labels == c].mean(0) for c in range(4)]).mean(0)
    rows = (features - mean) / found.deviations
    means = torch.stack([rows[labels == c].mean(0) for c in range(4)])
    residuals = rows - means[labels]
    scatter = (residuals.T @ residuals / 4).double()
    metric = torch.linalg.inv(0.5 * scatter + 0.5 * scatter.trace() / 40 * torch.eye(40))
    away = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 5 + mean
    x = ((away - mean) / found.deviations).double()
    differences = x.unsqueeze(1) - means.double()
    wanted = -found.found.scale / 2 * ((differences @ metric) * differences).sum(2)
    torch.testing.assert_close(found.logits(away).double(), wanted, rtol=1e-3, atol=1e-3)


def test_a_column_that_is_the_same_everywhere_changes_nothing() -> None:
    features, labels = drawn(0)
    with_constant = torch.cat([features, torch.full((len(features), 1), 7.0)], dim=1)
    queries, _ = drawn(1)
    one = fit_gaussian(features, labels, Settings(0.1)).logits(queries).argmax(1)
    wider = torch.cat([queries, torch.full((len(queries), 1), 9.0)], dim=1)
    other = fit_gaussian(with_constant, labels, Settings(0.1)).logits(wider)
    assert other.isfinite().all() and torch.equal(one, other.argmax(1))


def test_few_examples_of_many_dimensions_are_left_out_exactly() -> None:
    """The closed form is close to a division by 0 there, and once answered all of them rightly."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(15).repeat_interleave(5)
    rows = torch.randn(75, 600, generator=random)
    means = torch.stack([rows[labels == c].mean(0) for c in range(15)])
    counts = torch.full((15,), 5.0)
    spread = Spread.of(rows - means.mean(0), labels, means - means.mean(0), counts)
    precision = 1 / (0.99 * spread.variances + 0.01 * spread.level)
    found = left_out_products(
        spread.rows, labels, spread.means, counts, precision, 0.01, spread.degrees
    )
    for scores in (found.cosines(), found.log_densities()):
        # Noise tells nothing of classes.
        assert (scores.argmax(1) == labels).double().mean() < 0.3


def test_distances_are_chosen_where_they_answer_more_and_cosines_elsewhere() -> None:
    features, labels = drawn(0)
    unit = nn.functional.normalize(features, dim=1)
    by_cosine = fit_discriminant(unit, labels).left_out
    by_length, without = (fit_gaussian(rows, labels) for rows in (features, unit))
    assert by_length and without
    assert answers_more(by_length.left_out, by_cosine)
    assert not answers_more(by_cosine, by_length.left_out)
    assert not answers_more(by_length.left_out, by_length.left_out)
    assert not answers_more(without.left_out, by_cosine)


def test_distances_are_not_tried_for_unit_features_along_many_directions() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(20)
    unit = nn.functional.normalize(torch.randn(160, 64, generator=random), dim=1)
    # Left-out answers that are all wrong: whatever is tried is better.
    wrong = torch.eye(8)[(labels + 1) % 8]
    worst = LeftOut(wrong, wrong, wrong.clone, torch.arange(160), labels, labels >= 0, unit, 1.0)
    assert fit_gaussian(unit, labels, than=worst) is None
    assert fit_gaussian(unit * (1 + labels.unsqueeze(1)), labels, than=worst)
    assert fit_gaussian(unit[:, :4], labels, than=worst)


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
    few = order[:5].sort().values
    assert answers_more(said_of(few, right[few]), said_of(order, worse[order]))


def said_of(samples: Tensor, right: Tensor) -> LeftOut:
    """Of examples of the classes 0, 0, 0, 0, 1, 1, 1, 1."""
    classes = (samples >= 4).long()
    logits = nn.functional.one_hot(torch.where(right, classes, 1 - classes), 2).float()
    several = torch.ones_like(right)
    return LeftOut(logits, logits, logits.clone, samples, classes, several, logits, 1.0)


def discriminant(classifier: rarememory.MemoryClassifier) -> object:
    return classifier.reader._of(classifier.memory, classifier.ensembler.host_ids).discriminant


def test_a_classifier_tells_classes_by_their_lengths() -> None:
    classifier = taught()
    assert accuracy(classifier) > 0.9
    assert isinstance(discriminant(classifier), GaussianDiscriminant)
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
    assert isinstance(discriminant(alone), GaussianDiscriminant)
    assert isinstance(discriminant(hosted), GaussianDiscriminant) == by_distance


def test_single_examples_along_few_directions_are_compared_by_distances() -> None:
    classifier = rarememory.wrap(nn.Identity(), host=False)
    features = torch.tensor([[1.0], [2.0], [4.0], [7.0], [11.0], [16.0]]) * torch.tensor(
        [1.0, 90.0]
    )
    classifier.learn(features, list("abcdef"))
    assert isinstance(discriminant(classifier), GaussianDiscriminant)
    assert classifier.predict(features + torch.tensor([0.2, 9.0])) == list("abcdef")
    best = classifier.explain(features[0])[0]
    assert best.label == "a" and best.weight > 0.3
    # A second example of a class: there is a covariance again.
    classifier.learn(features[:1] * 1.01, ["a"])
    assert not isinstance(discriminant(classifier), GaussianDiscriminant)


def test_single_examples_in_many_directions_are_compared_by_cosines() -> None:
    random = torch.Generator().manual_seed(0)
    for count in (2, 3, 6):
        classifier = rarememory.wrap(nn.Identity(), host=False)
        classifier.learn(torch.randn(count, 64, generator=random), list("abcdef")[:count])
        assert not isinstance(discriminant(classifier), GaussianDiscriminant)


def test_a_class_of_one_example_is_compared_by_cosines() -> None:
    classifier = taught()
    classifier.learn(torch.tensor([[9.0, -1.0, 0.0]]), ["new"])
    assert not isinstance(discriminant(classifier), GaussianDiscriminant)


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
