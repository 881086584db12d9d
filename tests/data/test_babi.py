"""Reading bAbI: what a file says, what is refused, and the real one where there is one."""

import io
import random
import tarfile

import pytest

from rarememory.data.babi import parse_babi, read_babi
from tests.sources import babi_folder

TEXT = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Who is in the hallway?\tJohn,Daniel\t2 4
1 Sandra took the apple.
2 Who has the apple?\tSandra\t1
"""


def test_a_story_is_the_sentences_before_the_question_without_the_questions():
    first, second, third = parse_babi(TEXT.splitlines())
    assert first.story == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert (first.question, first.answer, first.support) == ("Where is Mary?", "bathroom", (0,))
    assert second.story == (*first.story, "Daniel went back to the hallway.")
    # IDs count questions too; positions in the story do not.
    assert (second.answer, second.support) == ("john,daniel", (1, 2))
    assert third.story == ("Sandra took the apple.",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Mary moved.", "line 1 of f is not an ID and a text: 'Mary moved.'"),
        ("1 A.\n3 B.", "line 2 of f has the ID 3, not 1 or 2"),
        ("2 A.", "line 1 of f has the ID 2, not 1 or 1"),
        ("1 A.\n2 B?\tC\t2", r"line 2 of f rests on the sentence 2, .* have the IDs \[1\]"),
        ("1 A.\n2 B?\tC\tx", r"line 2 of f rests on the sentence x"),
        ("1 A.\n2 B?\t\t1", "line 2 of f is not a question, a tab, an answer"),
        ("1 A.\n2 B?\tC\t1\t1", "line 2 of f is not a question, a tab, an answer"),
        ("1 A.\n2 B? C 1", "line 2 of f is not a question, a tab, an answer"),
        ("1 A.\n2 B?\t", "line 2 of f is not a question, a tab, an answer"),
    ],
)
def test_a_malformed_line_is_refused_by_its_number(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(parse_babi(text.splitlines(), "f"))


def made(folder):
    for part in ("train", "test"):
        file = folder / "tasks_1-20_v1-2" / "en" / f"qa1_single-supporting-fact_{part}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TEXT)
    return folder / "tasks_1-20_v1-2"


def test_a_folder_an_archive_and_a_folder_of_archives_hold_the_same(tmp_path):
    folder = made(tmp_path / "unpacked")
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "babi.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    found = [read_babi(source) for source in (folder, packed / "babi.tar.gz", packed)]
    assert found[0] == found[1] == found[2]
    assert [(task.number, task.name) for task in found[0]] == [(1, "single-supporting-fact")]
    assert len(found[0][0].train) == 3


def test_what_is_missing_is_named(tmp_path):
    folder = made(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no bAbI of size 'en-10k'"):
        read_babi(folder, "en-10k")
    with pytest.raises(FileNotFoundError, match=r"has no file qa2_\*_train.txt"):
        read_babi(folder, tasks=[2])
    with pytest.raises(ValueError, match="bAbI has the tasks 1 to 20, and not 21"):
        read_babi(folder, tasks=[21])
    with pytest.raises(ValueError, match="the size of bAbI is en or en-10k, not 'hn'"):
        read_babi(folder, "hn")
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no archive of bAbI"):
        read_babi(tmp_path / "broken.tar.gz")


def test_a_question_may_have_no_support():
    (question,) = parse_babi(["1 A.", "2 B?\tC"])
    assert (question.answer, question.support) == ("c", ())


def test_damaged_files_are_refused_by_their_names(tmp_path):
    folder = made(tmp_path / "unpacked")
    digits = bytes(random.Random(0).choices(b"0123456789", k=300_000))
    packed = tmp_path / "babi.tar.xz"
    with tarfile.open(packed, "w:xz") as archive:
        other = tarfile.TarInfo("digits")
        other.size = len(digits)
        archive.addfile(other, io.BytesIO(digits))
        archive.add(folder, folder.name)
    damaged = bytearray(packed.read_bytes())
    damaged[60_000:60_100] = bytes(100)
    packed.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"babi.tar.xz' is no archive of bAbI: Corrupt"):
        read_babi(packed)
    train = folder / "en" / "qa1_single-supporting-fact_train.txt"
    train.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"fact_train.txt' is no text in UTF-8"):
        read_babi(folder)
    train.write_text("1 A.\n")
    with pytest.raises(ValueError, match=r"there is no question in qa1_single-supporting-fact_tra"):
        read_babi(folder)


def test_the_real_one_has_a_thousand_questions_a_part():
    tasks = read_babi(babi_folder(), "en")
    assert [task.number for task in tasks] == list(range(1, 21))
    assert {len(part) for task in tasks for part in (task.train, task.test)} == {1000}
    assert max(len(one.story) for task in tasks for one in task.test) > 50
