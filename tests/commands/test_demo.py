import subprocess
import sys

import pytest
from matplotlib import image

from rarememory.__main__ import main
from rarememory.commands.demo import demo


def test_the_demo_prints_accuracies_and_saves_a_plot(tmp_path, capsys):
    plot = demo(tmp_path, steps=2, episodes=2, classes=100)
    printed = capsys.readouterr().out
    assert str(plot) in printed
    assert [line.split()[0] for line in printed.splitlines() if "±" in line] == [
        "untrained",
        "trained",
    ]
    assert image.imread(plot).std() > 0.1


def test_a_missing_package_is_named_before_the_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "rarememory.commands.demo", raising=False)
    monkeypatch.setattr(sys, "argv", ["rarememory", "demo"])
    with pytest.raises(SystemExit, match='the demo needs matplotlib: pip install "rarememory'):
        main()


def test_without_typer_the_command_line_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "rarememory.commands.cli", raising=False)
    with pytest.raises(SystemExit, match=r'needs typer: pip install "rarememory\[cli\]"'):
        main()


def test_ctrl_c_during_the_imports_is_one_line(monkeypatch, capsys):
    class Interrupts:
        def find_spec(self, name, *_):
            if name == "rarememory.commands.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "rarememory.commands.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130 and capsys.readouterr() == ("", "interrupted\n")


def test_an_unknown_command_is_named():
    result = subprocess.run(
        [sys.executable, "-m", "rarememory", "dance"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2 and "dance" in result.stderr


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_the_commands_and_is_no_error(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["rarememory", word])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for command in ("demo", "learn", "predict", "inspect", "doctor", "forget"):
        assert command in printed
