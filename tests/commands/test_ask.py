"""`rarememory ask`, by a reader that is trained on drawn stories in the test."""

import json

import pytest

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory.commands import ask as command
from rarememory.commands.cli import app
from rarememory.readers import save_reader, train_on_stories

STORY = "Mary took the apple. Mary went to the kitchen. John went to the garden."


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A file of a reader, and its error on new stories."""
    trained, vocabulary, error = train_on_stories(stories=1500, epochs=16, restarts=2)
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    save_reader(path, trained, vocabulary)
    return path, error


def run(text, *words, code=0):
    result = CliRunner().invoke(app, ["ask", *map(str, words)], input=text)
    assert result.exit_code == code, result.output
    return result


def test_new_stories_are_answered(reader):
    assert reader[1] < 0.08


def test_the_apple_is_found_and_the_sentences_that_say_so_are_shown(reader):
    path, _ = reader
    answer = json.loads(run(f"{STORY} Where is the apple?", "--reader", path, "--json").stdout)
    assert answer["answer"] == "kitchen"
    assert answer["sentences"] == [f"{one}." for one in STORY.rstrip(".").split(". ")]
    assert len(answer["attention"]) == 3
    # The two sentences that the answer rests on have more weight than the other in every hop.
    for hop in answer["attention"]:
        assert max(hop[:2]) > hop[2]
    text = run(f"{STORY}\nWhere is the apple?\n", "--reader", path).stdout
    assert "kitchen (" in text
    assert "hop 3" in text
    assert "█" in text


def test_an_empty_line_begins_a_new_story(reader):
    path, _ = reader
    text = f"{STORY}\n\nJohn went to the office.\nWhere is John?\n"
    answer = json.loads(run(text, "--reader", path, "--json").stdout)
    assert answer["sentences"] == ["John went to the office."]
    assert answer["answer"] == "office"


def test_what_cannot_be_answered_is_said(reader):
    path, _ = reader
    wrong = run("Where is Mary?\n", "--reader", path, code=1)
    assert "the story of question 1 is empty" in wrong.output
    wrong = run(f"{STORY} Where is the ring?", "--reader", path, code=1)
    assert "the word 'ring' was not in training" in wrong.output
    wrong = run(f"{STORY} ?", "--reader", path, code=1)
    assert "there is no word in '?'" in wrong.output
    wrong = run(f"{STORY} Where is the apple", "--reader", path, code=1)
    assert 'nothing was asked: a question ends with "?"' in wrong.output
    assert "No such file" in run(STORY, "--reader", "nowhere", code=1).output


def test_a_story_longer_than_the_memory_is_read_from_its_end(reader):
    path, _ = reader
    text = "Mary went to the office. " * 25 + "Where is Mary?"
    result = run(text, "--reader", path)
    assert "the first 5 sentences are beyond its memory" in result.output


def test_without_a_reader_one_is_trained_once(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []

    def short(**options):
        calls.append(options)
        return train_on_stories(stories=60, epochs=1, restarts=1)

    monkeypatch.setattr(command, "train_on_stories", short)
    for _ in range(2):
        run(f"{STORY} Where is Mary?")
    assert len(calls) == 1
    assert (tmp_path / "runs" / "stories.safetensors").exists()
