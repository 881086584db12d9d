"""Ctrl-C ends the program while it imports what takes long."""

import os
import signal
import subprocess
import sys

import pytest

from tests.sources import ROOT

# Of what the package imports first, and catches every exception.
SLOW = """
import time
print("importing", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_during_the_imports_ends_the_process_in_silence(tmp_path):
    (tmp_path / "torch.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", "from rarememory_command import main; main()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((os.fspath(tmp_path), os.fspath(ROOT)))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, said, errors) == (-signal.SIGINT, "", "")


def test_the_program_is_the_command_line():
    run = subprocess.run(
        [sys.executable, "-c", "from rarememory_command import main; main()", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0 and "A memory of images" in run.stdout, run.stderr
