"""Plain cosines to class means, without a class or an example, and as a part of familiarity."""

import math

import pytest
import torch
from torch import Tensor

import rarememory
from rarememory.classifier.class_cosines import ClassCosines
from rarememory.classifier.discriminant import Discriminant
from rarememory.classifier.fitted_reader import FittedReader
from tests.classifier.made_classes import world
from tests.classifier.test_leave_class_out import learnt


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def means_of(keys: Tensor, labels: Tensor) -> list[Tensor]:
    return [keys[labels == label].double().mean(0) for label in labels.unique()]


def fitted(classifier: rarememory.MemoryClassifier) -> Discriminant:
    assert isinstance(classifier.reader, FittedReader)
    found = classifier.reader._of(classifier.memory, classifier.ensembler.host_ids).discriminant
    assert isinstance(found, Discriminant)
    return found


def cosines_of(keys: Tensor, labels: Tensor, scale: float = 4.0) -> ClassCosines:
    means = torch.stack(means_of(keys, labels)).float()
    return ClassCosines(means, torch.bincount(labels).float(), scale)


def test_the_greatest_cosine_is_found_for_features_of_any_length_and_dtype() -> None:
    keys, labels = world([3, 1, 4])
    queries = world([2] * 3, seed=5)[0]
    means = means_of(keys, labels)
    wanted = [4 * max(cosine(query, mean) for mean in means) for query in queries.double()]
    cosines = cosines_of(keys, labels)
    for given in (queries, 300 * queries, queries.double()):
        assert cosines.greatest(given).tolist() == pytest.approx(wanted, abs=1e-5)
    assert cosines.greatest(queries.bfloat16()).tolist() == pytest.approx(wanted, abs=0.05)


def test_classes_can_be_excluded_for_all_queries_or_for_each() -> None:
    keys, labels = world([3, 1, 4])
    queries = world([2] * 3, seed=5)[0]
    cosines, means = cosines_of(keys, labels), means_of(keys, labels)
    for_all = torch.tensor([True, False, True])
    wanted = [4 * cosine(query, means[1]) for query in queries.double()]
    assert cosines.greatest(queries, for_all).tolist() == pytest.approx(wanted, abs=1e-5)
    for_each = torch.arange(3) != (torch.arange(6) % 3).unsqueeze(1)
    wanted = [4 * cosine(query, means[i % 3]) for i, query in enumerate(queries.double())]
    assert cosines.greatest(queries, for_each).tolist() == pytest.approx(wanted, abs=1e-5)
    nothing = torch.ones(3, dtype=torch.bool)
    assert cosines.greatest(queries, nothing).tolist() == [-math.inf] * 6


def test_an_example_is_left_out_of_its_own_class_and_stays_where_it_is_alone() -> None:
    # The classes lie apart, so that each one's greatest cosine is that with its own.
    keys, labels = world([3, 1, 4], spread=0.05)
    wanted = []
    for place, label in enumerate(labels.tolist()):
        kept = (torch.arange(len(keys)) != place) | (labels.bincount()[label] == 1)
        means = means_of(keys[kept], labels[kept])
        wanted.append(4 * max(cosine(keys[place].double(), mean) for mean in means))
    cosines = cosines_of(keys, labels)
    assert cosines.greatest_left_out(keys, labels).tolist() == pytest.approx(wanted, abs=1e-5)
    left_in = cosines.greatest(keys)
    several = labels.bincount()[labels] > 1
    assert (cosines.greatest_left_out(keys, labels) < left_in)[several].all()
    assert cosines.greatest_left_out(keys, labels)[3].item() == pytest.approx(4.0)


@pytest.mark.parametrize("counts", [[4] * 5, [1] * 5])
@pytest.mark.parametrize("rows", [slice(1), slice(None)])
def test_familiarity_is_the_mean_of_the_logit_and_of_the_plain_cosine(
    counts: list[int], rows: slice
) -> None:
    keys, labels = world(counts)
    queries = 7 * world([2] * 5, seed=5)[0][rows]
    classifier = learnt(keys, labels)
    scale, means = fitted(classifier).found.scale, means_of(keys, labels)
    best = fitted(classifier).logits(queries).amax(1).tolist()
    wanted = [
        (logit + scale * max(cosine(query, mean) for mean in means)) / 2
        for logit, query in zip(best, queries.double(), strict=True)
    ]
    assert classifier.familiarity(queries).tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_threshold_is_fitted_to_the_cosines_of_other_classes() -> None:
    keys, labels = world([6] * 4)
    inputs, own = world([3] * 4, seed=5)
    classifier = learnt(keys, labels)
    found, means = fitted(classifier), means_of(keys, labels)
    for examples, classes, given in ((inputs, own, (inputs, own.tolist())), (keys, labels, ())):
        logits = found.foreign(examples, classes).amax(1).tolist()
        wanted = [
            (
                logit
                + found.found.scale
                * max(cosine(row, mean) for c, mean in enumerate(means) if c != label)
            )
            / 2
            for logit, row, label in zip(logits, examples.double(), classes.tolist(), strict=True)
        ]
        # So low a rate gives the greatest of them.
        threshold = classifier.fit_threshold(*given, false_accept_rate=1e-6, alike=True)
        assert threshold == pytest.approx(max(wanted), abs=1e-4)


def test_known_examples_are_measured_left_out_of_both_parts() -> None:
    keys, labels = world([6] * 4, spread=0.8)
    classifier = learnt(keys, labels)
    found = classifier.reader.left_out(classifier.memory, classifier.ensembler.host_ids)
    assert found.with_own is not None and found.with_own.find_plain is not None
    samples = fitted(classifier).left_out.samples
    wanted = fitted(classifier).plain.greatest_left_out(
        classifier.memory.keys[samples], labels[samples]
    )
    assert torch.equal(found.own_ids, labels[samples])
    assert torch.allclose(found.with_own.find_plain(), wanted)


def test_strangers_that_lack_what_all_classes_have_in_common_are_told_by_the_plain_cosine() -> None:
    keys, labels = world([5] * 6)
    classifier = learnt(keys, labels)
    near = world([5] * 6, seed=5)[0]
    common = torch.nn.functional.normalize(keys.mean(0), dim=0)
    far = near - 2 * (near @ common).unsqueeze(1) * common

    def told(near: Tensor, far: Tensor) -> float:
        return (near.unsqueeze(1) > far).double().mean().item()

    metric = fitted(classifier)
    by_logit = told(metric.logits(near).amax(1), metric.logits(far).amax(1))
    assert by_logit < 0.7 and told(classifier.familiarity(near), classifier.familiarity(far)) > 0.9


@pytest.mark.parametrize("count", [1, 8])
def test_predictions_and_probabilities_need_no_plain_cosine(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, labels = world([4] * 5)
    classifier = learnt(keys, labels)
    asked = []
    greatest = ClassCosines.greatest

    def counted(self: ClassCosines, *given: Tensor) -> Tensor:
        asked.append(len(given[0]))
        return greatest(self, *given)

    monkeypatch.setattr(ClassCosines, "greatest", counted)
    classifier.predict(keys[:count])
    classifier.predict_proba(keys[:count])
    classifier.explain(keys[:count])
    assert not asked
    classifier.threshold.fill_(0.0)
    classifier.predict(keys[:count])
    assert asked == [count]


def test_only_classes_that_are_asked_about_count() -> None:
    keys, labels = world([4] * 5)
    classifier = learnt(keys, labels)
    host_ids = classifier.ensembler.host_ids
    for some in (keys[:2], keys):
        evidence = classifier.reader.evidence(
            classifier.memory, host_ids, some, None, torch.tensor([1, 3])
        )
        assert evidence.find_plain is not None
        means = means_of(keys, labels)
        scale = fitted(classifier).found.scale
        wanted = [
            scale * max(cosine(row, means[1]), cosine(row, means[3])) for row in some.double()
        ]
        assert evidence.find_plain().tolist() == pytest.approx(wanted, abs=1e-4)


def test_beside_a_host_familiarity_is_on_the_scale_of_its_log_odds_alone() -> None:
    keys, labels = world([4] * 3)
    host = torch.nn.Linear(keys.shape[1], 2)
    classifier = rarememory.wrap(host, classes=["a", "b"])
    classifier.learn(keys, [f"new {label}" for label in labels.tolist()])
    familiar = classifier.familiarity(keys)
    with torch.no_grad():
        evidence = classifier._answerer().evidence(keys, host(keys))
    assert evidence.find_plain is not None
    without = evidence._replace(find_plain=None)
    assert torch.equal(
        familiar, classifier.ensembler.familiarity(without, classifier._answerer().ids)
    )


def test_an_unknown_own_class_excludes_nothing() -> None:
    keys, labels = world([4] * 4)
    classifier = learnt(keys, labels)
    host_ids, nobody = classifier.ensembler.host_ids, torch.full((len(keys),), 99)
    without = classifier.reader.without_own_class(classifier.memory, host_ids, keys, None, nobody)
    evidence = classifier.reader.evidence(classifier.memory, host_ids, keys, None)
    assert without.find_plain is not None and evidence.find_plain is not None
    assert torch.equal(without.find_plain(), evidence.find_plain())
