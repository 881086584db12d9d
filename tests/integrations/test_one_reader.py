"""One reader: `wrap`, files, the estimator of scikit-learn and the command line say the same.

They are given the same examples: labels are equal, probabilities and thresholds to 1e-6.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rarememory
from rarememory import MemoryClassifier
from rarememory.classifier.discriminant import Discriminant
from rarememory.classifier.kernel import KernelDiscriminant
from rarememory.classifier.one_shot import OneShotDistances
from tests.classifier.lengths import discriminant, rings
from tests.classifier.made_classes import world

RATE = 0.1


def straight(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Classes along one direction, at different distances."""
    labels = torch.arange(count) % 4
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return (1 + labels.unsqueeze(1)) * torch.tensor([1.0, 2.0, 0.5]) + 0.02 * noise, labels


# Examples, questions, and the form of the reader that answers.
TABLES = {
    "class means": (world([6] * 8, spread=0.6), world([9] * 8, spread=0.6), Discriminant),
    "all examples": (rings(0), rings(1), KernelDiscriminant),
    "one of each": (straight(4, 0), straight(20, 1), OneShotDistances),
    "one of each, by cosines": (world([1] * 8), world([5] * 8, spread=0.6), Discriminant),
}


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def same_explanations(one: MemoryClassifier, other: MemoryClassifier, questions: Tensor) -> None:
    for ours, theirs in zip(one.explain(questions), other.explain(questions), strict=True):
        assert [(e.label, e.refs, e.slot, e.age) for e in ours] == [
            (e.label, e.refs, e.slot, e.age) for e in theirs
        ]
        close([(e.score, e.weight) for e in ours], [(e.score, e.weight) for e in theirs])


@pytest.mark.parametrize("table", TABLES)
def test_files_and_checkpoints_say_what_wrap_says(table: str, tmp_path: Path) -> None:
    (rows, numbers), (questions, _), form = TABLES[table]
    classifier = rarememory.wrap(nn.Identity(), host=False)
    classifier.learn(rows, [f"class {number}" for number in numbers.tolist()], range(len(rows)))
    threshold = classifier.fit_threshold(false_accept_rate=RATE)
    assert type(discriminant(classifier)) is form
    classifier.save(tmp_path / "table.safetensors")
    copied = rarememory.wrap(nn.Identity(), host=False)
    copied.load_state_dict(classifier.state_dict())
    for again in (MemoryClassifier.load(tmp_path / "table.safetensors", nn.Identity()), copied):
        assert again.predict(questions) == classifier.predict(questions)
        assert again.classes == classifier.classes
        close(again.predict_proba(questions).values, classifier.predict_proba(questions).values)
        same_explanations(again, classifier, questions)
        assert again.threshold.item() == pytest.approx(float(threshold), rel=1e-6)
        assert again.fit_threshold(false_accept_rate=RATE) == pytest.approx(threshold, rel=1e-6)


@pytest.mark.parametrize("table", TABLES)
def test_the_estimator_says_what_wrap_says(table: str) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from rarememory.integrations.sklearn import MemoryNeighbors

    (rows, numbers), (questions, _), form = TABLES[table]
    labels = [f"class {number}" for number in numbers.tolist()]
    # In the doubles that scikit-learn computes with.
    classifier = rarememory.wrap(nn.Identity(), host=False).double()
    classifier.learn(rows.double(), labels)
    wanted, answers = classifier.predict_proba(questions), classifier.predict(questions)
    assert type(discriminant(classifier)) is form
    X, asked = rows.double().numpy(), questions.double().numpy()
    whole = MemoryNeighbors(scale=None, reader="fitted").fit(X, labels)
    parts = MemoryNeighbors(scale=None, reader="fitted")
    for start in range(0, len(X), 7):
        parts.partial_fit(X[start : start + 7], labels[start : start + 7]).predict(asked[:1])
    fresh = pickle.loads(pickle.dumps(whole))
    whole.predict(asked[:1])
    for estimator in (whole, parts, fresh, pickle.loads(pickle.dumps(whole))):
        assert estimator.classes_.tolist() == wanted.classes
        assert estimator.predict(asked).tolist() == answers
        close(estimator.predict_proba(asked), wanted.values)


def test_the_estimator_says_of_scaled_columns_what_wrap_says_of_them() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from rarememory.integrations.sklearn import MemoryNeighbors

    X, y = datasets.load_breast_cancer(return_X_y=True)
    estimator = MemoryNeighbors(reader="fitted").fit(X[:60], y[:60])
    assert (estimator.mean_ != 0).all() and (estimator.scale_ != 1).all()
    scaled = torch.from_numpy((X - estimator.mean_) / estimator.scale_)
    classifier = rarememory.wrap(nn.Identity(), host=False).double()
    classifier.learn(scaled[:60], y[:60])
    found = classifier.predict_proba(scaled[60:])
    close(estimator.predict_proba(X[60:])[:, found.classes], found.values)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures of three classes and one of other pictures, in the working folder."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    random = np.random.default_rng(0)
    patterns = random.integers(60, 190, size=(3, 6, 6, 3))
    for number in range(27):
        noise = random.normal(0, 30, size=(6, 6, 3))
        small = (patterns[number % 3] + noise).clip(0, 255).astype(np.uint8)
        name = f"learnt/class {number % 3}" if number < 15 else "asked"
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        large = image.fromarray(small).resize((240, 240), image.Resampling.NEAREST)
        large.save(tmp_path / name / f"{number:02}.png")
    noise = random.integers(0, 255, size=(240, 240, 3), dtype=np.uint8)
    image.fromarray(noise).save(tmp_path / "asked" / "noise.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_says_what_wrap_says(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("typer", "torchvision"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from torchvision import models
    from typer.testing import CliRunner

    from rarememory.commands.cli import app
    from rarememory.commands.encoders import encoder_by_name

    def output(*words: str) -> Any:
        ended = CliRunner().invoke(app, [*words, "--json"])
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout)

    # In place of a network with weights that would be downloaded.
    model = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(108, 5))
    monkeypatch.setattr(models, "get_model", lambda name, weights: model)
    output("learn", "learnt", "-m", "m.safetensors", "--far", str(RATE))
    asked = sorted(path.as_posix() for path in Path("asked").iterdir())
    answers = output("predict", *asked, "-m", "m.safetensors", "-k", "3")

    prepare, image = encoder_by_name("resnet18").prepare, pytest.importorskip("PIL.Image")
    learnt = sorted(Path("learnt").glob("*/*.png"))
    images, questions = (
        torch.stack([prepare(image.open(path)) for path in paths]) for paths in (learnt, asked)
    )
    classifier = rarememory.wrap(model, at="2", host=False)
    refs = [path.as_posix() for path in learnt]
    classifier.learn(images, [path.parent.name for path in learnt], refs)
    threshold = classifier.fit_threshold(false_accept_rate=RATE)
    assert isinstance(discriminant(classifier), Discriminant | KernelDiscriminant)
    file = MemoryClassifier.load("m.safetensors", model)
    for kept in (output("inspect", "m.safetensors")["threshold"], file.threshold.item()):
        assert kept == pytest.approx(threshold, rel=1e-6)
    close(file.predict_proba(questions).values, classifier.predict_proba(questions).values)

    labels = classifier.predict(questions)
    assert [one["label"] for one in answers] == labels
    assert {*labels} == {*classifier.classes, "unknown"}
    sure = [one for one in answers if one["label"] != "unknown"]
    known = [place for place, label in enumerate(labels) if label != "unknown"]
    confidence = classifier.predict_proba(questions[known]).confidence
    assert confidence.min() < 1 - 1e-4
    close([one["confidence"] for one in sure], confidence)
    for one, found in zip(answers, classifier.explain(questions, k=3), strict=True):
        because = [(part["label"], part["ref"]) for part in one["because"]]
        assert because == [(part.label, part.ref) for part in found]
        close([part["score"] for part in one["because"]], [part.score for part in found])
