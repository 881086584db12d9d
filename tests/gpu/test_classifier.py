"""A classifier whose model is on a GPU answers as one on a CPU does."""

import copy

import pytest
import torch
from torch import nn

import rarememory
from rarememory import MemoryClassifier

LABELS = ["kea", "kakapo", "weka"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
    ).eval()


def images(rows: int, seed: int = 1) -> tuple[torch.Tensor, list[str]]:
    """Noise around one picture for each class."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(3, 3, 8, 8, generator=generator)
    generator.manual_seed(seed)
    of = torch.arange(rows) % 3
    noise = torch.randn(rows, 3, 8, 8, generator=generator)
    return 2 * centres[of] + 0.5 * noise, [LABELS[n] for n in of]


def learned(device: str, host: bool) -> MemoryClassifier:
    classifier = rarememory.wrap(model().to(device), memory_size=64, host=host)
    inputs, labels = images(24)
    classifier.learn(inputs.to(device), labels, refs=list(range(24)))
    return classifier


@pytest.mark.parametrize("host", [True, False])
def test_it_answers_alike(host, device):
    mine, theirs = learned("cpu", host), learned(device, host)
    inputs, _ = images(12, seed=2)
    for rows in (1, 12):
        some = inputs[:rows]
        here, there = mine.predict_proba(some), theirs.predict_proba(some.to(device))
        assert mine.predict(some) == theirs.predict(some.to(device))
        assert here.classes == there.classes
        torch.testing.assert_close(here.values, there.values.cpu(), rtol=1e-3, atol=1e-3)
    assert mine.predict(inputs[0]) == theirs.predict(inputs[0].to(device))


def test_every_verb_runs_where_the_model_is(device, tmp_path):
    classifier = learned(device, host=True)
    inputs, labels = images(12, seed=3)
    there = inputs.to(device)
    assert len(classifier.explain(there, k=2)) == 12
    assert classifier.familiarity(there).shape == (12,)
    classifier.fit_threshold(there, labels, false_accept_rate=0.05)
    classifier.predict(there)
    classifier.calibrate(there, labels)
    classifier.doctor(there)
    classifier.protect("kea")
    with classifier.snapshot():
        classifier.learn(there, labels)
    loss = classifier.loss(there, labels)
    loss.backward()
    loader = [(images(24)[0].to(device), list(range(24)))]
    classifier.drift(loader)
    classifier.refresh(loader)
    classifier.resize(48)
    answers = classifier.predict(there)
    classifier.save(tmp_path / "birds.safetensors")
    for place in ("cpu", device):
        loaded = MemoryClassifier.load(tmp_path / "birds.safetensors", model().to(place))
        assert loaded.predict(inputs.to(place)) == answers
    assert classifier.forget("weka") > 0
    assert "weka" not in classifier.predict(there)
    classifier.forget_refs(0)


def test_it_moves_after_it_has_learnt(device):
    classifier = learned("cpu", host=True)
    inputs, _ = images(12, seed=4)
    answers = classifier.predict(inputs)
    moved = copy.deepcopy(classifier).to(device)
    assert moved.predict(inputs.to(device)) == answers
    moved.learn(inputs[:3].to(device), ["new"] * 3)
    # Or a class of its host, that was never trained.
    assert moved.cpu().predict(inputs[0]) in moved.classes and "new" in moved.classes


def test_tuning_runs_where_the_model_is(device):
    classifier = learned(device, host=True)
    inputs, labels = images(24)
    held_out, of_them = images(12, seed=6)
    held_out = (held_out.to(device), of_them)
    classifier.finetune(inputs.to(device), labels, held_out=held_out, epochs=2)
    assert len(classifier.predict(inputs.to(device))) == 24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype, device):
    inputs, labels = images(12, seed=5)
    classifier = learned(device, host=True)
    with torch.autocast(device, dtype if device == "cuda" else torch.bfloat16):
        found = classifier.predict(inputs.to(device))
        # Its host, that was never trained, has one.
        assert sum(one == label for one, label in zip(found, labels, strict=True)) >= 11
        classifier.learn(inputs[:3].to(device), labels[:3])
    half = rarememory.wrap(model().to(device, dtype), memory_size=64)
    half.learn(images(24)[0].to(device, dtype), images(24)[1])
    found = half.predict(inputs.to(device, dtype))
    assert sum(one == label for one, label in zip(found, labels, strict=True)) >= 11
    assert half.predict(inputs[0].to(device, dtype)) == labels[0]
