"""The door to scikit-learn: nearest neighbours that go on learning, as an estimator."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from rarememory.base.state import EMPTY, Recall
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import FirstInFirstOut, Update


class MemoryNeighbors(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours by cosine, answered by a memory: it learns on, and new classes too.

    Every sample gets a slot; one of zeros, which has no direction, is at right angles to all the
    others. `partial_fit` needs no `classes=` and never forgets what came before, unless
    `memory_size` says how much there may be: then the oldest goes. Samples vote with
    softmax(cosine / temperature) (Kaiser et al. 2017, section 2).

    Args:
        n_neighbors: how many samples vote.
        temperature: the smaller, the more the nearest decides.
        memory_size: samples to remember; None for all of them.
        update: the policy of writing; `FirstInFirstOut`, a slot a sample, if None.
        lookup: the search, as in `Memory`.

    Attributes:
        classes_: the classes met so far, sorted.
        memory_: the `Memory`; its values are places in the order in which classes came.
        samples_: for each slot the number of the sample in it, counted over all calls.

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
        """Remember the samples, and nothing else.

        Raises:
            ValueError: an input is not as scikit-learn wants it.
        """
        return self._learn(X, y, None, anew=True)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> "MemoryNeighbors":
        """Remember the samples beside those remembered already.

        Args:
            X: samples [n_samples, n_features].
            y: their classes; new ones may come at any time.
            classes: need not be given; if they are, they are in `classes_` from now on.
        """
        return self._learn(X, y, classes, anew=not hasattr(self, "memory_"))

    def _learn(self, X: Any, y: Any, classes: Any, *, anew: bool) -> "MemoryNeighbors":
        X, y = validate_data(self, X, y, dtype=np.float64, reset=anew)
        check_classification_targets(y)
        if anew:
            size = len(X) if self.memory_size is None else self.memory_size
            self._met, self._count = np.asarray(y)[:0], 0
            self.memory_ = self._memory(X.shape[1] + 1, size)
            self.samples_ = np.full(size, EMPTY)
        self._meet(y if classes is None else np.concatenate([np.asarray(classes), y]))
        if self.memory_size is None and self.update is None:
            self._grow(self._count + len(X))
        write = self.memory_.write(_directed(X), torch.from_numpy(self._places_of(y)))
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

    def _meet(self, y: NDArray[Any]) -> None:
        self._met = np.concatenate([self._met, np.setdiff1d(y, self._met)])
        self._order = np.argsort(self._met)
        self.classes_ = self._met[self._order]

    def _places_of(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """Where the classes stand in the order they came."""
        return self._order[np.searchsorted(self.classes_, y)].astype(np.int64)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest class of each sample."""
        chances = self.predict_proba(X)
        return np.asarray(self.classes_[chances.argmax(axis=1)])

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of every class, in the order of `classes_`."""
        recall = self._recall(self._queries(X), self.n_neighbors)
        logits = (recall.scores / self.temperature).masked_fill(recall.slots == EMPTY, -torch.inf)
        weights = logits.softmax(dim=1)
        chances = weights.new_zeros(len(weights), len(self.classes_))
        # What is not there has weight 0, wherever it is added.
        chances.scatter_add_(1, recall.values.clamp(min=0), weights)
        return np.asarray(chances.numpy()[:, self._order])

    def kneighbors(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest samples: distances 1 - cosine, and their numbers, counted over all calls.

        Args:
            X: samples to ask about; None for those remembered, none of which is its own neighbour.
            n_neighbors: how many; as many as vote if None.
            return_distance: whether to give the distances too.

        Raises:
            ValueError: fewer samples are remembered than neighbours asked for.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        there = len(self.memory_) - (X is None)
        if not 1 <= k <= there:
            raise ValueError(f"n_neighbors must be between 1 and the {there} samples, not {k}")
        if X is None:
            in_order = np.argsort(np.where(self.samples_ == EMPTY, self._count, self.samples_))
            own = torch.from_numpy(in_order[: len(self.memory_)])
            recall = self._recall(self.memory_.keys[own], k + 1)
            slots, scores = _without(own, recall, k)
        else:
            recall = self._recall(self._queries(X), k)
            slots, scores = recall.slots, recall.scores
        numbers = self.samples_[slots.numpy()]
        return ((1 - scores).clamp(min=0).numpy(), numbers) if return_distance else numbers

    def _queries(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return _directed(validate_data(self, X, dtype=np.float64, reset=False))

    def _recall(self, queries: Tensor, k: int) -> Recall:
        with torch.no_grad():
            return self.memory_(queries, k=k)  # type: ignore[no-any-return]


def _directed(X: NDArray[np.float64]) -> Tensor:
    """The samples with a number more, 1 for those of zeros: a direction that is theirs alone."""
    zeros = ~X.any(axis=1, keepdims=True)
    return torch.tensor(np.concatenate([X, zeros], axis=1))


def _without(own: Tensor, recall: Recall, k: int) -> tuple[Tensor, Tensor]:
    """The k best neighbours of every slot that are not the slot itself."""
    others = recall.slots != own.unsqueeze(1)
    # A slot behind more than k equal ones is not among its own neighbours: then the last goes.
    others[:, -1] &= ~others.all(dim=1)
    return recall.slots[others].view(-1, k), recall.scores[others].view(-1, k)
