"""The whole flow on handwriting: learn from one drawing, know, refuse, forget, save."""

import random

import pytest
import torch
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap
from rarememory.backbones import omniglot_encoder
from rarememory.data import folder_split
from tests.sources import omniglot


def share_of(wanted, answers):
    return sum(a == b for a, b in zip(wanted, answers, strict=True)) / len(wanted)


@pytest.fixture(scope="module")
def characters():
    # Shuffled, so that known and strange characters are of all alphabets alike.
    names = sorted(folder_split(omniglot()).test)
    return omniglot().characters.select(random.Random(0).sample(names, 400))


def drawings(characters, which, drawers):
    """Drawings as the encoder takes them, and the names of their characters."""
    images = characters.images[which][:, drawers].float() / 255
    names = [characters.names[i] for i in which for _ in drawers]
    return images.flatten(0, 1).unsqueeze(1), names


def test_characters_are_known_explained_and_refused(characters):
    known, strange = range(200), range(200, 400)
    classifier = wrap(omniglot_encoder(), host=False, memory=Memory(128, 400))
    inputs, names = drawings(characters, known, [0])
    classifier.learn(inputs, names, [f"{name}/01.png" for name in names])

    asked, right = drawings(characters, known, range(1, 4))
    assert share_of(right, classifier.predict(asked)) > 0.8
    nearest = [row[0].ref for row in classifier.explain(asked, k=1)]
    assert share_of([f"{name}/01.png" for name in right], nearest) > 0.8

    report = classifier.calibrate(*drawings(characters, known, [4, 5]))
    assert report.error < 0.05 and report.error <= report.error_before
    strangers = drawings(characters, strange, range(3))[0]
    for rate in (0.05, 0.1):
        classifier.fit_threshold(*drawings(characters, known, range(6, 9)), false_accept_rate=rate)
        accepted = 1 - share_of(["unknown"] * len(strangers), classifier.predict(strangers))
        assert rate / 2 < accepted < 2 * rate
        assert share_of(["unknown"] * len(asked), classifier.predict(asked)) < 0.6


def test_after_forgetting_and_saving_the_others_are_known_as_before(characters, tmp_path):
    classifier = wrap(omniglot_encoder(), host=False, memory=Memory(128, 100))
    inputs, names = drawings(characters, range(60), [0])
    classifier.learn(inputs, names)
    asked, right = drawings(characters, range(30, 60), range(1, 6))
    before = share_of(right, classifier.predict(asked))
    classifier.forget(*names[:30])
    assert share_of(right, classifier.predict(asked)) >= before
    classifier.save(tmp_path / "letters.safetensors")
    again = MemoryClassifier.load(tmp_path / "letters.safetensors", omniglot_encoder())
    assert again.predict(asked) == classifier.predict(asked)
    content = (tmp_path / "letters.safetensors").read_bytes()
    assert [name for name in names if name.encode() in content] == names[30:]


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_a_trained_classifier_learns_new_characters_and_keeps_its_own(characters, reader):
    base, new = range(50), range(50, 100)
    encoder = omniglot_encoder()
    model = nn.Sequential(encoder, nn.Linear(128, len(base)))
    inputs, names = drawings(characters, base, range(10))
    features = encoder(inputs).detach()
    labels = torch.tensor([characters.names.index(name) for name in names])
    optimizer = torch.optim.Adam(model[1].parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model[1](features), labels).backward()
        optimizer.step()

    def accuracy(classes):
        asked, right = drawings(characters, classes, range(15, 20))
        return share_of(right, classifier.predict(asked))

    classifier = wrap(model, classes=characters.names[:50], memory_size=600, reader=reader)
    alone = accuracy(base)
    classifier.learn(*drawings(characters, new, [0]))
    # What the host knows is remembered too; the nearest reader averages it into a slot or two.
    for drawer in range(10):
        classifier.learn(*drawings(characters, base, [drawer]))
    if reader == "nearest":
        report = classifier.calibrate(*drawings(characters, range(100), range(10, 15)), keep=0.005)
        assert report.base >= report.base_alone - 0.005
    assert classifier.classes == [*characters.names[:100]]
    assert accuracy(base) > alone - 0.03 and accuracy(new) > 0.93
