"""Accuracy on old classes, on new ones, and their harmonic mean, in percent."""

import math
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
    def harmonic(self) -> Accuracy:
        """2 old new / (old + new), 0 if either is; its interval is that of both, to first order."""
        old, new = self.old, self.new
        if not old.mean * new.mean:
            return Accuracy(0.0, 0.0)
        by_old = 2 * (new.mean / (old.mean + new.mean)) ** 2 * old.interval
        by_new = 2 * (old.mean / (old.mean + new.mean)) ** 2 * new.interval
        mean = 2 * old.mean * new.mean / (old.mean + new.mean)
        return Accuracy(mean, math.hypot(by_old, by_new))


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
