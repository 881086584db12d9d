"""How many files a reader has to open to follow a query through a read and a write."""

import sys
from pathlib import Path

import pytest
import torch

import rarememory
from rarememory import Memory

PACKAGE = Path(rarememory.__file__).parent
LOOKUP = {PACKAGE / "lookup" / "torch.py", PACKAGE / "lookup" / "base.py"}
# Threads take turns there: nothing is done to a query.
LOCK = PACKAGE / "base" / "locks.py"


def files_entered(call) -> set[str]:
    """Files of the package with a function that runs, but for the lock, the lookup and below."""
    entered: set[str] = set()
    in_lookup = []

    def profile(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path in LOOKUP:
            in_lookup.append(frame)
        elif event == "call" and not in_lookup and path != LOCK and path.is_relative_to(PACKAGE):
            entered.add(path.relative_to(PACKAGE).as_posix())
        elif event == "return" and in_lookup and frame is in_lookup[-1]:
            in_lookup.pop()

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.usefixtures("torch_only")
def test_a_read_and_a_write_each_enter_at_most_six_files():
    memory = Memory(4, 8, lookup="torch")
    memory.write(torch.eye(4)[:2], torch.tensor([1, 2]))
    queries, labels = torch.eye(4)[:3] + 0.1, torch.tensor([1, 3, 2])
    read = files_entered(lambda: memory(queries, labels))
    write = files_entered(lambda: memory.write(queries, labels))
    assert memory.values.eq(3).sum() == 1 and "memory/module.py" in read & write
    assert len(read) <= 6, sorted(read)
    assert len(write) <= 6, sorted(write)
