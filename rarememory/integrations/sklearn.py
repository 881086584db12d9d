"""scikit-learn: nearest neighbours with a memory, as an estimator that learns incrementally."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from rarememory.base.state import EMPTY, Recall
from rarememory.integrations.neighbors import without_self
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import FirstInFirstOut, Update


class MemoryNeighbors(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours by cosine; `partial_fit` adds samples, of new classes too.

    Every sample gets a slot; the cosine of a sample of zeros with any other is 0. `partial_fit`
    needs no `classes=` and forgets nothing, unless `memory_size` is set: then the oldest samples
    are replaced. Samples vote with softmax(cosine / temperature) (Kaiser et al. 2017, section 2).

    Args:
        n_neighbors: how many samples vote.
        temperature: of the softmax.
        memory_size: samples to remember; None for all of them.
        update: the update policy; `FirstInFirstOut`, one slot per sample, if None.
        lookup: the search, as in `Memory`.

    Attributes:
        classes_: the classes seen so far, sorted.
        memory_: the `Memory`; its values number the classes in the order in which they were seen.
        samples_: for each slot the number of its sample, counted over all calls.

    Example:
        >>> birds = MemoryNeighbors(n_neighbors=1).fit([[1.0, 0.0], [0.0, 1.0]], ["kea", "weka"])
        >>> birds.partial_fit([[-1.0, 0.0]], ["kiwi"]).predict([[-1.0, 0.1], [0.9, 0.0]]).tolist()
        ['kiwi', 'kea']
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        temperature: float = 0.1,
        memory_size: int | None = None,
        update: Update | None = None,
        lookup: str | Lookup = "auto",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.memory_size = memory_size
        self.update = update
        self.lookup = lookup

    def fit(self, X: ArrayLike, y: ArrayLike) -> "MemoryNeighbors":
        """Replace what is remembered by the samples.

        Raises:
            ValueError: scikit-learn refuses the input.
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
            size = len(X) if self.memory_size is None else self.memory_size
            self._seen, self._count = np.asarray(y)[:0], 0
            self.memory_ = self._memory(X.shape[1] + 1, size)
            self.samples_ = np.full(size, EMPTY)
        self._add_classes(y if classes is None else np.concatenate([np.asarray(classes), y]))
        if self.memory_size is None and self.update is None:
            self._grow(self._count + len(X))
        write = self.memory_.write(_nonzero(X), torch.from_numpy(self._numbers_of(y)))
        self.samples_[write.slots.numpy()] = np.arange(self._count, self._count + len(X))
        self._count += len(X)
        return self

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
        recall = self._recall(self._queries(X), self.n_neighbors)
        logits = (recall.scores / self.temperature).masked_fill(recall.slots == EMPTY, -torch.inf)
        weights = logits.softmax(dim=1)
        probabilities = weights.new_zeros(len(weights), len(self.classes_))
        # A neighbour that is EMPTY has weight 0, so it may be added anywhere.
        probabilities.scatter_add_(1, recall.values.clamp(min=0), weights)
        return np.asarray(probabilities.numpy()[:, self._order])

    def kneighbors(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """Distances (1 - cosine) and numbers of the nearest samples, nearest first.

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
            recall = self._recall(self._queries(X), k)
            slots, scores = recall.slots, recall.scores
        numbers = self.samples_[slots.numpy()]
        return ((1 - scores).clamp(min=0).numpy(), numbers) if return_distance else numbers

    def _queries(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return _nonzero(validate_data(self, X, dtype=np.float64, reset=False))

    def _recall(self, queries: Tensor, k: int) -> Recall:
        with torch.no_grad():
            return self.memory_(queries, k=k)  # type: ignore[no-any-return]


def _nonzero(X: NDArray[np.float64]) -> Tensor:
    """The samples with one more column: 1 for samples of zeros, which have no direction, else 0."""
    zeros = ~X.any(axis=1, keepdims=True)
    return torch.tensor(np.concatenate([X, zeros], axis=1))
