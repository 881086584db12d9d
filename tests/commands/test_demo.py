"""The demo runs to its end, and says where its picture is."""

import subprocess
import sys

import pytest
from matplotlib import image

from rarememory.__main__ import main
from rarememory.commands.demo import demo


def test_the_demo_prints_accuracy_and_draws_its_picture(tmp_path, capsys):
    picture = demo(tmp_path, steps=2, episodes=2)
    printed = capsys.readouterr().out
    assert str(picture) in printed
    assert [line.split()[0] for line in printed.splitlines() if "±" in line] == [
        "untrained",
        "trained",
    ]
    assert image.imread(picture).std() > 0.1


def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "rarememory.commands.demo", raising=False)
    monkeypatch.setattr(sys, "argv", ["rarememory", "demo"])
    with pytest.raises(SystemExit, match='the demo needs matplotlib: pip install "rarememory'):
        main()


def test_without_typer_the_command_line_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "rarememory.commands.cli", raising=False)
    with pytest.raises(SystemExit, match=r'needs typer: pip install "rarememory\[cli\]"'):
        main()


def test_an_unknown_command_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "rarememory", "dance"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "dance" in done.stderr


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_the_commands_and_is_no_error(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["rarememory", word])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for command in ("demo", "learn", "predict", "inspect", "doctor", "forget"):
        assert command in printed
