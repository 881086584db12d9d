"""Seconds over frozen features, beside those of all rivals, and ratios to logistic regression.

What takes a single example is called again and again; its first call, whose code and data are not
in the processor's caches after a batch, stands beside the median of the others.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.worlds.draws import Draw, Task
from benchmarks.worlds.rivals import Rival, decision, fitting
from benchmarks.worlds.tasks import learnt

Array = NDArray[Any]
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
        for estimated in fitting(task):
            turn |= _calls_of(estimated, task, queries)
        for name, calls in turn.items():
            times = CALLS if name.endswith("one") else 1
            with warnings.catch_warnings():
                # Of few iterations.
                warnings.simplefilter("ignore")
                first, *others = (_seconds(calls) for _ in range(times))
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


def _calls_of(rival: Rival, task: Task, queries: Array) -> dict[str, list[Callable[..., Any]]]:
    """What a rival, as it comes, does to learn, and to answer many queries and one."""
    estimator = clone(rival.estimator)
    return {
        f"rivals.{rival.name}.learn": [partial(estimator.fit, task.examples, task.labels)],
        f"rivals.{rival.name}.predict": [partial(decision, estimator, queries)],
        f"rivals.{rival.name}.predict_one": [partial(decision, estimator, queries[:1])],
    }


def _seconds(calls: list[Callable[..., Any]]) -> float:
    begin = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - begin


def _learn_and_answer(task: Task, query: Tensor) -> None:
    """The reader is fitted at the first question."""
    learnt(task).predict(query)
