"""The benchmark on bAbI, on two small tasks."""

import json

import pytest

from benchmarks.babi import __main__ as babi
from benchmarks.babi.speed import speed
from rarememory.data import read_babi

PLACES = ("hall", "park", "shop")


@pytest.fixture
def data(tmp_path):
    """Two tasks of 80 questions, in both sizes."""
    text = ""
    for i in range(80):
        ann, bob = PLACES[i % 3], PLACES[(i // 3) % 3]
        who, where, support = ("Ann", ann, 1) if i % 2 else ("Bob", bob, 2)
        text += f"1 Ann went to the {ann}.\n2 Bob went to the {bob}.\n"
        text += f"3 Where is {who}?\t{where}\t{support}\n"
    for size in ("en", "en-10k"):
        folder = tmp_path / "tasks_1-20_v1-2" / size
        folder.mkdir(parents=True)
        for task in ("qa1_single-supporting-fact", "qa2_two-supporting-facts"):
            for part in ("train", "test"):
                (folder / f"{task}_{part}.txt").write_text(text)
    return tmp_path / "tasks_1-20_v1-2"


def test_every_part_writes_the_figures_that_the_tables_print(data, tmp_path):
    short = ["--tasks", "1", "2", "--epochs", "2", "--restarts", "2", "--large-restarts", "2"]
    parts = [word for part in babi.PARTS if part != "speed" for word in ("--part", part)]
    words = ["--data", str(data), "--runs", str(tmp_path), *short, *parts]
    assert babi.main(words) == 0
    figures = {}
    for part in babi.PARTS:
        if part != "speed":
            result = json.loads((tmp_path / f"babi_{part}.json").read_text())
            assert "<bAbI>" in result["command"]
            figures |= result["figures"]
    assert 0 <= figures["babi.memn2n.en.joint.mean_error"] <= 100
    for key in ("en.joint", "en.per_task", "en10k.per_task", "en.hops1", "en.hops3"):
        errors = [figures[f"babi.memn2n.{key}.task{number}"] for number in (1, 2)]
        assert figures[f"babi.memn2n.{key}.failed"] == sum(error > 5 for error in errors)
    assert "babi.memn2n.en10k.per_task.mean_error_2" in figures
    assert figures["babi.memnn.en.mean_error"] <= 100


def test_batches_are_faster_than_one_question_at_a_time(data):
    figures = speed(read_babi(data, "en"), seconds=0.2)
    for kind in ("joint", "per_task"):
        for what in ("training", "answering"):
            assert figures[f"babi.speed.{kind}.{what}_speed_up"] > 3


def test_bAbI_must_be_named(capsys):
    assert babi.main([]) == 1
    assert "name its archive or folder with --data" in capsys.readouterr().err
