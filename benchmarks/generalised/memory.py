"""The memory on this task: a classifier wrapped, prepared once, which then learns new classes."""

import time

import torch
from torch import nn

from benchmarks.generalised.drawings import FIT, TRAIN, Classes, Drawings, drawn
from rarememory import MemoryClassifier, wrap


def prepared(
    host: nn.Module, classes: Classes, shots: int, *, whiten: bool = True, average: bool = True
) -> MemoryClassifier:
    """The classifier with a memory, before it learns a new class.

    It has learnt the examples that the host was trained on, and was calibrated with rehearsal
    classes, which it has forgotten again. With `whiten` the features are mapped by the host's own
    examples; with `average` the mean of each class is stored, else every example.
    """
    slots = 2 ** (12 if average else 15)
    classifier = wrap(host, classes=classes.old.names, memory_size=slots)
    if whiten:
        classifier.whiten(drawn(classes.old, TRAIN).batches(), progress=False)
    for examples in (drawn(classes.old, TRAIN), drawn(classes.rehearsal, slice(0, shots))):
        classifier.learn(examples.batches(), average=average, progress=False)
    held_out = drawn(classes.old, FIT) + drawn(classes.rehearsal, FIT)
    classifier.calibrate(held_out.batches(), progress=False)
    classifier.forget(*classes.rehearsal.names)
    return classifier


def learn_seconds(classifier: MemoryClassifier, new: Drawings, average: bool = True) -> float:
    """Learn new classes; return the seconds that took, encoding included."""
    begin = time.perf_counter()
    classifier.learn(new.batches(), average=average, progress=False)
    return time.perf_counter() - begin


def predicted(
    classifier: MemoryClassifier, queries: Drawings, numbers: dict[str, int]
) -> torch.Tensor:
    """The numbers of the predicted classes."""
    names = classifier.predict(queries.batches(), progress=False)
    return torch.tensor([numbers[name] for name in names])
