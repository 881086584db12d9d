"""Seconds over frozen features, and their ratios to scikit-learn's logistic regression.

What takes a single example is called again and again; its first call, whose code and data are not
in the processor's caches after a batch, stands beside the median of the others.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.worlds.draws import Draw, Task
from benchmarks.worlds.tasks import learnt

BATCH = 2000
CALLS = 20
"""In a row, of what takes a single example."""


def speed(draw: Draw, shots: int = 20, turns: int = 15) -> dict[str, float]:
    """Medians over turns, with quartiles; what is compared takes its turn one after the other."""
    task = draw.task(shots)
    queries = np.resize(task.queries, (BATCH, task.queries.shape[1]))
    one = queries[:1]
    inputs, input_ = torch.from_numpy(queries), torch.from_numpy(one)
    seconds: dict[str, list[float]] = defaultdict(list)

    for _ in range(turns):
        classifier, rival = learnt(task), LogisticRegression(max_iter=1000)
        turn: dict[str, list[Callable[..., Any]]] = {
            "learn": [partial(_learn_and_answer, task, input_)],
            "learn_one": [partial(classifier.learn, input_, [0])],
            "learn_one_and_answer": [
                partial(classifier.learn, input_, [0]),
                partial(classifier.predict, input_),
            ],
            "predict": [partial(classifier.predict, inputs)],
            "predict_one": [partial(classifier.predict, input_)],
            "logreg.learn": [partial(rival.fit, task.examples, task.labels)],
            "logreg.predict": [partial(rival.predict, queries)],
            "logreg.predict_one": [partial(rival.predict, one)],
        }
        for name, calls in turn.items():
            first, *others = (_seconds(calls) for _ in range(CALLS if name.endswith("one") else 1))
            seconds[name].append(float(np.median(others)) if others else first)
            if others:
                seconds[f"{name}.first"].append(first)
    figures = {f"worlds.{name}.seconds": float(np.median(taken)) for name, taken in seconds.items()}
    for name in ("learn", "learn_one", "learn_one_and_answer", "predict", "predict_one"):
        other = name if name.startswith("predict") else "learn"
        ratios = np.divide(seconds[name], seconds[f"logreg.{other}"])
        low, middle, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
        key = f"worlds.{name}.ratio_to_logreg"
        figures |= {key: middle, f"{key}.low": low, f"{key}.high": high}
    return figures


def _seconds(calls: list[Callable[..., Any]]) -> float:
    begin = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - begin


def _learn_and_answer(task: Task, query: Tensor) -> None:
    """The reader is fitted at the first question."""
    learnt(task).predict(query)
