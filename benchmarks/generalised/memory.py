"""The memory on this task: a classifier wrapped, prepared once, which then learns new classes."""

import time

import torch
from torch import nn

from benchmarks.generalised.drawings import FIT, TRAIN, Classes, Drawings, drawn
from rarememory import MemoryClassifier, wrap

MEMORIES: dict[str, dict[str, bool]] = {
    "memory": {},
    "memory.quick": {"calibrate": False},
    "memory.new_only": {"calibrate": False, "old": False},
    "memory.means": {"average": True},
    "memory.whitened": {"whiten": True},
}
"""As the documentation says; without `calibrate`; without old drawings too; with the mean of each
class in one slot; with `whiten`."""


def prepared(
    host: nn.Module,
    classes: Classes,
    shots: int,
    *,
    old: bool = True,
    whiten: bool = False,
    average: bool = False,
    calibrate: bool = True,
) -> MemoryClassifier:
    """The classifier with a memory, before it learns a new class.

    With `old` it has learnt the drawings that the host was trained on, with `average` the mean of
    each class, after `whiten` by the same drawings. To calibrate, it learns rehearsal classes,
    which it forgets again.
    """
    classifier = wrap(host, classes=classes.old.names, memory_size=2**15)
    if whiten:
        classifier.whiten(drawn(classes.old, TRAIN).batches(), progress=False)
    if old:
        classifier.learn(drawn(classes.old, TRAIN).batches(), average=average, progress=False)
    if calibrate:
        rehearsed = drawn(classes.rehearsal, slice(0, shots))
        classifier.learn(rehearsed.batches(), average=average, progress=False)
        held_out = drawn(classes.old, FIT) + drawn(classes.rehearsal, FIT)
        classifier.calibrate(held_out.batches(), progress=False)
        classifier.forget(*classes.rehearsal.names)
    return classifier


def learn_seconds(classifier: MemoryClassifier, new: Drawings, average: bool = False) -> float:
    """Learn new classes; return the processor seconds that took, encoding included."""
    begin = time.process_time()
    classifier.learn(new.batches(), average=average, progress=False)
    return time.process_time() - begin


def predicted(
    classifier: MemoryClassifier, queries: Drawings, numbers: dict[str, int]
) -> torch.Tensor:
    """The numbers of the predicted classes."""
    names = classifier.predict(queries.batches(), progress=False)
    return torch.tensor([numbers[name] for name in names])
