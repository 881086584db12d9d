"""What can be done by hand with a memory of drawings."""

import json

import pytest
import torch
from hands import LETTERS, as_path, letter, scribble
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap
from rarememory.play.session import LONGEST_NAME, SLOTS, UNDOABLE, Session
from rarememory.play.unknown import measured

NAMES = list(LETTERS)


def drawn(name, seed=0):
    return as_path(letter(name, seed))


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "letters.safetensors")


@pytest.fixture
def learnt(session):
    for name in NAMES[:3]:
        session.learn(drawn(name), name)
    return session


def known(session):
    return {one["label"]: one["drawings"] for one in session.state()["classes"]}


def test_an_empty_session_knows_nothing_and_says_so(session):
    answer = session.ask(drawn("L"))
    assert answer["label"] is None and answer["because"] == []
    state = session.state()
    assert state["classes"] == [] and state["undo"] is None and state["saved"]
    # JSON has no infinity.
    json.dumps([answer, state], allow_nan=False)


@pytest.mark.parametrize("count", [1, 2, len(NAMES)])
def test_from_the_first_drawing_on_it_knows_what_it_knows_and_no_more(session, count):
    for name in NAMES[:count]:
        session.learn(drawn(name), name)
    for seed in range(1, 5):
        for name in NAMES:
            expected = name if name in NAMES[:count] else None
            assert session.ask(drawn(name, seed))["label"] == expected
        assert session.ask(as_path(scribble(seed)))["label"] is None


def test_an_answer_shows_the_drawings_it_rests_on_the_nearest_first(learnt):
    because = learnt.ask(drawn("T", 1), k=2)["because"]
    assert because[0]["label"] == "T" and len(because) == 2
    assert because[0]["drawings"] == [drawn("T")] and because[0]["files"] == []
    assert because[0]["score"] > 0.9 > because[1]["score"]


def test_asking_changes_nothing(learnt):
    before = learnt.state()
    learnt.ask(drawn("T", 1))
    assert learnt.state() == before


def test_every_drawing_keeps_a_slot_of_its_own(learnt):
    learnt.learn(drawn("L", 1), "L")
    assert known(learnt)["L"] == [drawn("L"), drawn("L", 1)]
    assert [one["label"] for one in learnt.ask(drawn("L", 2))["because"]][:2] == ["L", "L"]


def test_whatever_was_done_can_be_taken_back_step_by_step(learnt):
    learnt.save()
    states = [known(learnt)]
    lines = [learnt.ask(drawn("L"))["threshold"]]
    for act in (
        lambda: learnt.learn(drawn("Z"), "Z"),
        lambda: learnt.forget("L"),
        learnt.load,
        lambda: learnt.learn(drawn("L", 1), "L"),
    ):
        act()
        states.append(known(learnt))
        lines.append(learnt.ask(drawn("L"))["threshold"])
    assert "L" not in states[2] and "Z" not in states[3]
    for what in ("learn L", "load", "forget L", "learn Z"):
        states.pop(), lines.pop()
        assert learnt.state()["undo"] == what
        assert learnt.undo() == f"took back: {what}"
        assert known(learnt) == states[-1]
        assert learnt.ask(drawn("L"))["threshold"] == lines[-1]
    assert learnt.state()["undo"] == "learn V"


def test_the_encoder_is_not_copied_to_take_something_back(learnt):
    eyes = learnt._eyes
    learnt.undo()
    assert learnt._classifier.model is eyes
    assert all(before.model is eyes for _, before in learnt._before)


def test_the_latest_steps_can_be_taken_back_and_no_more(session):
    for seed in range(UNDOABLE + 2):
        session.learn(drawn("L", seed), "L")
    for _ in range(UNDOABLE):
        session.undo()
    assert len(known(session)["L"]) == 2
    with pytest.raises(ValueError, match="nothing to take back"):
        session.undo()


def test_saved_and_loaded_it_shows_the_same_drawings(learnt):
    assert not learnt.state()["saved"] and not learnt.state()["on_disk"]
    assert learnt.save() == f"saved to {learnt.file}"
    assert learnt.state()["saved"] and learnt.state()["on_disk"]
    again = Session(learnt.file)
    assert known(again) == known(learnt) and again.state()["saved"]
    assert again.ask(drawn("T", 1)) == learnt.ask(drawn("T", 1))
    learnt.forget("T")
    assert not learnt.state()["saved"]
    learnt.load()
    assert known(learnt) == known(again) and learnt.state()["saved"]


def test_nothing_of_a_forgotten_class_is_in_the_file(learnt):
    learnt.save()
    content = learnt.file.read_bytes()
    assert drawn("T").encode() in content
    assert learnt.forget("T") == "forgot T"
    assert learnt.ask(drawn("T", 1))["label"] is None
    learnt.save()
    assert drawn("T").encode() not in learnt.file.read_bytes()
    assert drawn("L").encode() in learnt.file.read_bytes()


def test_another_program_may_forget_a_class_and_its_drawings_too(learnt):
    learnt.save()
    classifier = MemoryClassifier.load(learnt.file, None)
    assert classifier.about["encoder"] == "omniglot" and classifier.doctor().well
    classifier.forget("T")
    classifier.save(learnt.file)
    assert drawn("T").encode() not in learnt.file.read_bytes()
    assert list(known(Session(learnt.file))) == ["L", "V"]


def test_the_line_rises_as_more_is_remembered_and_falls_as_it_is_forgotten(session):
    lines = []
    for name in NAMES:
        session.learn(drawn(name), name)
        lines.append(session.ask(drawn("L"))["threshold"])
    assert lines == sorted(lines) and lines[0] == pytest.approx(0.46) and lines[-1] < 0.6
    for name in NAMES[1:]:
        session.forget(name)
    assert session.ask(drawn("L"))["threshold"] == pytest.approx(lines[0])


def test_classes_that_look_alike_raise_the_line(session):
    for seed in range(12):
        session.learn(drawn("L", seed), f"L{seed}")
    assert session.ask(drawn("L"))["threshold"] > measured(12) + 0.1


def test_a_full_memory_says_what_it_gave_up(session, monkeypatch):
    session.learn(drawn("L"), "L")
    session._classifier.resize(2)
    session.learn(drawn("T"), "T")
    said = session.learn(drawn("V"), "V")
    assert said == "learnt V; the memory was full, and gave up its oldest drawing, a L"
    assert set(known(session)) == {"T", "V"} and SLOTS == 1024


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "it has no name yet"),
        (" \t\n", "it has no name yet"),
        ("a novel " * 100, f"at most {LONGEST_NAME} characters, and this one has 799"),
        ("a\0b", "characters that can be seen"),
        ("a\u202eb", "characters that can be seen"),
        ("Unknown", "choose another name"),
    ],
)
def test_a_bad_name_is_refused_in_a_sentence_and_nothing_is_learnt(learnt, name, sentence):
    before = learnt.state()
    with pytest.raises(ValueError, match=sentence):
        learnt.learn(drawn("Z"), name)
    assert learnt.state() == before


def test_a_name_may_be_markup_or_of_any_alphabet_and_is_kept_as_text(learnt):
    for name in ("<b>bold</b>", "ᚠ ᚢ", "日本", "'; DROP TABLE"):
        assert learnt.learn(drawn("Z"), f"  {name} ") == f"learnt {name}"
        assert name in known(learnt)


def test_a_bad_drawing_is_refused_and_nothing_is_learnt(learnt):
    before = learnt.state()
    for path in ("", "M1", "nonsense"):
        with pytest.raises(ValueError, match=r"drawing|paper"):
            learnt.learn(path, "Z")
        with pytest.raises(ValueError, match=r"drawing|paper"):
            learnt.ask(path)
    assert learnt.state() == before


def test_what_is_not_known_cannot_be_forgotten(learnt):
    before = learnt.state()
    with pytest.raises(ValueError, match="'kea' is not known"):
        learnt.forget("kea")
    assert learnt.state() == before


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


def test_there_is_nothing_to_load_before_it_is_saved(session):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        session.load()


def test_what_was_learnt_from_files_or_named_by_numbers_can_be_shown_asked_and_forgotten(learnt):
    classifier = learnt._classifier
    classifier.learn(torch.rand(2, 1, 28, 28), [7, "ring"], ["a/1.png", None])
    by_label = {one["label"]: one for one in learnt.state()["classes"]}
    assert by_label["7"]["files"] == ["a/1.png"] and by_label["7"]["drawings"] == []
    assert by_label["ring"]["slots"] == 1 and by_label["ring"]["files"] == []
    learnt.learn(drawn("Z"), "7")
    assert len(learnt.state()["classes"]) == 5
    learnt.forget("7")
    assert "7" not in known(learnt)
