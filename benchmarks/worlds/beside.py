"""The 100 classes of CIFAR-100, taught to a classifier of ImageNet beside its own 1,000.

What it answered of photos of Caltech-101 before it learnt is taken for right: `old` is the share of
these answers that it keeps, `new` the accuracy on photos of what was learnt.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.worlds.data import World
from benchmarks.worlds.draws import QUERIES, Draw, Task

Array = NDArray[Any]
TAUGHT, OTHERS = "cifar100", "caltech101"
HELD_OUT = 1000
"""Photos of the others to calibrate or tune with."""


def beside_task(
    draw: Draw, others: World, head: tuple[Array, Array], seed: int, shots: int
) -> Task:
    """So many examples of each class of the draw to learn, and none of the host's own.

    Args:
        draw: of the classes to be taught.
        others: photos that the host answers, with its logits.
        head: weights and biases of the host.
        seed: of the photos that are held out and asked about.
        shots: examples of each class.
    """
    assert others.logits is not None
    task, n_old = draw.task(shots), len(head[1])
    rows = np.random.default_rng(seed).permutation(len(others.features))[: HELD_OUT + QUERIES]
    features, answers = others.features[rows], others.logits[rows].argmax(1)
    return Task(
        task.examples,
        n_old + task.labels,
        np.concatenate([features[:HELD_OUT], task.held_out]),
        np.concatenate([answers[:HELD_OUT], n_old + task.held_out_labels]),
        np.concatenate([features[HELD_OUT:], task.queries]),
        np.concatenate([answers[HELD_OUT:], n_old + task.query_labels]),
        n_old,
        head,
    )
