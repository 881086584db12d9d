"""Answers among some classes: "which of these three is it?"."""

import pytest
import torch
from classifiers import at, bare, hosted

from rarememory import Memory, wrap

READERS = ["fitted", "nearest"]


@pytest.mark.parametrize("reader", READERS)
def test_the_answer_is_one_of_those_asked_about(reader):
    birds = bare(reader=reader)
    birds.learn(at(0, 5, 120, 125, 240, 245), ["kea", "kea", "weka", "weka", "tui", "tui"])
    assert birds.predict(at(20, 242)) == ["kea", "tui"]
    assert birds.predict(at(20, 242), among=["weka", "tui"]) == ["weka", "tui"]
    assert birds.predict(at(20, 242), among=["weka", "kea"])[0] == "kea"
    assert birds.predict(at(3)[0], among=["tui"]) == "tui"


@pytest.mark.parametrize("reader", READERS)
def test_classes_of_the_host_are_left_out_too(reader):
    birds = hosted(torch.eye(2), classes=["kea", "weka"], reader=reader)
    birds.learn(at(60, 62), ["tui", "tui"])
    inputs = 9 * at(0, 90)
    assert birds.predict(inputs)[0] == "kea"
    assert birds.predict(inputs, among=["weka", "tui"])[0] != "kea"
    assert birds.predict(inputs, among=["tui"]) == ["tui", "tui"]
    assert birds.predict(inputs, among=["weka"]) == ["weka", "weka"]
    found = birds.predict_proba(inputs, among=["tui", "kea"])
    assert found.classes == ["kea", "tui"]
    torch.testing.assert_close(found.values.sum(1), torch.ones(2))


@pytest.mark.parametrize("reader", READERS)
def test_probabilities_keep_their_ratios(reader):
    birds = hosted(torch.eye(2), classes=["kea", "weka"], reader=reader)
    birds.learn(at(60, 62, 30, 33), ["tui", "tui", "kaka", "kaka"])
    inputs = torch.randn(5, 2)
    whole = birds.predict_proba(inputs).values
    some = birds.predict_proba(inputs, among=["tui", "kaka"])
    assert some.classes == ["tui", "kaka"]
    torch.testing.assert_close(some.values, whole[:, 2:] / whole[:, 2:].sum(1, keepdim=True))
    host = birds.predict_proba(inputs, among=["weka", "kea"])
    torch.testing.assert_close(host.values, whole[:, :2] / whole[:, :2].sum(1, keepdim=True))


def test_a_neighbour_of_the_classes_asked_about_is_found_behind_many_others():
    birds = wrap(torch.nn.Identity(), host=False, reader="nearest", memory=Memory(2, 8, k=2))
    birds.learn(at(0, 20, 40, 60), ["a", "b", "c", "d"])
    found = birds.predict_proba(at(0)[0], among=["c", "d"])
    assert found.values.argmax() == 0 and found.values.sum() == pytest.approx(1)


def test_below_the_threshold_the_answer_is_unknown_among_some_too():
    birds = bare(reader="nearest")
    birds.learn(at(0, 90), ["kea", "tui"])
    birds.threshold.fill_(0.9)
    assert birds.predict(at(2), among=["kea"]) == ["kea"]
    assert birds.predict(at(2), among=["tui"]) == ["unknown"]
    assert birds.predict(at(2), among=[]) == ["unknown"]
    assert birds.predict_proba(at(2), among=[]).values.shape == (1, 0)


def test_a_class_that_is_not_known_and_a_bare_text_are_refused():
    birds = bare()
    birds.learn(at(0, 90), ["kea", "tui"])
    with pytest.raises(ValueError, match="'weka' is not known here; known: 'kea', 'tui'"):
        birds.predict(at(0), among=["kea", "weka"])
    with pytest.raises(ValueError, match="among must be a list of classes, not 'kea'"):
        birds.predict(at(0), among="kea")
