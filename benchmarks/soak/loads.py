"""A process saves two memories in turn to one file, which another loads meanwhile.

Each load must be the one or the other, whole.
"""

import os
import signal
from pathlib import Path

from torch import nn

from benchmarks.soak.birds import birds, number_of
from benchmarks.soak.campaign import Campaign, Tries
from rarememory import MemoryClassifier


def _tries(folder: Path, seed: int) -> Tries:
    path, pair = folder / "birds.safetensors", (birds(1), birds(2))
    pair[0].save(path)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        # The parent may be killed, and cannot end its child then.
        while os.getppid() == parent:
            for one in pair:
                one.save(path)
        os._exit(0)
    try:
        while True:
            yield _outcome(path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _outcome(path: Path) -> str:
    try:
        number = number_of(MemoryClassifier.load(path, nn.Identity()))
    except Exception as error:
        return f"torn: {type(error).__name__}: {error}"
    return {1: "one", 2: "other"}.get(number or 0, "mixed")


CAMPAIGN = Campaign("loads", 10_000, frozenset({"one", "other"}), _tries)
