"""`rarememory babi` on a small file of bAbI's form."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory.commands.babi import published_beside
from rarememory.commands.cli import app
from rarememory.data import StoryQuestion
from rarememory.readers import (
    MemN2N,
    Setup,
    Vocabulary,
    encode_questions,
    load_reader,
    save_reader,
)
from rarememory.readers.published import PUBLISHED

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
    (results,) = tmp_path.glob("babi_en_task1_*.json")
    assert f"results: {results}" in text.replace("\n", "")
    assert json.loads(results.read_text()) == report


def test_all_tasks_are_trained_jointly_and_the_reader_is_saved(data, tmp_path):
    saved = tmp_path / "reader.safetensors"
    options = ("--data", data, "--joint", "--epochs", 2, "--dim", 8, "--runs", tmp_path)
    report = json.loads(invoke(*options, "--save", saved, "--json").stdout)
    assert report["errors"].keys() == {"1", "2"}
    reader, vocabulary = load_reader(saved)
    assert reader.dim == 8
    assert "shop" in vocabulary
    assert (tmp_path / "babi_en_joint_3hops_d8_x1_seed0.json").exists()


def test_a_joint_reader_of_real_size_is_small_and_read_back_as_it_was(tmp_path):
    """177 words are those of all tasks of bAbI; the weights are rounded to half precision."""
    reader = MemN2N(178, 50, dim=50, sentence_length=12, empty_slots=True)
    vocabulary = Vocabulary([f"word{place}" for place in range(177)])
    save_reader(tmp_path / "reader.safetensors", reader, vocabulary)
    assert (tmp_path / "reader.safetensors").stat().st_size < 2e6
    again, words = load_reader(tmp_path / "reader.safetensors")
    assert words.words == vocabulary.words
    assert again.options == reader.options
    question = StoryQuestion(("word1 word2.", "word3."), "word4?", "word5")
    numbers = encode_questions([question], vocabulary, 50)
    torch.testing.assert_close(again(numbers).logits, reader(numbers).logits, rtol=0, atol=0.01)


def test_only_a_training_of_the_published_kind_is_printed_beside_it():
    joint, each = Setup.joint(), Setup.per_task()
    assert published_beside(joint, "en", joint=True).mean == 12.4
    assert published_beside(replace(joint, restarts=3), "en", joint=True).mean == 12.4
    assert published_beside(each, "en", joint=False).mean == 13.9
    assert published_beside(each, "en-10k", joint=False).mean == 6.6
    large = replace(each, dim=100, nonlinear=True)
    assert published_beside(large, "en-10k", joint=False).mean == 4.2
    assert published_beside(large, "en", joint=False) is None
    bare = replace(joint.recipe, linear_epochs=0)
    for change in ({"hops": 1}, {"tying": "layer-wise"}, {"encoding": "bag"}, {"recipe": bare}):
        assert published_beside(replace(joint, **change), "en", joint=True) is None
    for one in PUBLISHED.values():
        if one.errors:
            assert sum(one.errors) / 20 == pytest.approx(one.mean, abs=0.06)
            assert sum(error > 5 for error in one.errors) == one.failed


def test_the_linear_start_can_be_left_out_or_end_by_itself(data, tmp_path):
    options = ("--data", data, "--task", 1, "--restarts", 1, "--runs", tmp_path, "--json")
    report = json.loads(invoke(*options, "--epochs", 1, "--no-linear-start").stdout)
    # The paper's rate where there is no linear start.
    assert report["setup"]["recipe"]["learning_rate"] == 0.01
    assert report["trainings"][0]["epochs"] == 1
    report = json.loads(invoke(*options, "--epochs", 1, "--patience", 2).stdout)
    assert report["setup"]["recipe"]["validation_part"] == 0.1
    assert report["setup"]["recipe"]["learning_rate"] == 0.005
    assert report["setup"]["recipe"]["patience"] == 2


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
    for option in (("--joint",), ("--save", "x"), ("--restarts", 2), ("--patience", 2)):
        wrong = invoke("--data", data, "--model", "memnn", *option, code=1)
        assert f"{option[0]} is of memn2n, and not of memnn" in wrong.output
    (tmp_path / "babi_en_task1_3hops_d20_x2_seed0.pt").write_bytes(b"junk")
    words = ("--data", data, "--task", 1, "--restarts", 2, "--runs", tmp_path)
    assert "seed0.pt is no checkpoint: remove the file" in invoke(*words, code=1).output
    wrong = invoke("--data", data, "--save", tmp_path / "x", code=1)
    assert "--save keeps one reader, and 2 are trained: add --joint" in wrong.output
