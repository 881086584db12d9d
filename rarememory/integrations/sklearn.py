"""scikit-learn: nearest neighbours with a memory, as an estimator that learns incrementally."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.base.state import EMPTY, Recall
from rarememory.classifier.forms import Form, form_of
from rarememory.integrations.neighbors import without_self
from rarememory.integrations.pool import (
    MOST_JUDGED,
    Pool,
    evenly_spaced,
    fit_pool,
    vote,
)
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import FirstInFirstOut, Update

_QUERIES = 4096
"""Queries that a fitted reader answers at once."""


class MemoryNeighbors(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier with a memory of samples; `partial_fit` adds samples, of new classes too.

    Every sample gets a slot; the cosine of a sample of zeros with any other is 0. `partial_fit`
    needs no `classes=` and forgets nothing, unless `memory_size` is set: then the oldest samples
    are replaced. Samples vote with softmax(cosine / temperature) (Kaiser et al. 2017, section 2).

    By default nothing has to be set. The samples that are left out, one at a time, choose how the
    columns are scaled, and how much each of several readers counts: the vote, class means in a
    fitted metric, kernel ridge regression, and normal densities of the classes
    (`rarememory.integrations.pool`). What is fitted is fitted again at the first prediction after
    `fit` or `partial_fit`. The vote answers in place of the pool where no class has two samples,
    because then no sample can be left out.

    Args:
        n_neighbors: how many samples vote.
        temperature: of the softmax.
        memory_size: samples to remember; None for all of them.
        update: the update policy; `FirstInFirstOut`, one slot per sample, if None.
        lookup: the search, as in `Memory`.
        scale: None leaves the columns as they are. "auto" chooses, by how many of the left-out
            samples of the first fit are answered rightly, between the columns as they are, less
            their means, and divided by their standard deviations too; columns as they are where
            none can be left out. `partial_fit` keeps the choice.
        reader: "nearest" is the vote. "fitted" is the reader of that name of `rarememory.wrap`: it
            answers to scaled rows what `wrap(Identity(), host=False)` does. "auto" pools the vote,
            class means and kernel ridge regression, with weights that the left-out samples choose;
            with `scale="auto"` each of the three reads both the columns as they are and
            standardised ones, and kernel ridge regression also how far standardised rows are from
            each other, with columns that all count the same, and that count by how well each tells
            the classes apart; and normal densities, each with a covariance of its own, read
            standardised rows.

    Attributes:
        classes_: the classes seen so far, sorted.
        memory_: the `Memory`; its values number the classes in the order in which they were seen.
        samples_: for each slot the number of its sample, counted over all calls.
        mean_: what is taken off each column before neighbours are looked for.
        scale_: what each column is then divided by.

    Example:
        >>> birds = MemoryNeighbors(n_neighbors=1).fit([[1.0, 0.0], [0.0, 1.0]], ["kea", "weka"])
        >>> birds.partial_fit([[-1.0, 0.0]], ["kiwi"]).predict([[-1.0, 0.1], [0.9, 0.0]]).tolist()
        ['kiwi', 'kea']

        The second column decides here, and the first is a thousand times as large:

        >>> X = [[1e3, 1], [2e3, 1.1], [3e3, 1], [1e3, 3], [2e3, 3.1], [3e3, 3]]
        >>> birds = MemoryNeighbors(n_neighbors=1).fit(X, ["kea"] * 3 + ["weka"] * 3)
        >>> birds.scale_.round(1).tolist(), birds.predict([[4e3, 1.0], [0, 3.0]]).tolist()
        ([816.5, 1.0], ['kea', 'weka'])
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        temperature: float = 0.1,
        memory_size: int | None = None,
        update: Update | None = None,
        lookup: str | Lookup = "auto",
        scale: str | None = "auto",
        reader: str = "auto",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.memory_size = memory_size
        self.update = update
        self.lookup = lookup
        self.scale = scale
        self.reader = reader

    def fit(self, X: ArrayLike, y: ArrayLike) -> "MemoryNeighbors":
        """Replace what is remembered by the samples.

        Raises:
            ValueError: scikit-learn refuses the input, or `scale` or `reader` is none of those
                listed.
        """
        return self._learn(X, y, None, reset=True)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> "MemoryNeighbors":
        """Remember the samples in addition.

        Args:
            X: samples [n_samples, n_features].
            y: their classes, new ones among them.
            classes: optional; classes to add to `classes_`.
        """
        return self._learn(X, y, classes, reset=not hasattr(self, "memory_"))

    def _learn(self, X: Any, y: Any, classes: Any, *, reset: bool) -> "MemoryNeighbors":
        X, y = validate_data(self, X, y, dtype=np.float64, reset=reset)
        check_classification_targets(y)
        if reset:
            self._check_choices()
            self._choose_scale(X, np.unique(y, return_inverse=True)[1])
            size = len(X) if self.memory_size is None else self.memory_size
            self._seen, self._count = np.asarray(y)[:0], 0
            self.memory_ = self._memory(X.shape[1] + 1, size)
            self.samples_, self._lengths = np.full(size, EMPTY), np.ones(size)
        self._add_classes(y if classes is None else np.concatenate([np.asarray(classes), y]))
        if self.memory_size is None and self.update is None:
            self._grow(self._count + len(X))
        # More than fit at once would meet in one slot: then the last of them are written.
        first = max(0, len(X) - len(self.samples_)) if self.update is None else 0
        rows, numbers = self._scaled(X[first:]), torch.from_numpy(self._numbers_of(y[first:]))
        slots = self.memory_.write(rows, numbers).slots.numpy()
        self.samples_[slots] = np.arange(self._count + first, self._count + len(X))
        self._lengths[slots] = rows.norm(dim=1).numpy()
        self._count += len(X)
        # A list that is filled by a prediction, which may not set attributes of an estimator.
        self._fitted: list[_FittedReader | None] = []
        return self

    def _check_choices(self) -> None:
        if self.scale not in ("auto", None):
            raise ValueError(f'scale must be "auto" or None, not {self.scale!r}')
        if self.reader not in ("auto", "nearest", "fitted"):
            raise ValueError(f'reader must be "auto", "nearest" or "fitted", not {self.reader!r}')

    def _choose_scale(self, X: NDArray[np.float64], y: NDArray[np.int64]) -> None:
        spaces = [_as_they_are(X)]
        if self.scale == "auto":
            standardised = _standardised(X)
            spaces += [_Scaling(standardised.mean, np.ones(X.shape[1])), standardised]
        merits = [0.0]
        if len(spaces) > 1 and _can_be_left_out(y):
            merits = [self._left_out_accuracy(space.rows(X), y) for space in spaces]
        self.mean_, self.scale_ = spaces[merits.index(max(merits))]

    def _left_out_accuracy(self, rows: Tensor, y: NDArray[np.int64]) -> float:
        classes = torch.from_numpy(y)
        several = classes.bincount()[classes] > 1
        if self.reader == "fitted":
            left_out = form_of(normalize(rows, dim=1), rows, classes).left_out
            answers, some = left_out.unrefined, left_out.samples
        else:
            keys, some = _keys(rows), evenly_spaced(classes, MOST_JUDGED)
            answers = vote(keys[some], keys, classes, self.n_neighbors, self.temperature, own=some)
        right = (answers.argmax(1) == classes[some])[several[some]]
        return right.double().mean().item()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is fitted again: what was found out of examples is no data.
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_fitted": []} if "_fitted" in state else state

    def _reader(self) -> "_FittedReader | None":
        """What answers beside the vote, of what is remembered now; None where the vote does."""
        if not self._fitted:
            self._fitted.append(None if self.reader == "nearest" else self._fit_reader())
        return self._fitted[0]

    def _fit_reader(self) -> "_FittedReader | None":
        used = torch.from_numpy(np.flatnonzero(self.samples_ != EMPTY))
        used = used[self.memory_.values[used] != EMPTY]
        # In the order of the samples, in whatever slots they are.
        used = used[torch.from_numpy(np.argsort(self.samples_[used.numpy()], kind="stable"))]
        numbers, classes = self.memory_.values[used].unique(return_inverse=True)
        if len(numbers) < 2 or (self.reader == "auto" and not _can_be_left_out(classes.numpy())):
            return None
        directions = self.memory_.keys[used, :-1].detach()
        scaled = directions * torch.from_numpy(self._lengths[used.numpy()]).unsqueeze(1)
        if self.reader == "fitted":
            kept = _Scaling(self.mean_, self.scale_)
            return _FittedReader([kept], form_of(directions, scaled, classes), numbers)
        X = scaled.numpy() * self.scale_ + self.mean_
        spaces, rows = [_as_they_are(X)], None
        if self.scale == "auto":
            spaces.append(_standardised(X))
            rows = spaces[-1].rows(X)
        of_spaces = [space.keys(X) for space in spaces]
        pool = fit_pool(of_spaces, classes, self.n_neighbors, self.temperature, rows)
        return _FittedReader(spaces, pool, numbers)

    def _memory(self, key_dim: int, size: int) -> Memory:
        update = FirstInFirstOut() if self.update is None else self.update
        return Memory(key_dim, size, update=update, lookup=self.lookup).double()

    def _grow(self, needed: int) -> None:
        size = len(self.samples_)
        if needed > size:
            # Doubled, so that many small batches do not copy everything every time.
            self.memory_.resize(max(needed, 2 * size))
            more = np.full(len(self.memory_.values) - size, EMPTY)
            self.samples_ = np.concatenate([self.samples_, more])
            self._lengths = np.concatenate([self._lengths, np.ones(len(more))])

    def _add_classes(self, y: NDArray[Any]) -> None:
        self._seen = np.concatenate([self._seen, np.setdiff1d(y, self._seen)])
        self._order = np.argsort(self._seen)
        self.classes_ = self._seen[self._order]

    def _numbers_of(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """The values of the classes in the memory."""
        return self._order[np.searchsorted(self.classes_, y)].astype(np.int64)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class of each sample."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of every class, in the order of `classes_`."""
        rows = self._validated(X)
        reader = self._reader()
        n_classes = len(self.classes_)
        found = self._votes(rows) if reader is None else reader.probabilities(rows, n_classes)
        return np.asarray(found.numpy()[:, self._order])

    def _votes(self, X: NDArray[np.float64]) -> Tensor:
        recall = self._recall(self._scaled(X), self.n_neighbors)
        logits = (recall.scores / self.temperature).masked_fill(recall.slots == EMPTY, -torch.inf)
        weights = logits.softmax(dim=1)
        probabilities = weights.new_zeros(len(weights), len(self.classes_))
        # A neighbour that is EMPTY has weight 0, so it may be added anywhere.
        return probabilities.scatter_add_(1, recall.values.clamp(min=0), weights)

    def kneighbors(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """Distances (1 - cosine) and numbers of the nearest samples, nearest first.

        Cosines are those of (X - mean_) / scale_, whichever `reader` answers.

        Args:
            X: queries; None for the remembered samples, each without itself.
            n_neighbors: how many; `self.n_neighbors` if None.
            return_distance: whether to return the distances too.

        Raises:
            ValueError: fewer samples are remembered than `n_neighbors`.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        most = len(self.memory_) - (X is None)
        if not 1 <= k <= most:
            raise ValueError(f"n_neighbors must be between 1 and the {most} samples, not {k}")
        if X is None:
            in_order = np.argsort(np.where(self.samples_ == EMPTY, self._count, self.samples_))
            own = torch.from_numpy(in_order[: len(self.memory_)])
            recall = self._recall(self.memory_.keys[own], k + 1)
            scores, slots = without_self(recall.scores, recall.slots, own)
        else:
            recall = self._recall(self._scaled(self._validated(X)), k)
            slots, scores = recall.slots, recall.scores
        numbers = self.samples_[slots.numpy()]
        return ((1 - scores).clamp(min=0).numpy(), numbers) if return_distance else numbers

    def _validated(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)  # type: ignore[no-any-return]

    def _scaled(self, X: NDArray[np.float64]) -> Tensor:
        return _nonzero(_Scaling(self.mean_, self.scale_).rows(X))

    def _recall(self, queries: Tensor, k: int) -> Recall:
        with torch.no_grad():
            return self.memory_(queries, k=k)  # type: ignore[no-any-return]


def _nonzero(rows: Tensor) -> Tensor:
    """The samples with one more column: 1 for samples of zeros, which have no direction, else 0."""
    return torch.cat([rows, ~rows.any(1, keepdim=True)], dim=1)


def _keys(rows: Tensor) -> Tensor:
    return normalize(_nonzero(rows), dim=1)


class _Scaling(NamedTuple):
    """What is taken off each column, and what it is then divided by."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def rows(self, X: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((X - self.mean) / self.scale)

    def keys(self, X: NDArray[np.float64]) -> Tensor:
        return _keys(self.rows(X))


def _as_they_are(X: NDArray[np.float64]) -> _Scaling:
    return _Scaling(np.zeros(X.shape[1]), np.ones(X.shape[1]))


def _standardised(X: NDArray[np.float64]) -> _Scaling:
    """Columns that do not vary, or by rounding only, are not divided."""
    deviations = X.std(axis=0)
    varied = deviations > 1e-10 * np.abs(X).max(axis=0)
    return _Scaling(X.mean(axis=0), np.where(varied, deviations, 1.0))


def _can_be_left_out(classes: NDArray[np.int64]) -> bool:
    counts = np.bincount(classes)
    return bool(len(counts) > 1 and counts.max() > 1)


class _FittedReader(NamedTuple):
    """A reader, the scalings of what it reads, and the values in the memory of its classes."""

    spaces: list[_Scaling]
    reader: Pool | Form
    numbers: Tensor

    def probabilities(self, X: NDArray[np.float64], n_classes: int) -> Tensor:
        found = torch.zeros(len(X), n_classes, dtype=torch.double)
        for start in range(0, len(X), _QUERIES):
            part = slice(start, start + _QUERIES)
            found[part, self.numbers] = self._of(X[part])
        return found

    def _of(self, X: NDArray[np.float64]) -> Tensor:
        rows = self.spaces[-1].rows(X)
        if isinstance(self.reader, Pool):
            return self.reader.probabilities([space.keys(X) for space in self.spaces], rows)
        return self.reader.logits(rows).softmax(1)
