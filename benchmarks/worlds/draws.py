"""Who is learnt, held out and asked about, drawn anew by each seed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.worlds.data import World

Array = NDArray[Any]

QUERIES = 1500
"""At most so many are asked about."""
HELD_OUT = 10
"""Examples of each class to calibrate or tune with; fewer of classes of fewer than 60."""
ASKED = 15
"""Queries of each class in worlds of old and new classes; fewer of classes of fewer than 60."""
OLD = 60
"""Examples of each class that a host is trained on, if there are as many."""


class Task(NamedTuple):
    """Examples to learn, to tune with, and to be asked about; classes below `n_old` are old.

    Attributes:
        head: weights and biases of a host, trained on the examples of old classes.
    """

    examples: Array
    labels: Array
    held_out: Array
    held_out_labels: Array
    queries: Array
    query_labels: Array
    n_old: int = 0
    head: tuple[Array, Array] | None = None


class Parts(NamedTuple):
    """Rows of one class."""

    train: Array
    held_out: Array
    test: Array


class Draw:
    """Classes in a random order, and the rows of each in random parts.

    Examples of more shots begin with those of fewer.

    Args:
        n_old: how many classes a host is trained on.
        only: how many of the classes; all of them if None.
        published: whether the published parts of the data stand, or are drawn too, by track.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        n_old: int = 0,
        only: int | None = None,
        published: bool = True,
    ) -> None:
        self.world, self.n_old = world, n_old
        rng = np.random.default_rng(seed)
        self.order = rng.permutation(len(world.names))
        parts_of = _published if published else _by_track
        parts = {label: parts_of(world, label, rng) for label in self.order}
        self.parts = [parts[label] for label in self.order[:only]]
        self.strangers = [parts[label].test for label in self.order[len(self.parts) :]]
        self.head = self._head() if n_old else None

    def task(self, shots: int) -> Task:
        """The task of so many examples of each new class."""
        few = [
            part.train[: OLD if label < self.n_old else shots]
            for label, part in enumerate(self.parts)
        ]
        held_out = [part.held_out for part in self.parts]
        test = [part.test for part in self.parts]
        return Task(
            *self._rows(few),
            *self._rows(held_out),
            *self._rows(test, QUERIES),
            self.n_old,
            self.head,
        )

    def _rows(self, parts: Sequence[Array], most: int | None = None) -> tuple[Array, Array]:
        rows = np.concatenate(parts)
        labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        some = np.random.default_rng(0).permutation(len(rows))[:most] if most else slice(None)
        return self.world.features[rows[some]], labels[some]

    def _head(self) -> tuple[Array, Array]:
        X, y = self._rows([part.train[:OLD] for part in self.parts[: self.n_old]])
        found = LogisticRegression(C=0.01, max_iter=300, tol=1e-3).fit(X, y)
        return found.coef_.astype(X.dtype), found.intercept_.astype(X.dtype)


def share_correct(answers: Array, labels: Array, n_old: int) -> dict[str, float]:
    """Accuracy of old and of new classes; `all` is their harmonic mean, or that of new ones."""
    correct = answers == labels
    if not n_old:
        return {"all": float(correct.mean())}
    old, new = float(correct[labels < n_old].mean()), float(correct[labels >= n_old].mean())
    return {"old": old, "new": new, "all": 2 * old * new / (old + new) if old + new else 0.0}


def _published(world: World, label: int, rng: np.random.Generator) -> Parts:
    rows = rng.permutation(np.flatnonzero(world.labels == label))
    train, val, test = (rows[world.split[rows] == name] for name in ("train", "val", "test"))
    n_held_out = min(HELD_OUT, len(rows) // 6)
    if len(val):
        return Parts(train, val[:n_held_out], test)
    return Parts(train[n_held_out:], train[:n_held_out], test)


def _by_track(world: World, label: int, rng: np.random.Generator) -> Parts:
    """A track, whose photos are near copies, is in one part; each part goes round its tracks."""
    rows = rng.permutation(np.flatnonzero(world.labels == label))
    track_of = rows if world.track is None else world.track[rows]
    wanted = min(ASKED, len(rows) // 4), min(HELD_OUT, len(rows) // 6), len(rows)
    parts: list[list[int]] = [[], [], []]
    for track in dict.fromkeys(track_of.tolist()):
        place = next(i for i in range(3) if len(parts[i]) < wanted[i])
        parts[place] += rows[track_of == track].tolist()
    test, held_out, train = (
        _in_rounds(world, part)[:n] for part, n in zip(parts, wanted, strict=True)
    )
    return Parts(train, held_out, test)


def _in_rounds(world: World, rows: Sequence[int]) -> Array:
    """First one row of each track, then a second one of each."""
    seen: Counter[int] = Counter()
    rounds = []
    for row in rows:
        track = row if world.track is None else int(world.track[row])
        rounds.append(seen[track])
        seen[track] += 1
    return np.array(rows, dtype=np.int64)[np.argsort(rounds, kind="stable")]
