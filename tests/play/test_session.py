import json

import pytest
import torch
from drawings import CHARACTERS, as_path, character, scribble
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap
from rarememory.play.session import LONGEST_NAME, MAX_UNDO, SLOTS, Session
from rarememory.play.unknown import prior_threshold

NAMES = list(CHARACTERS)


def drawing(name, seed=0):
    return as_path(character(name, seed))


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "drawings.safetensors")


@pytest.fixture
def learnt(session):
    for name in NAMES[:3]:
        session.learn(drawing(name), name)
    return session


def drawings_of(session):
    """The drawings of every class."""
    return {one["label"]: one["drawings"] for one in session.state()["classes"]}


def threshold_of(session):
    return session.ask(drawing("L"))["threshold"]


def test_an_empty_session_answers_unknown(session):
    answer, state = session.ask(drawing("L")), session.state()
    assert answer["label"] is None and answer["because"] == []
    assert state["classes"] == [] and state["undo"] is None and state["saved"]
    # JSON has no infinity.
    json.dumps([answer, state], allow_nan=False)


@pytest.mark.parametrize("count", [1, 2, len(NAMES)])
def test_from_the_first_drawing_on_learnt_classes_are_known_and_others_unknown(session, count):
    for name in NAMES[:count]:
        session.learn(drawing(name), name)
    for seed in range(1, 5):
        for name in NAMES:
            expected = name if name in NAMES[:count] else None
            assert session.ask(drawing(name, seed))["label"] == expected
        assert session.ask(as_path(scribble(seed)))["label"] is None


def test_an_answer_lists_the_nearest_drawings_and_changes_nothing(learnt):
    before = learnt.state()
    because = learnt.ask(drawing("T", 1), k=2)["because"]
    assert because[0]["label"] == "T" and len(because) == 2
    assert because[0]["drawings"] == [drawing("T")] and because[0]["files"] == []
    assert because[0]["score"] > 0.9 > because[1]["score"]
    assert learnt.state() == before


def test_every_drawing_has_a_slot_of_its_own(learnt):
    learnt.learn(drawing("L", 1), "L")
    assert drawings_of(learnt)["L"] == [drawing("L"), drawing("L", 1)]
    assert [one["label"] for one in learnt.ask(drawing("L", 2))["because"]][:2] == ["L", "L"]


def test_changes_are_undone_step_by_step(learnt):
    learnt.save()
    states = [(drawings_of(learnt), threshold_of(learnt))]
    for change in (
        lambda: learnt.learn(drawing("Z"), "Z"),
        lambda: learnt.forget("L"),
        learnt.load,
        lambda: learnt.learn(drawing("L", 1), "L"),
    ):
        change()
        states.append((drawings_of(learnt), threshold_of(learnt)))
    assert "L" not in states[2][0] and "Z" not in states[3][0]
    for what in ("learn L", "load", "forget L", "learn Z"):
        states.pop()
        assert learnt.state()["undo"] == what
        assert learnt.undo() == f"undid: {what}"
        assert (drawings_of(learnt), threshold_of(learnt)) == states[-1]
    assert learnt.state()["undo"] == "learn V"


def test_the_history_shares_one_encoder(learnt):
    encoder = learnt._encoder
    assert all(before.model is encoder for _, before in learnt._history)
    learnt.undo()
    assert learnt._classifier.model is encoder


def test_the_latest_changes_can_be_undone_and_no_more(session, monkeypatch):
    monkeypatch.setattr("rarememory.play.session.MAX_UNDO", 3)
    assert MAX_UNDO == 50
    for seed in range(5):
        session.learn(drawing("L", seed), "L")
    for _ in range(3):
        session.undo()
    assert len(drawings_of(session)["L"]) == 2
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_a_saved_session_is_loaded_with_its_drawings(learnt):
    assert not learnt.state()["saved"] and not learnt.state()["on_disk"]
    assert learnt.save() == f"saved to {learnt.file}"
    assert learnt.state()["saved"] and learnt.state()["on_disk"]
    again = Session(learnt.file)
    assert drawings_of(again) == drawings_of(learnt) and again.state()["saved"]
    assert again.ask(drawing("T", 1)) == learnt.ask(drawing("T", 1))
    learnt.forget("T")
    assert not learnt.state()["saved"]
    learnt.load()
    assert drawings_of(learnt) == drawings_of(again) and learnt.state()["saved"]


def test_nothing_of_a_forgotten_class_is_in_the_file(learnt):
    learnt.save()
    assert drawing("T").encode() in learnt.file.read_bytes()
    assert learnt.forget("T") == "forgot T"
    assert learnt.ask(drawing("T", 1))["label"] is None
    learnt.save()
    content = learnt.file.read_bytes()
    assert drawing("T").encode() not in content and drawing("L").encode() in content


def test_another_program_can_forget_a_class_with_its_drawings(learnt):
    learnt.save()
    classifier = MemoryClassifier.load(learnt.file, None)
    assert classifier.about["encoder"] == "omniglot" and classifier.doctor().well
    classifier.forget("T")
    classifier.save(learnt.file)
    assert drawing("T").encode() not in learnt.file.read_bytes()
    assert list(drawings_of(Session(learnt.file))) == ["L", "V"]


def test_the_threshold_rises_with_every_class_and_falls_when_they_are_forgotten(session):
    thresholds = []
    for name in NAMES:
        session.learn(drawing(name), name)
        thresholds.append(threshold_of(session))
    assert thresholds == sorted(thresholds) and thresholds[-1] < 0.6
    for name in NAMES[1:]:
        session.forget(name)
    assert threshold_of(session) == pytest.approx(thresholds[0]) == pytest.approx(0.46)


def test_classes_that_look_alike_raise_the_threshold(session):
    for seed in range(12):
        session.learn(drawing("L", seed), f"L{seed}")
    assert threshold_of(session) > prior_threshold(12) + 0.1


def test_a_full_memory_names_the_drawing_that_it_lost(session):
    session.learn(drawing("L"), "L")
    session._classifier.resize(2)
    session.learn(drawing("T"), "T")
    sentence = session.learn(drawing("V"), "V")
    assert sentence == "learnt V; the memory was full and lost its oldest drawing, a L"
    assert set(drawings_of(session)) == {"T", "V"} and SLOTS == 1024


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda it: it.learn(drawing("Z"), ""), "the name is empty"),
        (lambda it: it.learn(drawing("Z"), " \t\n"), "the name is empty"),
        (
            lambda it: it.learn(drawing("Z"), "a novel " * 100),
            f"at most {LONGEST_NAME} characters, and this one has 799",
        ),
        (lambda it: it.learn(drawing("Z"), "a\0b"), "visible characters"),
        (lambda it: it.learn(drawing("Z"), "a\u202eb"), "visible characters"),
        (lambda it: it.learn(drawing("Z"), "Unknown"), "choose another name"),
        (lambda it: it.learn("", "Z"), "the drawing is empty"),
        (lambda it: it.learn("M1", "Z"), "is no drawing"),
        (lambda it: it.ask(""), "the drawing is empty"),
        (lambda it: it.ask("nonsense"), "is no drawing"),
        (lambda it: it.forget("kea"), "'kea' is not known"),
    ],
)
def test_a_refused_action_changes_nothing(learnt, action, message):
    before = learnt.state()
    with pytest.raises(ValueError, match=message):
        action(learnt)
    assert learnt.state() == before


@pytest.mark.parametrize("name", ["<b>bold</b>", "ᚠ ᚢ", "日本", "'; DROP TABLE"])
def test_a_name_may_be_any_text(learnt, name):
    assert learnt.learn(drawing("Z"), f"  {name} ") == f"learnt {name}"
    assert name in drawings_of(learnt)


def test_a_file_of_another_encoder_is_refused_and_changes_nothing(learnt):
    other = wrap(nn.Linear(128, 128), host=False, memory=Memory(128, 8))
    other.learn(torch.eye(128)[:1], ["a"])
    other.about["encoder"] = "resnet18"
    other.save(learnt.file)
    before = learnt.state()
    with pytest.raises(ValueError, match="learnt with the encoder resnet18"):
        learnt.load()
    with pytest.raises(ValueError, match="choose another file with --memory"):
        Session(learnt.file)
    assert learnt.state() == before


def test_a_missing_file_cannot_be_loaded(session):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        session.load()


def test_examples_learnt_from_files_and_labels_that_are_numbers_are_listed(learnt):
    classifier = learnt._classifier
    classifier.learn(torch.rand(2, 1, 28, 28), [7, "ring"], ["a/1.png", None])
    by_label = {one["label"]: one for one in learnt.state()["classes"]}
    assert by_label["7"]["files"] == ["a/1.png"] and by_label["7"]["drawings"] == []
    assert by_label["ring"]["slots"] == 1 and by_label["ring"]["files"] == []
    learnt.learn(drawing("Z"), "7")
    assert len(learnt.state()["classes"]) == 5
    learnt.forget("7")
    assert "7" not in drawings_of(learnt)
