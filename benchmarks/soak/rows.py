"""A million rows are written, read back, forgotten and saved; the process must not grow.

A try writes 1,000 rows into a memory that has room for a few thousand, reads some of them back, and
now and then resizes it, forgets, copies and saves it. What the process holds is compared with what
it held after the first tries.
"""

import copy
import random
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.soak.campaign import Campaign, Tries
from rarememory import FirstInFirstOut, Memory, MemoryClassifier

KEY_DIM, SLOTS, ROWS, BATCH = 64, 4096, 1000, 50
WARM_UP = 60
"""Tries after which all caches are there."""
GROWTH = 48
"""MiB that the allocators may keep beside: a copy of the memory and of its file are larger."""


def _tries(folder: Path, seed: int) -> Tries:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    memory = Memory(KEY_DIM, SLOTS, k=8, update=FirstInFirstOut())
    birds = MemoryClassifier(nn.Identity(), host=False, memory=memory, reader="nearest")
    count, at_first = 0, 0.0
    while True:
        rows = torch.randn(ROWS, KEY_DIM, generator=generator)
        for place in range(0, ROWS, BATCH):
            some = rows[place : place + BATCH]
            labels = [f"class {(count + i) % 500}" for i in range(BATCH)]
            birds.learn(some, labels, [f"{count + i}.png" for i in range(BATCH)])
            if birds.predict(some[:4]) != labels[:4]:
                yield f"wrong: seed {seed}, row {count}"
            count += BATCH
        if rng.random() < 0.1:
            birds.resize(rng.randrange(SLOTS // 2, SLOTS + 1))
            birds.forget(rng.choice(birds.classes))
        if rng.random() < 0.1:
            birds.save(folder / "birds.safetensors")
            copy.deepcopy(birds)
        held = _mebibytes()
        if count == WARM_UP * ROWS:
            at_first = held
        if at_first and held > at_first + GROWTH:
            yield f"grown: from {at_first:.0f} to {held:.0f} MiB after {count} rows"
            at_first = held
        else:
            yield "flat"


def _mebibytes() -> float:
    """What the process holds; the most that it ever held where the system says only that."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        return int(statistics.read_text().split()[1]) * resource.getpagesize() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


CAMPAIGN = Campaign("rows", 1_000, frozenset({"flat"}), _tries, patience=120.0)
