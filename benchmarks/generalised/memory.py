"""The memory on this task: a classifier wrapped, prepared once, and taught new classes."""

import time

import torch
from torch import nn

from benchmarks.generalised.drawings import FIT, TRAIN, Drawings, Kinds, drawn
from rarememory import MemoryClassifier, wrap
from rarememory.classifier import Calibration


def prepared(
    host: nn.Module, kinds: Kinds, shots: int, *, whiten: bool = True, average: bool = True
) -> tuple[MemoryClassifier, Calibration]:
    """The classifier with a memory, before it has met a new class.

    It knows the drawings that the host was trained with, and has rehearsed with classes that it
    forgot again.

    Args:
        host: the classifier that exists already.
        kinds: old classes, and those to rehearse with.
        shots: drawings that a new class will be learnt from.
        whiten: map the features by the host's own examples.
        average: remember of each class the mean; else every drawing has a slot of its own.
    """
    slots = 2 ** (12 if average else 15)
    classifier = wrap(host, classes=kinds.old.names, memory_size=slots)
    if whiten:
        classifier.whiten(drawn(kinds.old, TRAIN).batches(), progress=False)
    classifier.learn(drawn(kinds.old, TRAIN).batches(), average=average, progress=False)
    rehearsed = drawn(kinds.rehearsed, slice(0, shots))
    classifier.learn(rehearsed.batches(), average=average, progress=False)
    held_out = drawn(kinds.old, FIT) + drawn(kinds.rehearsed, FIT)
    report = classifier.calibrate(held_out.batches(), progress=False)
    classifier.forget(*kinds.rehearsed.names)
    return classifier, report


def taught(classifier: MemoryClassifier, new: Drawings, average: bool = True) -> float:
    """Teach it new classes; the seconds that takes, encoding included."""
    begin = time.perf_counter()
    classifier.learn(new.batches(), average=average, progress=False)
    return time.perf_counter() - begin


def answers(
    classifier: MemoryClassifier, queries: Drawings, numbers: dict[str, int]
) -> torch.Tensor:
    """Its answers as the numbers of the classes."""
    names = classifier.predict(queries.batches(), progress=False)
    return torch.tensor([numbers[name] for name in names])
