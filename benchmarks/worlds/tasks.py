"""What is measured of one draw: the memory's rows, the rivals', strangers and tables."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from benchmarks.openset import auroc, share
from benchmarks.worlds.draws import QUERIES, Draw, Task, share_correct
from benchmarks.worlds.rivals import RIVALS, answers, decision, fitting
from rarememory import MemoryClassifier, wrap
from rarememory.integrations.sklearn import MemoryNeighbors

Array = NDArray[Any]
Row = dict[str, float]
SHOTS = (1, 5, 20)
MEMORIES = ("quick", "quick_with_old", "calibrated")
"""New examples learnt and nothing else; those of the host's classes too; that, calibrated."""
FALSE_ACCEPT = 0.05


def rows_of(task: Task, bar: Callable[[Any], Any] = iter) -> dict[str, Row]:
    """The accuracy of the memory and of every rival that can be fitted."""
    answered = memory_answers(task)
    for rival in bar(fitting(task, RIVALS)):
        answered |= answers(rival, task)
    return {
        name: share_correct(found, task.query_labels, task.n_old)
        for name, found in answered.items()
    }


def memory_answers(task: Task) -> dict[str, Array]:
    """What a quick start answers, the same with old examples, and that after `calibrate`."""
    with_old = (task.labels < task.n_old).any()
    names = ("quick", "quick_with_old") if with_old else ("quick",)
    found = {}
    for name in names:
        classifier = learnt(task, with_old=name != "quick")
        found[name] = _predicted(classifier, task)
    classifier.calibrate(torch.from_numpy(task.held_out), task.held_out_labels.tolist())
    return found | {"calibrated": _predicted(classifier, task)}


def quick_row(task: Task) -> Row:
    """The accuracy of a quick start."""
    found = _predicted(learnt(task, with_old=False), task)
    return share_correct(found, task.query_labels, task.n_old)


def learnt(task: Task, with_old: bool = True) -> MemoryClassifier:
    """The host, or no model, wrapped; then it learns old examples, if wanted, and new ones."""
    if task.head is None:
        classifier = wrap(nn.Identity(), host=False)
    else:
        weights, bias = map(torch.from_numpy, task.head)
        host = nn.Linear(weights.shape[1], len(weights))
        host.load_state_dict({"weight": weights, "bias": bias})
        classifier = wrap(host)
    old = task.labels < task.n_old
    for some in (old, ~old) if with_old and old.any() else (~old,):
        classifier.learn(torch.from_numpy(task.examples[some]), task.labels[some].tolist())
    return classifier


def _predicted(classifier: MemoryClassifier, task: Task) -> Array:
    return np.array(classifier.predict(torch.from_numpy(task.queries)))


def strangers(draw: Draw, others: Array) -> Row:
    """A threshold for 5 % of strangers, none seen, after five examples of each known class.

    It is fitted a second time for strangers that are as like the known classes as these are.

    Args:
        others: features that belong to no class of the draw.
    """
    task = draw.task(5)
    others = np.random.default_rng(0).permutation(others)[:QUERIES]
    classifier = learnt(task)
    known, unknown = (
        classifier.familiarity(torch.from_numpy(part)) for part in (task.queries, others)
    )
    found = {"auroc": auroc(known, unknown)}
    for place, alike in (("", False), ("alike.", True)):
        classifier.fit_threshold(false_accept_rate=FALSE_ACCEPT, alike=alike)
        found[f"{place}false_accept"] = share(unknown > classifier.threshold)
        found[f"{place}known_accepted"] = share(known > classifier.threshold)
    for rival in RIVALS:
        if rival.name in ("class_mean", "logistic"):
            rival.estimator.fit(task.examples, task.labels)
            best = [
                torch.from_numpy(decision(rival.estimator, part).max(1))
                for part in (task.queries, others)
            ]
            found[f"auroc.{rival.name}"] = auroc(*best)
    return found


def strangers_beside_host(draw: Draw, others: Array) -> Row:
    """The same beside a host, after five examples of each new class, and with what is expected."""
    task = draw.task(5)
    classifier = learnt(task, with_old=False)
    known, unknown = (
        classifier.familiarity(torch.from_numpy(part))
        for part in (task.queries, np.random.default_rng(0).permutation(others)[:QUERIES])
    )
    threshold = classifier.fit_threshold(false_accept_rate=FALSE_ACCEPT)
    old = torch.from_numpy(task.query_labels < task.n_old)
    assert threshold.alike is not None
    return {
        "host.auroc": auroc(known, unknown),
        "host.false_accept": share(unknown > threshold),
        "host.expected_alike": threshold.alike,
        "host.known_accepted.old": share(known[old] > threshold),
        "host.known_accepted.new": share(known[~old] > threshold),
    }


TABLES = {"wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
TABLE_SHOTS = 20
TABLE_ROWS: dict[str, Callable[[], Any]] = {
    "quick": MemoryNeighbors,
    "quick_scaled": lambda: make_pipeline(StandardScaler(), MemoryNeighbors()),
    "lda": LinearDiscriminantAnalysis,
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "svc": lambda: make_pipeline(StandardScaler(), SVC()),
    "knn": KNeighborsClassifier,
    "knn_scaled": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier()),
}


def table_rows(name: str, seed: int) -> dict[str, Row]:
    """Raw columns of a table, 20 examples of each class; the accuracy on all other rows."""
    X, y = TABLES[name](return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    few = np.concatenate([order[y[order] == label][:TABLE_SHOTS] for label in np.unique(y)])
    rest = np.setdiff1d(order, few)
    return {
        row: {"all": float((make().fit(X[few], y[few]).predict(X[rest]) == y[rest]).mean())}
        for row, make in TABLE_ROWS.items()
    }
