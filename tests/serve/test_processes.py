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
from rarememory.commands.serve import Service
from rarememory.serve import processes, service
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
    assert (started[0].encoder, started[0].width, started[0].slots) == (*used, None)


@pytest.mark.parametrize(
    "given", [{"encoder": "omniglot", "width": 0}, {"encoder": None, "width": 4}]
)
def test_the_size_of_a_new_memory_need_not_be_said_again(given, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(service, "application", lambda one, *_, **__: opened.append(one))
    place = {"store": f"sqlite:///{tmp_path}/birds.db", "name": "birds", "token": "t", **given}
    Service(**place, slots=9)()
    image = torch.ones(1, 4) if given["width"] else torch.ones(1, 1, 28, 28)
    opened[0].learn(image, ["kea"])
    Service(**place, slots=None)()
    assert [len(one.memory.values) for one in opened] == [9, 9]
    with pytest.raises(ValueError, match="memory_size=9, and memory_size=8 was given"):
        Service(**place, slots=8)()
    for one in opened:
        one.close()


@pytest.mark.parametrize("given", [[], ["--encoder", "omniglot", "--width", "4"]])
def test_either_images_or_features_have_to_be_named(given, tmp_path):
    command = ["serve", "--store", f"sqlite:///{tmp_path}/birds.db", *given]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 1 and "give either --encoder" in ended.output


def test_an_address_that_is_of_no_store_is_refused_before_anything_is_served():
    ended = CliRunner().invoke(app, ["serve", "--store", "mysql://birds", "--width", "4"])
    assert ended.exit_code == 1 and "a store is sqlite:///" in ended.output
    assert "serving" not in ended.output


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
