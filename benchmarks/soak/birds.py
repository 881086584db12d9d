"""Classifiers to save and load, of which each is known by its number."""

import torch
from torch import Tensor, nn

from rarememory import FirstInFirstOut, Memory, MemoryClassifier

KEY_DIM, SLOTS = 64, 256


def birds(number: int) -> MemoryClassifier:
    """A classifier whose names, refs and keys all say its number."""
    memory = Memory(KEY_DIM, SLOTS, update=FirstInFirstOut())
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=memory)
    refs = [f"{number}/{row}" for row in range(SLOTS)]
    classifier.learn(_features(number), [_name(number, row) for row in range(SLOTS)], refs)
    return classifier


def number_of(classifier: MemoryClassifier) -> int | None:
    """The number of a classifier, if all of it is of that one; None for parts of several."""
    examples = classifier.examples()
    numbers, rows = zip(*(map(int, str(one.refs[0]).split("/")) for one in examples), strict=True)
    number = numbers[0]
    whole = {*numbers} == {number} and {*rows} == {*range(SLOTS)}
    named = all(one.label == _name(number, row) for one, row in zip(examples, rows, strict=True))
    keys = nn.functional.normalize(_features(number))[list(rows)]
    return number if whole and named and torch.allclose(classifier.memory.keys, keys) else None


def _features(number: int) -> Tensor:
    return torch.randn(SLOTS, KEY_DIM, generator=torch.Generator().manual_seed(number))


def _name(number: int, row: int) -> str:
    return f"{number}-{row % 10}"
