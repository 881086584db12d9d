"""Accuracy on old classes, on new ones, and their harmonic mean, in percent."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.evaluation import Accuracy


class Accuracies(NamedTuple):
    """On old and on new classes, when the predicted class may be any of both."""

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
    predicted: Int64[Tensor, " queries"], classes: Int64[Tensor, " queries"], n_old: int
) -> Accuracies:
    """Means over classes (drawings of one are not independent); those below `n_old` are old."""
    correct, old = (predicted == classes).double(), classes < n_old
    return Accuracies(_of(correct[old], classes[old]), _of(correct[~old], classes[~old]))


def _of(correct: Float[Tensor, " queries"], classes: Int64[Tensor, " queries"]) -> Accuracy:
    names, places = classes.unique(return_inverse=True)
    sums = correct.new_zeros(len(names)).index_add_(0, places, correct)
    return Accuracy.of(sums / torch.bincount(places))
