"""Accuracy on old classes, on new ones, and their harmonic mean, in percent."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.evaluation import Accuracy


class Accuracies(NamedTuple):
    """Of old and of new classes, when an answer may be any of both."""

    old: Accuracy
    new: Accuracy

    @property
    def harmonic(self) -> float:
        """2 old new / (old + new), the measure of generalised few-shot learning; 0 if either is."""
        old, new = self.old.mean, self.new.mean
        return 2 * old * new / (old + new) if old * new else 0.0

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the harmonic mean, to first order."""
        old, new = self.old, self.new
        if not old.mean * new.mean:
            return 0.0
        by_old = 2 * (new.mean / (old.mean + new.mean)) ** 2 * old.interval
        by_new = 2 * (old.mean / (old.mean + new.mean)) ** 2 * new.interval
        return float((by_old**2 + by_new**2) ** 0.5)


def accuracies(
    answers: Int64[Tensor, " queries"], classes: Int64[Tensor, " queries"], n_old: int
) -> Accuracies:
    """Means over classes, for drawings of one are not independent; those below `n_old` are old."""
    right = (answers == classes).double()
    return Accuracies(_of(right, classes, classes < n_old), _of(right, classes, classes >= n_old))


def _of(
    right: Float[Tensor, " queries"], classes: Int64[Tensor, " queries"], chosen: Tensor
) -> Accuracy:
    right, classes = right[chosen], classes[chosen]
    names, places = classes.unique(return_inverse=True)
    sums = right.new_zeros(len(names)).index_add_(0, places, right)
    return Accuracy.of(sums / torch.bincount(places))
