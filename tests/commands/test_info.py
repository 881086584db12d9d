import json

import pytest
import torch

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory import native
from rarememory.commands.cli import app
from rarememory.lookup import LOOKUPS, TorchLookup


@pytest.fixture
def info():
    def run(*words):
        result = CliRunner().invoke(app, ["info", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_it_names_versions_lookups_and_instruction_sets(info):
    about = json.loads(info("--json"))
    assert torch.__version__.startswith(about["packages"]["torch"])
    assert list(about["lookups on the CPU"]) == list(LOOKUPS)
    assert about["lookups on the CPU"]["torch"] == about["lookups on the CPU"]["native"] == "ready"
    assert "keys are on cpu" in about["lookups on the CPU"]["triton"]
    assert about["instruction set in use"] == native.library().instruction_set
    assert about["instruction sets"][-1] == "baseline"
    assert any("omp" in path for path in about["OpenMP libraries loaded"])


def test_it_says_why_a_lookup_is_not_there(info, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(native, "_made", lambda: "switched off")
    monkeypatch.setattr(TorchLookup, "nearest", broken)
    about = json.loads(info("--json"))
    assert about["lookups on the CPU"]["native"] == "ImportError: switched off"
    assert about["lookups on the CPU"]["torch"] == "RuntimeError: out of order"
    assert about["instruction set in use"] == "switched off"


def test_it_prints_a_line_for_each_fact(info):
    lines = info().splitlines()
    assert f"instruction set in use: {native.library().instruction_set}" in lines
    assert f"  torch: {json.loads(info('--json'))['packages']['torch']}" in lines
