"""`rarememory lm` on a small text."""

import json

import pytest

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory.commands.cli import app


def test_a_text_file_is_learnt(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and the dog lay by the door\n" * 20)
    words = ["lm", str(path), "--epochs", "2", "--memory-size", "5", "--dim", "8"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["words"] == 11
    assert len(report["train"]) == len(report["validation"]) == 2
    text = CliRunner().invoke(app, words).stdout
    assert f"epoch 2: perplexity {report['train'][1]:.1f} in training" in text


def test_a_short_text_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("too short")
    result = CliRunner().invoke(app, ["lm", str(path)])
    assert result.exit_code == 1
    assert "is too short for a memory of 50 words" in result.output
