"""After forgetting nothing remains: no answer, no explanation, no file."""

import pytest
import torch
from classifiers import at, bare, everything, hosted


def birds():
    classifier = bare()
    classifier.learn(at(0, 90, 180), ["kea", "weka", "kea"], ["k1.png", "w.png", "k2.png"])
    return classifier


def examples(classifier):
    return {(one.label, one.refs) for one in classifier.examples()}


@pytest.mark.parametrize("through", ["the classifier", "its memory"])
def test_after_forgetting_a_class_nothing_of_it_remains(tmp_path, through):
    classifier = birds()
    others = classifier.explain(at(90)[0], k=1)
    if through == "the classifier":
        assert classifier.forget("kea") == 2
    else:
        classifier.memory.forget(labels=0)
        with pytest.raises(ValueError, match="'kea' is not known here; known: 'weka'"):
            classifier.forget("kea")
        with pytest.raises(ValueError, match=r"has the ref .k1\.png."):
            classifier.forget_refs("k1.png")
    assert classifier.classes == ["weka"] and examples(classifier) == {("weka", ("w.png",))}
    assert classifier.predict(at(0, 90, 180)) == ["weka"] * 3
    assert [len(row) for row in classifier.explain(at(0, 180))] == [1, 1]
    assert classifier.explain(at(90)[0], k=1) == others
    assert classifier.memory.keys.any(1).sum() == 1
    classifier.save(tmp_path / "birds.safetensors")
    for stored in ((tmp_path / "birds.safetensors").read_bytes(), everything(classifier)[-1]):
        assert b"weka" in stored and b"w.png" in stored
        assert b"kea" not in stored.replace(b"weka", b"") and b"k1" not in stored
        assert b"k2.png" not in stored


def test_a_resize_says_which_labels_have_no_example_any_more():
    classifier = bare()
    labels = ["kea", "weka", "kea", "tui", "kiwi"]
    for image, label in zip(at(0, 90, 180, 270, 300), labels, strict=True):
        classifier.learn(image, label)
    assert classifier.resize(4) == [] and classifier.resize(9) == []
    assert classifier.resize(3) == ["weka"] and classifier.classes == ["kea", "tui", "kiwi"]
    assert classifier.resize(1) == ["kea", "tui"] and classifier.classes == ["kiwi"]
    assert bare().resize(1) == []


def test_a_resize_says_which_classes_of_the_host_have_no_example_any_more():
    classifier = hosted(5 * at(0, 120), classes=["kea", "weka"])
    classifier.learn(at(0), ["kea"])
    classifier.learn(at(60), ["tui"])
    assert classifier.resize(1) == ["kea"] and classifier.classes == ["kea", "weka", "tui"]


def test_several_classes_are_forgotten_at_once():
    classifier = birds()
    assert classifier.forget("kea", "weka") == 3
    assert classifier.classes == [] and len(classifier.memory) == 0


def test_a_forgotten_class_can_be_learnt_again():
    classifier = birds()
    classifier.forget("kea")
    classifier.learn(at(270), ["kea"])
    assert classifier.predict(at(80, 270)) == ["weka", "kea"]
    assert classifier.classes == ["weka", "kea"]


def test_a_forgotten_class_of_the_host_is_never_predicted():
    classifier = hosted(5 * at(0, 120, 240), classes=["kea", "weka", "kiwi"])
    assert classifier.predict(at(0, 120)) == ["kea", "weka"]
    weights = classifier.model[1].weight.clone()
    assert classifier.forget("kea") == 0
    assert classifier.predict(at(10, 120)) == ["weka", "weka"]
    assert classifier.classes == ["weka", "kiwi"]
    sums = classifier.predict_proba(at(0)).values.sum(1)
    torch.testing.assert_close(sums, torch.ones(1))
    assert torch.equal(weights, classifier.model[1].weight)
    classifier.forget("weka", "kiwi")
    assert classifier.classes == [] and classifier.predict(at(0)) == ["unknown"]
    classifier.learn(at(0), ["kea"])
    assert classifier.predict(at(0)) == ["kea"] and classifier.classes == ["kea"]
    # Only the memory is left to answer, however far away its examples are.
    classifier.learn(at(60), ["moa"])
    assert classifier.predict(at(150)) == ["moa"]


def test_accuracy_on_the_others_does_not_fall():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(20, 2, generator=generator)
    inputs = directions + 0.05 * torch.randn(20, 2, generator=generator)
    classifier = bare(memory_size=40)
    classifier.learn(directions, range(20))
    before = [answer == label for label, answer in enumerate(classifier.predict(inputs))]
    classifier.forget(*range(10))
    after = [answer == label for label, answer in enumerate(classifier.predict(inputs))]
    assert all(now >= then for now, then in zip(after[10:], before[10:], strict=True))


def test_forgetting_what_is_not_known_forgets_nothing():
    classifier = birds()
    before = everything(classifier)
    with pytest.raises(ValueError, match="'keaa' is not known here; known: 'kea', 'weka'"):
        classifier.forget("kea", "keaa")
    with pytest.raises(ValueError, match=r"has the ref 'k3.png'"):
        classifier.forget_refs("k1.png", "k3.png")
    with classifier.memory.read_only():
        for forget in (lambda: classifier.forget("kea"), lambda: classifier.forget_refs("w.png")):
            with pytest.raises(RuntimeError, match="read-only"):
                forget()
    assert everything(classifier) == before


def test_an_example_is_forgotten_by_its_ref():
    classifier = birds()
    forgotten = classifier.forget_refs("k1.png", "w.png")
    assert forgotten.slots == 2 and forgotten.beside == []
    assert examples(classifier) == {("kea", ("k2.png",))}
    assert classifier.explain(at(0)[0])[0].ref == "k2.png"


def test_an_average_goes_with_the_example_that_is_in_it():
    classifier = birds()
    classifier.learn(at(5)[0], "kea", "k3.png")
    forgotten = classifier.forget_refs("k3.png")
    assert forgotten.slots == 1 and forgotten.beside == ["k1.png"]
    assert examples(classifier) == {("weka", ("w.png",)), ("kea", ("k2.png",))}
    assert all(classifier.memory.state.occupied[one.slot] for one in classifier.examples())


def test_what_is_done_in_a_snapshot_is_undone_after_it():
    classifier = hosted(torch.eye(2), classes=["a", "b"])
    classifier.learn(at(0), ["kea"], ["1.png"])
    before = everything(classifier)
    with pytest.raises(KeyError), classifier.snapshot():
        classifier.learn(at(90), ["weka"], ["2.png"])
        classifier.forget("kea", "a")
        classifier.fit_threshold(unknown=at(50), false_accept_rate=0.5)
        classifier.calibrate(at(80), ["weka"])
        assert everything(classifier) != before
        raise KeyError
    assert everything(classifier) == before and classifier.classes == ["a", "b", "kea"]
