"""Averages of weights leave a classifier's memory out: labels and ages have no mean."""

import itertools

import pytest
import torch
from classifiers import everything
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from rarememory import MemoryClassifier, wrap
from rarememory.training.ema import AveragedWeights

INPUTS = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))


def learnt():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    classifier = wrap(model, memory_size=8)
    classifier.learn(INPUTS[:3], ["kea", "weka", "kea"], refs=["1.png", "2.png", "3.png"])
    return classifier


def of_state_dicts(average, classifier):
    """As timm's ModelEmaV2 does it."""
    for mean, value in zip(
        average.module.state_dict().values(), classifier.state_dict().values(), strict=True
    ):
        mean.copy_(0.5 * mean + 0.5 * value)


def of_floats(average, classifier):
    """As timm's ModelEmaV3 does it."""
    pairs = zip(average.module.state_dict().values(), classifier.state_dict().values(), strict=True)
    for mean, value in pairs:
        mean.lerp_(value, 0.5) if mean.is_floating_point() else mean.copy_(value)


def of_torch(average, classifier):
    average.update_parameters(classifier)


AVERAGES = {
    "mean": (lambda c: AveragedModel(c, use_buffers=True), of_torch),
    "mean of parameters": (AveragedModel, of_torch),
    "moving mean": (
        lambda c: AveragedModel(c, avg_fn=get_ema_avg_fn(0.5), use_buffers=True),
        of_torch,
    ),
    "moving mean of all at once": (
        lambda c: AveragedModel(c, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True),
        of_torch,
    ),
    "ours": (lambda c: AveragedWeights(c, 0.5), of_torch),
    "of state_dicts": (AveragedModel, of_state_dicts),
    "of the floats of state_dicts": (AveragedModel, of_floats),
}


def train(model):
    with torch.no_grad():
        for weight in itertools.chain(model.parameters(), [model[1].running_mean]):
            weight += 0.1


@pytest.mark.parametrize(("make", "update"), AVERAGES.values(), ids=AVERAGES)
def test_a_memory_is_left_out_of_an_average(make, update):
    classifier = learnt()
    average = make(classifier)
    averaged: MemoryClassifier = average.module
    before = everything(averaged)
    for step in range(3):
        train(classifier.model)
        classifier.learn(INPUTS[3 + step], f"new {step}", f"{step}.png")
        with torch.no_grad():
            update(average, classifier)
        assert everything(averaged) == before
    assert not torch.equal(averaged.model[0].weight, classifier.model[0].weight)
    assert averaged.classes == [0, 1, 2, "kea", "weka"]
    assert averaged.predict(INPUTS).count("unknown") == 0
    assert classifier.classes[-1] == "new 2" and len(classifier.memory) == 6
    # How the memory comes along: learnt again, or loaded and encoded again.
    averaged.load_state_dict({**averaged.state_dict(), **own_state(classifier)})
    drift = averaged.refresh([(INPUTS, ["1.png", "2.png", "3.png", "0.png", "1.png", "2.png"])])
    assert averaged.classes == classifier.classes and drift.slots == 6


def own_state(classifier):
    return {n: part for n, part in classifier.state_dict().items() if "extractor" not in n}


def test_a_state_dict_is_a_copy_of_the_memory_and_the_model_itself():
    classifier = learnt()
    state = classifier.state_dict(prefix="birds.")
    for name, part in state.items():
        if name.startswith("birds.extractor."):
            own = classifier.get_parameter(name[6:]) if "weight" in name else None
            assert own is None or own.data_ptr() == part.data_ptr()
    before = everything(classifier)
    for name, part in state.items():
        if not name.startswith("birds.extractor."):
            part.fill_(7)
    assert everything(classifier) == before
    buffers = dict(classifier.named_buffers(prefix="birds"))
    assert buffers.keys() == {
        f"birds.extractor.model.1.{name}"
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert list(map(id, classifier.buffers())) == list(map(id, classifier.model.buffers()))


def test_books_of_different_length_have_states_of_one_shape():
    small, large = learnt(), learnt()
    large.learn(INPUTS, [f"a name {n}" for n in range(6)], refs=["a path " * 40] * 6)
    assert small.get_extra_state().shape == large.get_extra_state().shape
    large.about["remark"] = "a" * 70_000
    assert large.get_extra_state().shape > small.get_extra_state().shape
    small.set_extra_state(large.get_extra_state())
    assert small.about == large.about
