import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("typer", reason="Typer is not installed")

from typer.testing import CliRunner

from rarememory import native
from rarememory.commands.cli import app
from rarememory.lookup import LOOKUPS, TorchLookup
from tests.sources import ROOT


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


BARE = """
import sys
for package in ("typer", "rich", "PIL", "torchvision"):
    sys.modules[package] = None
from rarememory_command import main
main()
"""


def run_bare(*words):
    """The program, where nothing is installed but what the package itself needs."""
    command = [sys.executable, "-c", BARE, *words]
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_runs_where_the_other_commands_do_not(info):
    ran = run_bare("info", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout).keys() == json.loads(info("--json")).keys()
    ran = run_bare("info")
    assert ran.returncode == 0 and "packages:\n  torch: " in ran.stdout, ran.stderr
    ran = run_bare("doctor", "birds.safetensors")
    assert ran.returncode == 1 and 'pip install "rarememory[cli]"' in ran.stderr
