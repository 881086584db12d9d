"""Answers: the vote, the host, the sum of both, and what they rest on."""

import math

import pytest
import torch
from classifiers import at, bare, everything, hosted
from hypothesis import given
from hypothesis import strategies as st

from rarememory import EMPTY
from rarememory.classifier.blend import (
    EXCLUDED,
    BlendWeights,
    Classes,
    Evidence,
    class_logits,
    example_weights,
    probabilities,
)
from rarememory.classifier.fitted_reader import NEAREST_SCALE
from rarememory.classifier.rehearsal import LONE_COSINE

COSINE = st.floats(-1, 1)


def blend_weights(temperature=0.1, host_score=0.5, host_weight=0.7, host_bias=0.3):
    numbers = (temperature, host_score, host_weight, host_bias)
    return BlendWeights(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


def by_hand(scores, values, logits, number, host_ids):
    """exp(z) of the module's docstring, in loops, of one example and one class."""
    found = [s for s, v in zip(scores, values, strict=True) if v == number]
    spoken = sum(math.exp(s / 0.1) for s in found)
    if number not in host_ids:
        return spoken
    heard = {i: math.exp(z) for i, z in zip(host_ids, logits, strict=True) if i != EMPTY}
    chance = heard[number] / sum(heard.values())
    return (spoken + math.exp(0.5 / 0.1)) * chance**0.7 * math.exp(0.3) * math.exp(0.4)


@given(
    st.lists(st.tuples(COSINE, st.sampled_from([EMPTY, 0, 1, 5, 9])), min_size=1, max_size=5),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_answer_is_the_formula(neighbours, logits, forgotten):
    # Nothing comes after all that there is, and has no score.
    neighbours.sort(key=lambda pair: (pair[1] == EMPTY, -pair[0]))
    host_ids = [EMPTY if gone else i for i, gone in zip((0, 1, 5), forgotten, strict=True)]
    scores = torch.tensor(
        [[-math.inf if v == EMPTY else s for s, v in neighbours]], dtype=torch.float64
    )
    heard = torch.tensor([logits], dtype=torch.float64)
    heard = heard.masked_fill(torch.tensor(forgotten), EXCLUDED)
    evidence = Evidence(
        scores, torch.tensor([[v for _, v in neighbours]]), None if all(forgotten) else heard
    )._replace(host_terms=torch.tensor([0.4], dtype=torch.float64))
    ids = [0, 1, 5, 9]
    classes = Classes(torch.tensor(ids), torch.tensor(host_ids))
    answer = probabilities(evidence, blend_weights(), classes)[0]
    parts = [by_hand(*zip(*neighbours, strict=True), logits, i, host_ids) for i in ids]
    wanted = torch.tensor(parts, dtype=torch.float64)
    torch.testing.assert_close(answer, wanted / max(wanted.sum(), 1e-300))
    *z, of_none = class_logits(evidence, blend_weights(), classes)[0]
    z = torch.stack(z)
    assert of_none == EXCLUDED
    torch.testing.assert_close(z[wanted > 0], wanted[wanted > 0].log())
    weights = example_weights(evidence, blend_weights(), classes)[0]
    for weight, (score, value) in zip(weights, neighbours, strict=True):
        one = by_hand([score], [value], logits, value, ()) if value != EMPTY else 0.0
        if value in host_ids and value != EMPTY:
            nothing = by_hand([], [], logits, value, host_ids)
            one = by_hand([score], [value], logits, value, host_ids) - nothing
        assert weight.item() == pytest.approx(
            one / max(wanted.sum().item(), 1e-300), rel=1e-6, abs=1e-12
        )


@pytest.mark.parametrize(("reader", "far"), [("nearest", 60), ("fitted", 68)])
def test_near_an_example_the_memory_decides_and_far_from_it_the_host(reader, far):
    host = torch.tensor([[0.0, 3.0], [0.0, -3.0]])
    classifier = hosted(host, classes=["up", "down"], reader=reader)
    classifier.learn(at(0), ["kea"])
    assert classifier.predict(at(0, 20, far, -far, 170)) == ["kea", "kea", "up", "down", "up"]


@pytest.mark.parametrize(("reader", "scale"), [("nearest", 1.0), ("fitted", NEAREST_SCALE)])
def test_how_much_the_memory_counts_can_be_given(reader, scale):
    answers = []
    host = torch.tensor([[0.0, 3.0], [0.0, -3.0]])
    for host_score in (0.99, 0.5, -1.0):
        classifier = hosted(host, host_score=scale * host_score, reader=reader)
        assert classifier.blend_weights.host_score.item() == pytest.approx(scale * host_score)
        classifier.learn(at(0), ["kea"])
        answers.append(classifier.predict(at(20, 80)))
    assert answers == [[0, 0], ["kea", 0], ["kea", "kea"]]


def test_probabilities_add_up_to_one_if_anything_is_known():
    classifier = hosted(torch.randn(3, 2))
    for examples in (at(0, 90), at(40)):
        torch.testing.assert_close(classifier.predict_proba(at(5, 70)).values.sum(1), torch.ones(2))
        classifier.learn(examples, range(2, 2 + len(examples)))
    assert bare().predict_proba(at(0)).values.shape == (1, 0)


def test_gradients_come_back_whole_past_empty_places_and_forgotten_classes():
    evidence = Evidence(
        torch.tensor([[0.9, -math.inf], [-math.inf, -math.inf]]).requires_grad_(),
        torch.tensor([[0, EMPTY], [EMPTY, EMPTY]]),
        torch.tensor([[1.0, EXCLUDED], [1.0, EXCLUDED]]).requires_grad_(),
    )
    numbers = [number.clone().requires_grad_() for number in blend_weights()]
    classes = Classes(torch.tensor([0, 1]), torch.tensor([0, EMPTY]))
    answer = probabilities(evidence, BlendWeights(*numbers), classes)
    assert torch.equal(answer[:, 1], torch.zeros(2).double())
    (answer.double() ** 2).sum().backward()
    for tensor in (evidence.scores, evidence.logits, *numbers):
        assert tensor.grad.isfinite().all()


def test_without_a_host_the_examples_are_all_of_the_answer_or_there_is_none():
    evidence = Evidence(torch.tensor([[0.1], [-math.inf]]), torch.tensor([[3], [EMPTY]]), None)
    classes = Classes(torch.tensor([3]), torch.tensor([], dtype=torch.int64))
    assert example_weights(evidence, blend_weights(), classes).tolist() == [[1.0], [0.0]]
    assert probabilities(evidence, blend_weights(), classes).tolist() == [[1.0], [0.0]]


def test_for_an_excluded_class_of_the_host_the_memory_decides():
    evidence = Evidence(torch.tensor([[0.4]]), torch.tensor([[0]]), torch.tensor([[EXCLUDED, 1.0]]))
    classes = Classes(torch.tensor([0, 1]), torch.tensor([0, 1]))
    z = class_logits(evidence, blend_weights(), classes)[0, :-1].tolist()
    assert z == pytest.approx([0.4 / 0.1, 0.5 / 0.1 + 0.3])


def test_forward_is_the_same_answer_with_gradient():
    classifier = hosted(torch.randn(3, 2)).eval()
    classifier.learn(at(0, 90), ["kea", "weka"])
    inputs = at(30, 60).requires_grad_()
    answer = classifier(inputs)
    torch.testing.assert_close(answer.detach(), classifier.predict_proba(inputs.detach()).values)
    answer[:, 0].sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_no_answer_has_a_gradient_or_changes_anything():
    classifier = hosted(torch.randn(3, 2))
    classifier.learn(at(0, 90), ["kea", "weka"])
    before = everything(classifier)
    inputs = at(30, 60).requires_grad_()
    assert not classifier.predict_proba(inputs).values.requires_grad
    assert not classifier.features(inputs).requires_grad
    classifier.predict(inputs), classifier.explain(inputs), classifier.doctor(inputs)
    assert everything(classifier) == before


def test_probabilities_name_their_classes():
    classifier = bare(temperature=0.1)
    classifier.learn(at(0, 90), ["kea", "weka"])
    answer = classifier.predict_proba(at(20, 70))
    (best, nearly), (other, _) = answer.top(2)
    assert best[0] == "kea" and nearly[0] == "weka" and other[0] == "weka"
    assert best[1] == answer.confidence[0] and best[1] - nearly[1] == answer.margin[0]
    alone = classifier.predict_proba(at(20)[0])
    assert alone.values.shape == (2,) and alone.top(1) == [best]
    classifier.learn(at(180), ["kiwi"])
    assert answer.classes == ["kea", "weka"]


def test_nothing_known_is_no_confidence():
    answer = bare().predict_proba(at(0))
    assert answer.confidence.tolist() == answer.margin.tolist() == [0.0]
    assert answer.top() == [[]]


def test_an_explanation_names_the_examples_that_answered():
    classifier = bare(temperature=0.7, reader="nearest")
    classifier.learn(at(0, 90), ["kea", "weka"], ["0.png", "90.png"])
    classifier.learn(at(180), ["kea"], ["180.png"])
    first, second = classifier.explain(at(30)[0], k=2)
    assert (first.label, first.ref, first.slot, first.age) == ("kea", "0.png", 0, 1)
    assert (second.label, second.ref, second.slot) == ("weka", "90.png", 1)
    assert first.score == pytest.approx(math.cos(math.radians(30)))
    votes = [math.exp(math.cos(math.radians(angle)) / 0.7) for angle in (30, 60, 150)]
    assert first.weight == pytest.approx(votes[0] / sum(votes))
    assert [len(row) for row in classifier.explain(at(0, 10, 20))] == [3, 3, 3]


@pytest.mark.parametrize(
    ("reader", "cosine", "shares"),
    # The fitted reader takes into account that the host is not sure.
    [("nearest", 0.8, [1 / 4, 1 / 4, 1 / 2]), ("fitted", LONE_COSINE, [1 / 3, 1 / 3, 1 / 3])],
)
def test_weights_of_examples_leave_the_hosts_share(reader, cosine, shares):
    classifier = hosted(torch.zeros(2, 2), reader=reader)
    classifier.learn(at(0), ["kea"])
    far = math.degrees(math.acos(cosine))
    (only,) = classifier.explain(at(far)[0])
    assert only.weight == pytest.approx(shares[-1], abs=1e-3)
    probabilities = classifier.predict_proba(at(far)[0]).values.tolist()
    assert probabilities == pytest.approx(shares, abs=1e-3)


def test_an_explanation_has_all_refs_of_an_average_and_none_without_refs():
    classifier = bare()
    classifier.learn(at(0, 90), ["kea", "weka"], [None, "a.png"])
    classifier.learn(at(100)[0], "weka", "b.png")
    first, second = classifier.explain(at(0)[0])
    assert (first.refs, first.ref) == ((), None)
    assert second.refs == ("a.png", "b.png") and second.ref == "b.png"
    assert bare().explain(at(0)) == [[]]
