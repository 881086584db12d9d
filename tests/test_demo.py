"""The demo runs to its end, and says where its picture is."""

import subprocess
import sys

from matplotlib import image

from rarememory.demo import demo


def test_the_demo_prints_accuracy_and_draws_its_picture(tmp_path, capsys):
    picture = demo(tmp_path, steps=2, episodes=2)
    printed = capsys.readouterr().out
    assert str(picture) in printed
    assert [line.split()[0] for line in printed.splitlines() if "±" in line] == [
        "untrained",
        "trained",
    ]
    assert image.imread(picture).std() > 0.1


def test_an_unknown_command_says_what_there_is():
    done = subprocess.run(
        [sys.executable, "-m", "rarememory", "dance"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "python -m rarememory demo" in done.stderr
