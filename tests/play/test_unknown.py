import pytest
import torch
from drawings import as_path, scribble

from rarememory import Memory, MemoryClassifier
from rarememory.backbones import omniglot_encoder, unseen_characters
from rarememory.memory.updates import FirstInFirstOut
from rarememory.play.drawing import ink
from rarememory.play.unknown import prior_threshold, set_threshold
from tests.sources import omniglot


def empty_classifier():
    memory = Memory(128, 64, update=FirstInFirstOut())
    return MemoryClassifier(omniglot_encoder(), host=False, memory=memory, reader="nearest")


def test_one_class_has_the_prior_threshold_and_an_empty_memory_minus_1():
    classifier = empty_classifier()
    assert set_threshold(classifier) == -1.0 and classifier.threshold == -1.0
    assert classifier.predict(torch.rand(1, 1, 28, 28)) == ["unknown"]
    classifier.learn(torch.rand(1, 1, 28, 28), ["a"])
    assert set_threshold(classifier) == prior_threshold(1) == pytest.approx(0.46)
    classifier.learn(torch.rand(1, 1, 28, 28), ["a"])
    assert set_threshold(classifier) == prior_threshold(2)


def test_similar_classes_raise_the_threshold_and_nothing_lowers_it():
    alike, apart = empty_classifier(), empty_classifier()
    alike.learn(ink("M60 20L60 200L160 200").repeat(3, 1, 1, 1), ["a", "b", "c"])
    apart.learn(torch.stack([ink("M9 9"), ink("M9 9L99 9"), ink(as_path(scribble()))]), list("abc"))
    # The drawings are equal: the threshold goes 3 / 23 of the way to a score of 1.
    prior = prior_threshold(3)
    assert set_threshold(alike) == pytest.approx(prior + (1 - prior) * 3 / 23, abs=1e-5)
    assert set_threshold(apart) == prior


@pytest.fixture(scope="module")
def unseen():
    """Characters that the shipped encoder was not trained on."""
    characters = omniglot().characters.select(unseen_characters())
    return characters.images.float().unsqueeze(2) / 255


@pytest.mark.parametrize(("known", "most"), [(1, 0.08), (10, 0.15)])
def test_error_rates_on_omniglot_are_about_those_documented(unseen, known, most):
    scribbles = torch.stack([ink(as_path(scribble(seed))) for seed in range(20)])
    generator = torch.Generator().manual_seed(0)
    accepted = {"known": 0.0, "others": 0.0, "scribbles": 0.0}
    for _ in range(20):
        order = torch.randperm(len(unseen), generator=generator)
        some, others = order[:known], order[known : known + 20]
        classifier = empty_classifier()
        classifier.learn(unseen[some, 0], list(range(known)))
        set_threshold(classifier)
        for name, queries in (
            ("known", unseen[some, 1:5].flatten(0, 1)),
            ("others", unseen[others, 5]),
            ("scribbles", scribbles),
        ):
            answers = classifier.predict(queries)
            accepted[name] += sum(answer != "unknown" for answer in answers) / len(answers) / 20
    assert accepted["known"] > 1 - most
    assert accepted["others"] < most and accepted["scribbles"] < 0.06
