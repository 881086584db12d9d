"""Histories of a memory in a store: what a worker does is known by a number."""

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarememory import AverageOrReplace, FirstInFirstOut, Memory, MemoryClassifier
from rarememory.memory import Update
from rarememory.store import StoredClassifier, wrap

KEY_DIM, SLOTS = 8, 24
LABELS = ["kea", "weka", 7, ("kakapo", 2), None]
POLICIES: tuple[Update, ...] = (FirstInFirstOut(), AverageOrReplace())


def plain(update: Update = POLICIES[0]) -> MemoryClassifier:
    """A classifier without a store."""
    return MemoryClassifier(nn.Identity(), host=False, memory=_memory(update))


def opened(url: str, update: Update = POLICIES[0], **options: Any) -> StoredClassifier:
    """The same with one, which looks for changes when it is told to."""
    options = {"poll": None, "patience": 20.0, **options}
    return wrap(nn.Identity(), host=False, memory=_memory(update), store=url, **options)


def _memory(update: Update) -> Memory:
    return Memory(KEY_DIM, SLOTS, update=update, seed=3)


def rows(count: int, seed: int = 0) -> Tensor:
    """So many examples."""
    return torch.randn(count, KEY_DIM, generator=torch.Generator().manual_seed(seed))


def act(classifier: MemoryClassifier, seed: int, **options: Any) -> bool:
    """Learn or forget something, which the seed tells; whether there was something to forget."""
    draw = partial(torch.randint, generator=torch.Generator().manual_seed(seed))
    count = int(draw(1, 5, ()))
    chosen = [LABELS[i] for i in draw(0, len(LABELS), (count,)).tolist()]
    if int(draw(0, 4, ())) == 0:
        try:
            classifier.forget(chosen[0], **options)
        except ValueError:
            return False
        return True
    refs = [f"{seed}/{row}" for row in range(count)]
    average = bool(draw(0, 2, ()))
    classifier.learn(rows(count, seed), chosen, refs, average=average, **options)
    return True


def digest(classifier: MemoryClassifier) -> str:
    """Of the whole state but the model, to the bit."""
    found = hashlib.sha256()
    for name, tensor in classifier.state_dict().items():
        if not name.startswith("extractor."):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()
