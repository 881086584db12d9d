"""The command that serves: it starts as the docs say, and ends where no worker can serve."""

import subprocess
import sys
from contextlib import closing

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="FastAPI is not installed")
from rarememory import Memory
from rarememory.commands.cli import app
from rarememory.serve import processes
from rarememory.store import wrap


@pytest.mark.parametrize(
    ("given", "used"), [(["--encoder", "omniglot"], ("omniglot", 0)), (["--width", "4"], (None, 4))]
)
def test_it_serves_images_or_features(given, used, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(processes, "serve", lambda service, *_: started.append(service))
    command = ["serve", "--store", f"sqlite:///{tmp_path}/birds.db", *given]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert (started[0].encoder, started[0].width) == used


@pytest.mark.parametrize("given", [[], ["--encoder", "omniglot", "--width", "4"]])
def test_either_images_or_features_have_to_be_named(given, tmp_path):
    command = ["serve", "--store", f"sqlite:///{tmp_path}/birds.db", *given]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 1 and "give either --encoder" in ended.output


def test_where_no_worker_can_serve_the_command_ends_and_says_why_once(tmp_path):
    url = f"sqlite:///{tmp_path}/birds.db"
    with closing(wrap(nn.Identity(), host=False, memory=Memory(4, 8), store=url, poll=None)) as one:
        one.learn(torch.eye(4)[:1], ["kea"])
    command = ["-m", "rarememory", "serve", "--store", url, "--width", "5", "--port", "18437"]
    ended = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("error: the store was") == 1 and "Traceback" not in ended.stderr
