"""Settings of the reader, chosen by held-out examples; and what calibration leaves as it is."""

import pytest
import torch
from torch import nn

import rarememory
from rarememory.classifier.fitted_reader import FittedReader
from rarememory.classifier.nearest_reader import NearestReader
from rarememory.classifier.reader import Reader
from rarememory.classifier.tuning import best_reader
from tests.classifier.made_classes import world

SETTINGS = {"distances": 1.0, "shrinkage": 0.97, "penalty": 1e-4}


def wanting(reader: Reader) -> float:
    """The more of `SETTINGS` a reader has, the better."""
    return -sum(abs((reader.settings[name] or 0) - value) for name, value in SETTINGS.items())


def test_each_setting_is_the_one_of_the_greatest_merit() -> None:
    assert best_reader(FittedReader(), wanting).settings == SETTINGS
    assert best_reader(FittedReader(), lambda reader: 0.0).settings == FittedReader().settings
    assert isinstance(best_reader(NearestReader(), lambda reader: 0.0), NearestReader)
    with pytest.raises(ValueError, match="'nearest' has no settings, so not \\['penalty'\\]"):
        NearestReader().having(penalty=1.0)


def test_how_examples_are_compared_is_changed_only_by_more_than_an_error() -> None:
    for gain, changed in ((0.04, False), (0.06, True)):

        def merit(reader: Reader, gain: float = gain) -> float:
            return 0.5 + gain * bool(reader.settings["distances"])

        found = best_reader(FittedReader(), merit, lambda share: share / 10)
        assert found.settings["distances"] == (1.0 if changed else None)
    # Of others by any.
    found = best_reader(FittedReader(), lambda one: 0.5 - one.settings["penalty"], lambda _: 9.0)
    assert found.settings["penalty"] < FittedReader().settings["penalty"]


def calibrated(objective: str | None = None) -> tuple[rarememory.MemoryClassifier, torch.Tensor]:
    """Taught by two examples a class, too few to find the shrinkage by."""
    keys, labels = world([2] * 12, spread=0.8)
    held_out, right = world([25] * 12, spread=0.8, seed=0)
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(keys, labels.tolist())
    classifier.calibrate(held_out, right.tolist(), objective=objective)
    return classifier, held_out


def test_held_out_examples_are_answered_better_by_what_is_chosen() -> None:
    classifier, held_out = calibrated()
    _, right = world([25] * 12, spread=0.8)
    tuned = torch.tensor(classifier.predict(held_out)) == right
    assert classifier.reader.settings != FittedReader().settings
    classifier.reader = FittedReader()
    untuned = torch.tensor(classifier.predict(held_out)) == right
    assert tuned.sum() > untuned.sum()


def test_the_objective_likelihood_chooses_by_it() -> None:
    losses = {}
    for objective in ("likelihood", "accuracy"):
        classifier, held_out = calibrated(objective)
        _, right = world([25] * 12, spread=0.8)
        p = classifier.predict_proba(held_out).values.gather(1, right.unsqueeze(1))
        losses[objective] = -p.clamp(min=1e-12).log().mean().item()
    assert losses["likelihood"] <= losses["accuracy"] + 1e-3


def test_settings_are_saved_and_a_snapshot_undoes_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    classifier, held_out = calibrated()
    settings, wanted = classifier.reader.settings, classifier.predict_proba(held_out).values
    classifier.save(tmp_path / "birds.safetensors")
    loaded = rarememory.MemoryClassifier.load(tmp_path / "birds.safetensors", classifier.model)
    other = rarememory.wrap(nn.Identity(), host=False)
    other.load_state_dict(classifier.state_dict())
    for one in (loaded, other):
        assert one.reader.settings == settings
        assert torch.equal(one.predict_proba(held_out).values, wanted)
    fresh = rarememory.wrap(nn.Identity(), host=False)
    fresh.learn(*(part[:24].tolist() if part.dim() == 1 else part[:24] for part in world([2] * 12)))
    with fresh.snapshot():
        fresh.reader = FittedReader().having(penalty=1.0)
    assert fresh.reader.settings == FittedReader().settings


def test_a_host_score_that_the_reader_finds_follows_the_memory_after_calibration() -> None:
    keys, labels = world([8] * 8, spread=0.6)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 4))
    classifier = rarememory.wrap(model, memory_size=256)
    new = labels >= 4
    classifier.learn(keys[new], labels[new].tolist())
    classifier.calibrate(keys + 0.05, labels.tolist())
    before = classifier.blend_weights.host_score
    classifier.learn(*(part[32:48] for part in (world([8] * 8, seed=3)[0],)), ["more"] * 16)
    found = classifier.reader.host_score(classifier.memory, classifier.ensembler.host_ids)
    assert classifier.blend_weights.host_score.item() == pytest.approx(found)
    assert found != pytest.approx(before.item())
    given = rarememory.wrap(model, memory_size=256, host_score=3.0)
    given.learn(keys[new], labels[new].tolist())
    given.calibrate(keys + 0.05, labels.tolist())
    assert given.blend_weights.host_score.isfinite()


def test_a_class_that_was_forgotten_stays_so_while_calibrating() -> None:
    keys, labels = world([8] * 6, spread=0.6)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 4))
    with torch.no_grad():
        # The model is sure of its class 0, whatever it is asked.
        model[1].bias[0] += 50.0
    classifier = rarememory.wrap(model, memory_size=256)
    new = labels >= 4
    classifier.learn(keys[new], labels[new].tolist())
    classifier.forget(0)
    known = labels > 0
    report = classifier.calibrate(keys[known] + 0.05, labels[known].tolist())
    of_host = known & ~new
    alone = model(keys[of_host] + 0.05)[:, 1:].argmax(1) + 1
    assert report.base_alone == (alone == labels[of_host]).double().mean() > 0
    assert 0 not in classifier.predict(keys)
    answers = torch.tensor(classifier.predict(keys[known] + 0.05))
    assert report.new == (answers == labels[known])[labels[known] >= 4].double().mean()


def test_a_report_is_read_in_a_few_lines() -> None:
    keys, labels = world([6] * 6, spread=0.9)
    classifier = rarememory.wrap(nn.Sequential(nn.Identity(), nn.Linear(12, 4)), memory_size=256)
    classifier.learn(keys, labels.tolist())
    assert "points>" in repr(classifier.calibrate(keys + 0.05, labels.tolist()))
    assert len(repr(classifier.calibrate(keys + 0.05, labels.tolist()))) < 500


def test_the_model_is_called_once_for_inputs_without_labels() -> None:
    calls = []

    class Counting(nn.Identity):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            calls.append(len(inputs))
            return inputs

    keys, labels = world([6] * 6, spread=0.3)
    classifier = rarememory.wrap(Counting(), host=False)
    classifier.learn(keys, labels.tolist())
    given = classifier.fit_threshold(keys, labels.tolist(), false_accept_rate=0.1)
    calls.clear()
    assert classifier.fit_threshold(keys, false_accept_rate=0.1) == pytest.approx(float(given))
    assert calls == [36]


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_memory_that_projects_is_calibrated(reader: str) -> None:
    keys, labels = world([8] * 6, spread=0.9)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 4))
    classifier = rarememory.wrap(model, memory_size=256, reader=reader)
    classifier.whiten(keys, labels.tolist())
    classifier.learn(keys, labels.tolist())
    report = classifier.calibrate(keys + 0.3 * torch.randn_like(keys), labels.tolist())
    assert report.loss <= report.loss_before
