"""The line between known and unknown, on handwriting that the encoder has never seen."""

from pathlib import Path

import pytest
import torch
from hands import as_path, scribble

from rarememory import Memory, MemoryClassifier
from rarememory.backbones import omniglot_encoder, unseen_characters
from rarememory.data import read_omniglot
from rarememory.memory.updates import FirstInFirstOut
from rarememory.play.drawing import ink
from rarememory.play.unknown import draw_line, measured

ROOT = Path(__file__).resolve().parents[2]
PLACES = (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot")
OMNIGLOT = next((place for place in PLACES if place.is_dir()), PLACES[0])


def empty():
    memory = Memory(128, 64, update=FirstInFirstOut())
    return MemoryClassifier(omniglot_encoder(), host=False, memory=memory)


def test_what_is_remembered_decides_the_line_and_nothing_is_below_it():
    classifier = empty()
    assert draw_line(classifier) == -1.0 and classifier.threshold == -1.0
    assert classifier.predict(torch.rand(1, 1, 28, 28)) == ["unknown"]
    classifier.learn(torch.rand(1, 1, 28, 28), ["a"])
    assert draw_line(classifier) == measured(1) == pytest.approx(0.46)
    classifier.learn(torch.rand(1, 1, 28, 28), ["a"])
    # One class has no stranger to ask.
    assert draw_line(classifier) == measured(2)


def test_it_is_raised_by_what_looks_alike_and_never_lowered():
    alike, apart = empty(), empty()
    alike.learn(ink("M60 20L60 200L160 200").repeat(3, 1, 1, 1), ["a", "b", "c"])
    apart.learn(torch.stack([ink("M9 9"), ink("M9 9L99 9"), ink(as_path(scribble()))]), list("abc"))
    # Each is exactly the others: the line goes 3 / 23 of the way to a score of 1.
    assert draw_line(alike) == pytest.approx(measured(3) + (1 - measured(3)) * 3 / 23, abs=1e-5)
    assert draw_line(apart) == measured(3)


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="no Omniglot in data/ or ../shared/data/omniglot")
@pytest.mark.parametrize(("known", "rejected", "accepted"), [(1, 0.08, 0.08), (10, 0.15, 0.15)])
def test_it_errs_about_as_seldom_as_it_says(known, rejected, accepted):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    whole = read_omniglot(OMNIGLOT, progress=False)
    images = whole.characters.select(unseen_characters()).images.float().unsqueeze(2) / 255
    scribbles = torch.stack([ink(as_path(scribble(seed))) for seed in range(20)])
    generator = torch.Generator().manual_seed(0)
    taken = {"known": 0.0, "strangers": 0.0, "scribbles": 0.0}
    for _ in range(20):
        order = torch.randperm(len(images), generator=generator)
        some, others = order[:known], order[known : known + 20]
        classifier = empty()
        classifier.learn(images[some, 0], list(range(known)))
        draw_line(classifier)
        for name, asked in (
            ("known", images[some, 1:5].flatten(0, 1)),
            ("strangers", images[others, 5]),
            ("scribbles", scribbles),
        ):
            answers = classifier.predict(asked)
            taken[name] += sum(answer != "unknown" for answer in answers) / len(answers) / 20
    assert taken["known"] > 1 - rejected
    assert taken["strangers"] < accepted and taken["scribbles"] < 0.06
