"""Thresholds for unknown classes: the quantile, familiarity, and the rate on unseen data."""

import math

import numpy as np
import pytest
import torch
from classifiers import at, bare, hosted
from hypothesis import given
from hypothesis import strategies as st

from rarememory import EMPTY, Memory, wrap
from rarememory.classifier.blend import EXCLUDED, BlendWeights, Classes, Evidence
from rarememory.classifier.openset import are_few, familiarity, threshold_at
from tests.classifier.made_classes import classifier, world

RATES = st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5])


def with_birds(*angles, names=("kea", "weka", "kiwi"), reader="nearest"):
    classifier = bare(reader=reader)
    classifier.learn(at(*angles), list(names[: len(angles)]))
    return classifier


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=120), RATES)
def test_at_most_the_requested_rate_exceeds_the_threshold(numbers, rate):
    unknown = torch.tensor(numbers).float()
    threshold = threshold_at(unknown, rate)
    assert (unknown > threshold).float().mean() <= rate + 1e-6
    # A lower threshold, at the next number, would accept more than the conformal rank allows.
    lower = unknown[unknown < threshold]
    if len(lower) and len(numbers) + 1 >= 1 / rate:
        accepted = (unknown > lower.max()).sum().item()
        assert accepted + 1 > rate * (len(numbers) + 1) - 1e-6


@pytest.mark.parametrize(
    ("count", "rate", "threshold"),
    # (1 - 0.7) * 10 is a little more than 3 in floating point.
    [(99, 0.01, 99), (99, 0.1, 90), (100, 0.1, 91), (9, 0.01, 9), (9, 0.7, 3)],
)
def test_the_threshold_is_the_conformal_quantile(count, rate, threshold):
    assert threshold_at(torch.arange(1.0, count + 1), rate) == threshold


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="false_accept_rate must be between 0 and 1"):
        threshold_at(torch.ones(3), rate)
    with pytest.raises(ValueError, match="needs examples, and there are 0"):
        threshold_at(torch.ones(0), 0.1)


def test_the_old_name_of_the_rate_still_works():
    classifier = with_birds(0, 30, 90)
    with pytest.warns(DeprecationWarning, match="fit_threshold.false_accept_rate=."):
        old = classifier.fit_threshold(far=0.5)
    assert old == classifier.fit_threshold(false_accept_rate=0.5)


@pytest.mark.parametrize("make", [bare, lambda **more: hosted(torch.eye(2), **more)])
@pytest.mark.parametrize("reader", ["fitted", "nearest"])
def test_without_a_threshold_whatever_has_evidence_is_known_as_with_a_very_low_one(make, reader):
    classifier = make(reader=reader)
    inputs = at(*range(0, 180, 10))
    answers = [classifier.predict(inputs)]
    classifier.learn(at(0, 50, 60, 120), ["kea", "weka", "weka", "kiwi"])
    answers.append(classifier.predict(inputs))
    classifier.threshold.fill_(-1e30)
    assert classifier.predict(inputs) == answers.pop()
    classifier.forget("kea", "weka", "kiwi")
    assert classifier.predict(inputs) == answers.pop()


def familiar(nearest, logits, value=7):
    """Familiarity of examples with one neighbour each, of one class, beside the host's classes."""
    scores = torch.tensor(nearest).unsqueeze(1)
    values = torch.full(scores.shape, value).where(scores > -math.inf, EMPTY)
    host_ids = torch.arange(0 if logits is None else logits.shape[1])
    classes = Classes(torch.cat([host_ids, torch.tensor([7])]), host_ids)
    weights = BlendWeights(*map(torch.tensor, (0.1, 0.5, 0.7, 0.3)))
    return familiarity(Evidence(scores, values, logits), weights, classes).tolist()


def test_familiarity_is_the_cosine_that_would_be_as_much_evidence():
    logits = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    odds = [math.exp(3) / (math.exp(1) + 1), 1 / 2]
    by_host = [0.5 + 0.1 * (0.7 * math.log(odd) + 0.3) for odd in odds]
    assert familiar([0.1, 0.1], logits) == pytest.approx(by_host)
    assert familiar([-math.inf, -math.inf], logits) == pytest.approx(by_host)
    assert familiar([0.9, 0.9], logits) == pytest.approx([0.9, 0.9])
    assert familiar([0.9, -math.inf], None) == [pytest.approx(0.9), -math.inf]


def test_familiarity_grows_with_agreement_and_where_probabilities_round_to_one():
    logits = torch.tensor([[0.0, 2.0]])
    agreed, apart = familiar([0.6], logits, value=1), familiar([0.6], logits, value=0)
    assert agreed[0] > apart[0] and agreed[0] > 0.6
    one, other = familiar([0.0, 0.0], torch.tensor([[90.0, 0.0], [100.0, 0.0]]))
    assert one < other


@pytest.mark.parametrize("n_host", [1, 2])
def test_a_host_whose_classes_are_all_excluded_adds_nothing(n_host):
    logits = torch.full((2, n_host), EXCLUDED)
    assert familiar([0.4, -math.inf], logits) == [pytest.approx(0.4), -math.inf]


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_before_a_threshold_only_an_empty_memory_says_unknown(reader):
    assert bare(reader=reader).predict(at(0)) == ["unknown"]
    assert with_birds(0, reader=reader).predict(at(180)) == ["kea"]
    assert with_birds(0, 90, reader=reader).predict(at(225)) != ["unknown"]


def test_a_threshold_from_unknown_examples():
    classifier = with_birds(0, 90)
    unknown = at(*range(120, 330, 2))
    threshold = classifier.fit_threshold(unknown=unknown, false_accept_rate=0.05)
    assert classifier.threshold.item() == threshold
    answers = classifier.predict(at(0, 20, 90, 200, 250))
    assert answers == ["kea", "kea", "weka", "unknown", "unknown"]
    accepted = sum(label != "unknown" for label in classifier.predict(unknown))
    assert 0 < accepted <= 0.05 * len(unknown)
    # What lies on the threshold is unknown.
    classifier.fit_threshold(unknown=at(-60), false_accept_rate=0.5)
    assert classifier.predict(at(-60, -59)) == ["unknown", "kea"]


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_one_class_cannot_be_left_out(reader):
    classifier = with_birds(0, 10, names=("kea", "kea"), reader=reader)
    with pytest.raises(ValueError, match="give unknown="):
        classifier.fit_threshold(false_accept_rate=0.1)
    assert classifier.threshold == -math.inf


def test_without_unknown_examples_one_class_at_a_time_is_left_out():
    classifier = with_birds(0, 30, 90)
    # The others are 30, 30 and 60 degrees away: cosines .866, .866 and .5.
    assert classifier.fit_threshold(false_accept_rate=0.5) == pytest.approx(math.cos(math.pi / 6))
    assert classifier.fit_threshold(false_accept_rate=0.75) == pytest.approx(0.5)
    inputs, labels = at(1, 29, 95), ["kea", "weka", "kiwi"]
    held_out = classifier.fit_threshold(inputs, labels, false_accept_rate=0.75)
    assert held_out == pytest.approx(math.cos(math.radians(65)), abs=1e-5)
    # Without labels the predicted ones.
    assert classifier.predict(inputs[:1]) == ["kea"]
    assert classifier.fit_threshold(inputs, false_accept_rate=0.75) == held_out


def test_a_class_left_out_is_as_if_it_had_never_been_learnt():
    weight = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    whole, without = (hosted(weight, reader="nearest") for _ in range(2))
    whole.learn(at(0, 20, 30, 90), ["kea", "weka", "weka", "kiwi"])
    without.learn(at(20, 30, 90), ["weka", "weka", "kiwi"])
    threshold = whole.fit_threshold(at(5), ["kea"], false_accept_rate=0.5)
    assert threshold == pytest.approx(without.familiarity(at(5)).item(), abs=1e-6)


def test_remembered_examples_that_are_left_out_tell_how_many_known_ones_are_accepted():
    classifier = with_birds(0, 10, 90, 100, 200, names=("kea", "kea", "tui", "tui", "weka"))
    found = classifier.fit_threshold(false_accept_rate=0.4)
    # Four have another example of their class 10 degrees away; the fifth is alone, and not asked.
    assert found.known_accepted == 1.0
    classifier.learn(at(215), ["tui"])
    assert classifier.fit_threshold(false_accept_rate=0.4).known_accepted == pytest.approx(4 / 5)


def test_all_others_are_asked_where_many_neighbours_are_of_the_own_class():
    classifier = bare(reader="nearest", k=2)
    classifier.learn(at(0, 1, 2, 60, 70), ["kea", "kea", "kea", "weka", "tui"])
    host_ids = torch.zeros(0, dtype=torch.long)
    own = torch.tensor([0])
    found = classifier.reader.without_own_class(classifier.memory, host_ids, at(1), None, own)
    assert found.values.tolist() == [[1, 2]]


def test_a_class_left_out_is_left_out_of_the_host_too():
    host = torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
    classifier = hosted(host[:2], classes=["right", "up"], reader="nearest")
    left_in = classifier.familiarity(at(0))
    left_out = classifier.fit_threshold(at(0), ["right"], false_accept_rate=0.5)
    # The host has one class left, which has a probability of 1.
    assert left_out == pytest.approx(0.8 + 0.025 * 100) and left_in < 1
    three = hosted(host, reader="nearest")
    assert three.fit_threshold(at(0), [0], false_accept_rate=0.5) == pytest.approx(0.8)


def test_what_a_host_made_of_remembered_examples_serves_for_a_threshold():
    host = torch.nn.Linear(16, 3)
    torch.nn.init.normal_(host.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    classifier = wrap(host)
    inputs, numbers = crowd(range(4), 6, 1)
    labels = [f"bird {number}" for number in numbers]
    classifier.learn(inputs, labels)
    classifier.ensembler.weights[2:] = torch.tensor([0.7, 0.3])
    given = classifier.fit_threshold(inputs, labels, false_accept_rate=0.3)
    found = classifier.fit_threshold(false_accept_rate=0.3)
    assert float(found) == pytest.approx(given, rel=1e-4)
    assert classifier.threshold.item() == pytest.approx(found)
    assert found.alike == pytest.approx(given.alike) and found.examples == 24
    # Some are accepted for what the memory says of them, and some for what the host does.
    of_memory = wrap(torch.nn.Identity(), host=False)
    of_memory.learn(inputs, labels)
    assert float(of_memory.fit_threshold(false_accept_rate=0.3)) < float(found)
    # Of some examples the host has more evidence, and of others the memory.
    thresholds = {}
    for bias in (-1e3, -4.6, 0.3):
        classifier.ensembler.weights[3] = bias
        for rate in (0.1, 0.3, 0.5, 0.7, 0.9):
            rates = {"false_accept_rate": rate, "alike": True}
            given = classifier.fit_threshold(inputs, labels, **rates)
            thresholds[bias, rate] = float(classifier.fit_threshold(**rates))
            assert thresholds[bias, rate] == pytest.approx(given, rel=1e-3)
    of_memory, both, of_host = (
        [thresholds[bias, rate] for rate in (0.3, 0.5, 0.7)] for bias in (-1e3, -4.6, 0.3)
    )
    assert all(x > y + 0.1 for x, y in zip(both, of_memory, strict=True))
    assert all(x > y - 4.9 + 0.1 for x, y in zip(both, of_host, strict=True))
    classifier.ensembler.weights[3] = 0.3
    # Of some it may not be known how sure the host was: they count as the surest.
    confidences = classifier.memory.get_buffer("confidences")
    kept = confidences.clone()
    confidences[confidences.where(confidences < 1, 0).argmax()] = 1
    assert classifier.fit_threshold(false_accept_rate=0.3) == pytest.approx(found)
    confidences.copy_(kept).masked_fill_(kept > kept[kept < 1].quantile(0.6), 1)
    with pytest.raises(ValueError, match=r"how sure it was of 4. % of the remembered examples"):
        classifier.fit_threshold(false_accept_rate=0.3)
    # A forgotten class of the host was part of them.
    confidences.copy_(kept)
    classifier.forget(2)
    with pytest.raises(ValueError, match=r"classes of the model were forgotten.*: give inputs, or"):
        classifier.fit_threshold(false_accept_rate=0.3)
    sure = wrap(torch.nn.Linear(16, 3))
    sure.model.load_state_dict({"weight": 200 * host.weight, "bias": host.bias})
    sure.learn(inputs, labels)
    with pytest.raises(ValueError, match="is not known, or more than can be told: give inputs, or"):
        sure.fit_threshold(false_accept_rate=0.3)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_threshold_beside_a_host_needs_what_it_made_of_the_examples(reader):
    classifier = hosted(torch.eye(2), reader=reader)
    unknown = "how sure it was of 100 % of the remembered examples is not known, or more than can"
    with pytest.raises(ValueError, match="the memory is empty: give inputs, or unknown="):
        classifier.fit_threshold()
    with pytest.raises(ValueError, match="'keaa' is not known"):
        classifier.fit_threshold(at(0), ["keaa"])
    classifier.learn(at(30, 60), ["kea", "weka"])
    if reader == "fitted":
        classifier.memory.get_buffer("confidences").fill_(1)
    with pytest.raises(ValueError, match=unknown):
        classifier.fit_threshold()
    classifier.learn(at(0), [0])
    with pytest.raises(ValueError, match="the model's own classes are remembered"):
        classifier.fit_threshold()


def test_the_measured_rate_of_new_unknown_examples_is_near_the_requested_one():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(300, 16, generator=generator)

    def drawn(classes):
        return directions[classes] + 0.3 * torch.randn(len(classes), 16, generator=generator)

    def accepted(classes):
        answers = classifier.predict(drawn(classes))
        return sum(answer != "unknown" for answer in answers) / len(answers)

    known, unknown = torch.arange(200), torch.arange(200, 300)
    classifier = wrap(torch.nn.Identity(), host=False, memory=Memory(16, 400))
    classifier.learn(drawn(known), known)
    for rate in (0.05, 0.1, 0.2):
        labels = known.repeat(10)
        classifier.fit_threshold(drawn(labels), labels, false_accept_rate=rate, alike=True)
        assert rate / 1.5 < accepted(unknown.repeat(40)) < rate * 1.5
        # For a typical class the rate of classes as alike as these is told.
        told = classifier.fit_threshold(drawn(labels), labels, false_accept_rate=rate).alike
        assert told / 1.5 < accepted(unknown.repeat(40)) < told * 1.5
        assert accepted(known.repeat(5)) > 0.8


def crowd(classes: range, count: int, seed: int) -> tuple[torch.Tensor, list[int]]:
    """Examples of classes that lie around centres of their own."""
    centres = 1.2 * torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(classes).repeat_interleave(count)
    noise = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed))
    return centres[labels] + noise, labels.tolist()


def test_few_strangers_never_lower_the_threshold_that_is_found_without_them():
    known = wrap(torch.nn.Identity(), host=False)
    known.learn(*crowd(range(8), 8, 1))
    strangers, _ = crowd(range(8, 12), 100, 2)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    alone = known.fit_threshold(false_accept_rate=0.05)
    assert alone.unknown_interval == pytest.approx(_half(alone.alike, 64), rel=0.05)
    familiar = known.familiarity(strangers)
    for count in (1, 3, 10, 18):
        some = order[:count]
        found = known.fit_threshold(unknown=strangers[some], false_accept_rate=0.05)
        assert float(found) == pytest.approx(max(alone, familiar[some].max().item()))
        assert found.false_accept_rate == 0.05 and known.threshold.item() == pytest.approx(found)
        same = known.fit_threshold(*crowd(range(8), 9, 5), false_accept_rate=0.05)
        both = known.fit_threshold(
            *crowd(range(8), 9, 5), unknown=strangers[some], false_accept_rate=0.05
        )
        assert float(both) == pytest.approx(max(same, familiar[some].max().item()))
    # 19 tell of so small a rate, and more tell it well.
    found = known.fit_threshold(unknown=strangers[order[:19]], false_accept_rate=0.05)
    assert float(found) == pytest.approx(familiar[order[:19]].max().item())
    found = known.fit_threshold(unknown=strangers, false_accept_rate=0.05)
    assert found.alike is None and found.false_accept_rate <= 0.05
    assert found.unknown_interval == pytest.approx(_half(found.false_accept_rate, 400), rel=0.05)
    assert f"+- {100 * found.unknown_interval:.1f} %" in str(found)


def test_so_many_strangers_tell_of_a_rate():
    assert [are_few(count, 0.05) for count in (0, 18, 19, 20)] == [True, True, False, False]
    with pytest.raises(ValueError, match=r"between 0 and 1, not 0\.0"):
        are_few(3, 0.0)


def _half(share: float | None, count: int) -> float:
    """Half of the interval of the normal approximation, after two more of each (Agresti 1998)."""
    assert share is not None
    p = (share * count + 2) / (count + 4)
    return 1.96 * (p * (1 - p) / (count + 4)) ** 0.5


def test_of_one_class_and_of_a_host_s_own_few_strangers_stand_alone():
    inputs, labels = crowd(range(1), 5, 1)
    one = wrap(torch.nn.Identity(), host=False)
    one.learn(inputs, labels)
    strangers, _ = crowd(range(8, 10), 2, 2)
    found = one.fit_threshold(unknown=strangers, false_accept_rate=0.05)
    assert float(found) == pytest.approx(one.familiarity(strangers).max().item())
    beside = wrap(torch.nn.Linear(16, 3))
    beside.learn(inputs, ["kea"] * 5)
    alone = beside.fit_threshold(false_accept_rate=0.05)
    found = beside.fit_threshold(unknown=strangers, false_accept_rate=0.05)
    assert float(found) == pytest.approx(max(alone, beside.familiarity(strangers).max().item()))
    beside.learn(inputs[:1], [0])
    found = beside.fit_threshold(unknown=strangers, false_accept_rate=0.05)
    assert float(found) == pytest.approx(beside.familiarity(strangers).max().item())


def test_a_threshold_says_what_it_is_expected_to_do() -> None:
    keys, labels = world([10] * 8, spread=0.5)
    birds = classifier(host=False)
    birds.learn(keys, labels.tolist())
    found = birds.fit_threshold(false_accept_rate=0.1)
    assert float(found) == pytest.approx(birds.threshold.item())
    assert found.false_accept_rate == 0.1
    assert found.known_accepted is not None and 0 < found.known_accepted <= 1
    assert found.alike is not None and 0 <= found.alike <= 1
    assert "known accepted" in str(found)
    strangers, _ = world([10] * 8, spread=0.5, seed=77)
    given = birds.fit_threshold(keys, unknown=strangers, false_accept_rate=0.1)
    assert given.alike is None and given.false_accept_rate <= 0.1
    accepted = [answer != "unknown" for answer in birds.predict(strangers)]
    assert np.mean(accepted) == pytest.approx(given.false_accept_rate)
