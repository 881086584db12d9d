"""Seconds over frozen features, as ratios to scikit-learn's logistic regression in the same turn."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.worlds.draws import Draw
from benchmarks.worlds.tasks import learnt

BATCH = 2000


def speed(draw: Draw, shots: int = 20, turns: int = 15) -> dict[str, float]:
    """Medians over turns, with quartiles; what is compared takes its turn one after the other."""
    task = draw.task(shots)
    queries = np.resize(task.queries, (BATCH, task.queries.shape[1]))
    one = queries[:1]
    inputs, input_ = torch.from_numpy(queries), torch.from_numpy(one)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = call()
        seconds.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    def answered() -> Any:
        classifier = learnt(task)
        classifier.predict(input_)
        return classifier

    def learn_one() -> None:
        classifier.learn(input_, [0])

    def learn_one_and_answer() -> None:
        learn_one()
        classifier.predict(input_)

    for _ in range(turns):
        classifier = timed("learn", answered)
        timed("learn_one", learn_one)
        timed("learn_one_and_answer", learn_one_and_answer)
        timed("predict", lambda: classifier.predict(inputs))
        timed("predict_one", lambda: classifier.predict(input_))
        rival = LogisticRegression(max_iter=1000)
        timed("logreg.learn", lambda: rival.fit(task.examples, task.labels))
        timed("logreg.predict", lambda: rival.predict(queries))
        timed("logreg.predict_one", lambda: rival.predict(one))
    figures = {f"worlds.{name}.seconds": float(np.median(taken)) for name, taken in seconds.items()}
    for name in ("learn", "learn_one", "learn_one_and_answer", "predict", "predict_one"):
        other = name if name.startswith("predict") else "learn"
        ratios = np.divide(seconds[name], seconds[f"logreg.{other}"])
        low, middle, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
        key = f"worlds.{name}.ratio_to_logreg"
        figures |= {key: middle, f"{key}.low": low, f"{key}.high": high}
    return figures
