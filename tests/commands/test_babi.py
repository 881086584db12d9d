"""`rarememory babi` on a small file of bAbI's form."""

import json

import pytest

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory.commands.cli import app
from rarememory.readers import load_reader

STORY = """1 Ann went to the {0}.
2 Bob went to the {1}.
3 Where is {2}?\t{3}\t{4}
"""
PLACES = ("hall", "park", "shop")


@pytest.fixture
def data(tmp_path):
    """Two tasks of 80 questions: where is Ann or Bob?"""
    folder = tmp_path / "tasks_1-20_v1-2" / "en"
    folder.mkdir(parents=True)
    stories = []
    for i in range(80):
        ann, bob = PLACES[i % 3], PLACES[(i // 3) % 3]
        stories.append(STORY.format(ann, bob, *(("Ann", ann, 1) if i % 2 else ("Bob", bob, 2))))
    for task in ("qa1_single-supporting-fact", "qa2_two-supporting-facts"):
        for part in ("train", "test"):
            (folder / f"{task}_{part}.txt").write_text("".join(stories))
    return folder.parent


def invoke(*words, code=0):
    result = CliRunner().invoke(app, ["babi", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    return result


def test_a_task_is_trained_and_its_error_printed(data, tmp_path):
    options = ("--data", data, "--task", 1, "--epochs", 30, "--restarts", 3, "--runs", tmp_path)
    report = json.loads(invoke(*options, "--json").stdout)
    assert report["errors"] == {"1": 0.0}
    assert report["failed"] == 0
    (training,) = report["trainings"]
    assert len(training["restarts"]) == 3
    lowest = min(train for train, _ in training["restarts"])
    assert training["restarts"][training["chosen"]][0] == lowest
    # The second call finds the checkpoint, and trains no more.
    again = json.loads(invoke(*options, "--json").stdout)
    assert again["trainings"] == report["trainings"]
    text = invoke(*options).stdout
    assert "single-supporting-fact" in text
    assert "3 restarts each, chosen by training error" in text


def test_all_tasks_are_trained_jointly_and_the_reader_is_saved(data, tmp_path):
    saved = tmp_path / "reader.safetensors"
    options = ("--data", data, "--joint", "--epochs", 2, "--dim", 8, "--runs", tmp_path)
    report = json.loads(invoke(*options, "--save", saved, "--json").stdout)
    assert report["errors"].keys() == {"1", "2"}
    reader, vocabulary = load_reader(saved)
    assert reader.dim == 8
    assert "shop" in vocabulary


def test_a_memory_network_is_trained_with_supporting_sentences(data, tmp_path):
    options = ("--data", data, "--model", "memnn", "--task", 1, "--runs", tmp_path)
    report = json.loads(invoke(*options, "--json").stdout)
    assert report["errors"] == {"1": 0.0}
    assert report["trainings"][0]["n_grams"] == 1
    again = json.loads(invoke(*options, "--json").stdout)
    assert again["trainings"] == report["trainings"]
    assert "mean of 1 tasks" in invoke(*options).stdout


def test_what_cannot_be_done_is_said(data, tmp_path):
    assert "bAbI has the tasks 1 to 20" in invoke("--data", data, "--task", 21, code=1).output
    wrong = invoke("--data", data, "--model", "lstm", code=1)
    assert "the model is memn2n or memnn, not 'lstm'" in wrong.output
    wrong = invoke("--data", data, "--save", tmp_path / "x", code=1)
    assert "--save keeps one reader, and 2 are trained: add --joint" in wrong.output
