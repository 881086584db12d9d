"""Stale keys: measured, and encoded again; and the loss that moves the encoder."""

import math

import pytest
import torch
from classifiers import at, everything
from torch import nn

from rarememory import FirstInFirstOut, Memory, MemoryClassifier, vote_loss


def turned(degrees):
    """An encoder that turns the plane."""
    encoder = nn.Linear(2, 2, bias=False)
    turn(encoder, degrees)
    return encoder


def turn(encoder, degrees):
    (cos, sin), *_ = at(degrees).tolist()
    encoder.weight.data.copy_(torch.tensor([[cos, -sin], [sin, cos]]))


def remembering(*angles, update=None):
    classifier = MemoryClassifier(turned(0), host=False, memory=Memory(2, 8, update=update))
    names = [f"{angle}" for angle in angles]
    classifier.learn(at(*angles), names, [f"{name}.png" for name in names])
    return classifier


def test_drift_says_how_far_the_encoder_has_moved_and_changes_nothing():
    classifier = remembering(0, 90, 200)
    loader = [(at(0, 90), ["0.png", "90.png"])]
    assert classifier.drift(loader).cosine == pytest.approx(1)
    turn(classifier.model, 30)
    before = everything(classifier)
    drift = classifier.drift(loader)
    assert drift.cosine == pytest.approx(math.cos(math.pi / 6)) == pytest.approx(drift.lowest)
    assert (drift.slots, drift.unmet) == (2, 1)
    assert everything(classifier) == before


def test_refreshing_makes_stale_keys_right_again():
    classifier = remembering(0, 90, 200)
    turn(classifier.model, 90)
    assert classifier.predict(at(0)) == ["90"]
    ages, values = classifier.memory.ages.clone(), classifier.memory.values.clone()
    drift = classifier.refresh([(at(0, 90), ["0.png", "90.png"]), (at(200), ["200"], ["200.png"])])
    assert drift.cosine == pytest.approx(0, abs=1e-6) and drift.slots == 3
    assert classifier.predict(at(0, 90, 200)) == ["0", "90", "200"]
    assert torch.equal(classifier.memory.ages, ages)
    assert torch.equal(classifier.memory.values, values)
    again = classifier.drift([(at(0, 90, 200), ["0.png", "90.png", "200.png"])])
    assert again.cosine == pytest.approx(1)


def test_a_slot_of_several_examples_gets_the_mean_of_those_that_are_met():
    classifier = remembering(0)
    classifier.learn(at(20), ["0"], ["20.png"])
    loader = [(at(0), ["0.png"]), (at(20, 99), ["20.png", "strange.png"])]
    drift = classifier.refresh(loader)
    assert drift.slots == 1 and drift.cosine == pytest.approx(1)
    torch.testing.assert_close(classifier.memory.keys[:1], at(10))
    classifier.refresh(loader[:1])
    torch.testing.assert_close(classifier.memory.keys[:1], at(0))


def test_an_example_in_two_slots_refreshes_both():
    classifier = remembering(0, update=FirstInFirstOut())
    classifier.learn(at(0), ["0"], ["0.png"])
    turn(classifier.model, 60)
    assert classifier.refresh([(at(0), ["0.png"])]).slots == 2
    torch.testing.assert_close(classifier.memory.keys[:2], at(60, 60))


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        # Labels where refs should be.
        ([(at(50), ["0"])], "no remembered example has a ref of this loader"),
        ([], "no remembered example has a ref of this loader"),
        ([at(0)], r"must yield \(inputs, refs\)"),
    ],
)
def test_a_loader_without_known_refs_is_refused(loader, said):
    classifier = remembering(0, 90)
    before = everything(classifier)
    with pytest.raises(ValueError, match=said):
        classifier.refresh(loader)
    turn(classifier.model, 60)
    with classifier.memory.read_only(), pytest.raises(RuntimeError, match="read-only"):
        classifier.refresh([(at(0), ["0.png"])])
    assert everything(classifier) == before


def test_what_is_not_met_stays_as_it_is():
    classifier = remembering(0, 90)
    turn(classifier.model, 60)
    drift = classifier.refresh([(at(0, 50), ["0.png", "strange.png"])])
    assert (drift.slots, drift.unmet) == (1, 1)
    keys = {one.label: classifier.memory.keys[one.slot] for one in classifier.explain(at(0)[0])}
    torch.testing.assert_close(torch.stack([keys["0"], keys["90"]]), at(60, 90))


def test_the_loss_is_margin_and_vote_together():
    classifier = remembering(0, 90)
    inputs, labels = at(40, 80), ["0", "90"]
    recall = classifier.memory(at(40, 80), torch.tensor([0, 1]))
    vote = classifier.memory(at(40, 80))
    wanted = recall.loss + vote_loss(vote.scores, vote.values, torch.tensor([0, 1]))
    torch.testing.assert_close(classifier.loss(inputs, labels).detach(), wanted)
    with pytest.raises(ValueError, match="2 examples, with 1 label:"):
        classifier.loss(inputs, ["0"])


def test_the_loss_trains_what_is_not_frozen_and_writes_nothing():
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    classifier = MemoryClassifier(model)
    classifier.learn(at(0, 90), ["kea", "weka"])
    before = everything(classifier)
    classifier.loss(at(45, 50, 10), ["kea", "weka", "kiwi"]).backward()
    assert model[0].weight.grad is None and model[2].weight.grad is None
    assert model[1].weight.grad.abs().sum() > 0
    assert everything(classifier) == before and classifier.classes == [0, 1, 2, "kea", "weka"]
    assert model.training


def test_fine_tuning_under_the_memory_brings_classes_apart():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4), nn.Linear(4, 2))
    classifier = MemoryClassifier(model, host=False, at="3")
    # The class is the sign of one number of six; the others are noise.
    inputs = torch.randn(400, 6)
    labels = (inputs[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    classifier.learn(inputs[:50], labels[:50])

    def accuracy():
        return (torch.tensor(classifier.predict(inputs[200:])) == labels[200:]).float().mean()

    before = accuracy()
    for _ in range(40):
        optimizer.zero_grad()
        classifier.loss(inputs[50:200], labels[50:200]).backward()
        optimizer.step()
        classifier.forget(0, 1)
        classifier.learn(inputs[:50], labels[:50])
    assert accuracy() > before + 0.15
