"""A process is killed while it saves; then another saves to the same file.

The file must be the old one or the new one, whole, and the next save must leave nothing beside it.
"""

import os
import random
import signal
import time
from pathlib import Path

from torch import nn

from benchmarks.soak.birds import birds, number_of
from benchmarks.soak.campaign import Campaign, Tries
from rarememory import MemoryClassifier


def _tries(folder: Path, seed: int) -> Tries:
    path = folder / "birds.safetensors"
    old, new = birds(1), birds(2)
    wait = random.Random(seed)
    seconds = _seconds_of_a_save(old, path)
    while True:
        old.save(path)
        left = [name for name in os.listdir(folder) if name != path.name]
        if left:
            yield f"leftover: {left}"
        if _killed(new, path, wait.uniform(0, 1.2 * seconds)):
            yield _outcome(path)
        else:
            yield "finished"


def _outcome(path: Path) -> str:
    try:
        number = number_of(MemoryClassifier.load(path, nn.Identity()))
    except Exception as error:
        return f"torn: {type(error).__name__}: {error}"
    return {1: "old", 2: "new"}.get(number or 0, "mixed")


def _killed(classifier: MemoryClassifier, path: Path, seconds: float) -> bool:
    """Save in a process that is killed after so many seconds; whether it was in the midst of it."""
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begin, b"!")
        classifier.save(path)
        os._exit(0)
    os.read(begun, 1)
    os.close(begun)
    os.close(begin)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _seconds_of_a_save(classifier: MemoryClassifier, path: Path) -> float:
    begin = time.perf_counter()
    for _ in range(5):
        classifier.save(path)
    return (time.perf_counter() - begin) / 5


CAMPAIGN = Campaign("kills", 1_000, frozenset({"old", "new", "finished"}), _tries)
