"""One answer of two: what the memory and the host have to say for each class, added up.

    z_y      = log([y in host] exp(host_score / T) + sum_{i: V[n_i] = y} exp(s_i / T))
               + [y in host] (host_weight log p_host(y | x) + host_bias)
    p(y | x) = exp(z_y) / sum_c exp(z_c)

with the scores s_i = q.K[n_i] of the neighbours and p_host = softmax(logits). What is added are
logarithms, as Tip-Adapter adds a cache to a classifier's logits (Zhang et al. 2022, equation 6), so
that the two are multiplied, and either can object: a product of experts (Hinton 2002). Where kNN-LM
mixes a memory with a model instead (Khandelwal et al. 2020, equation 3), base classes kept less of
their accuracy, or new ones had less (benchmarks.generalised).

A class of the host counts as if an example of it were remembered at the cosine `host_score`: it can
be answered without one, and a remembered example that is nearer outweighs it. Without a host this
is the vote of Kaiser et al. 2017, section 2; with an empty memory the host answers.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY

FORGOTTEN = -1e30
"""The logit of a class that is not to be answered; finite, and so are gradients."""


class Weighing(NamedTuple):
    """The four numbers of the formula above: T, host_score, host_weight, host_bias."""

    temperature: Tensor
    host_score: Tensor
    host_weight: Tensor
    host_bias: Tensor


class Evidence(NamedTuple):
    """What memory and host say of each example, before it is weighed.

    Attributes:
        scores: of the neighbours, best first; -inf where there is none.
        values: their integers; EMPTY where there is none.
        logits: of the host's classes; FORGOTTEN for one that was; None without a host.
    """

    scores: Float[Tensor, "batch k"]
    values: Int64[Tensor, "batch k"]
    logits: Float[Tensor, "batch n_host"] | None


class Classes(NamedTuple):
    """The classes that may be answered.

    Attributes:
        ids: their integers, ascending.
        host_ids: integer of each of the host's classes, EMPTY for one that was forgotten.
    """

    ids: Int64[Tensor, " classes"]
    host_ids: Int64[Tensor, " n_host"]

    def columns(self, values: Int64[Tensor, "*rows"]) -> Int64[Tensor, "*rows"]:
        """The place of each integer among the ids; for EMPTY one behind the last."""
        places = torch.searchsorted(self.ids, values)
        return places.where(values != EMPTY, len(self.ids))


def weighed(
    evidence: Evidence, weighing: Weighing, classes: Classes
) -> Float[Tensor, "batch classes"]:
    """The z of every class; FORGOTTEN for one that nothing speaks for."""
    z, _ = _weighed(evidence, weighing, classes)
    return z[:, :-1]


def blended(
    evidence: Evidence, weighing: Weighing, classes: Classes
) -> Float[Tensor, "batch classes"]:
    """The probability of every class; all are 0 where nothing is known at all."""
    z = weighed(evidence, weighing, classes)
    # A column more, for there may be no class.
    chances = torch.nn.functional.pad(z, (0, 1), value=FORGOTTEN).softmax(1)[:, :-1]
    return chances * (z > FORGOTTEN / 2)


def example_weights(
    evidence: Evidence, weighing: Weighing, classes: Classes
) -> Float[Tensor, "batch k"]:
    """The part of the answer that each neighbour is: its term of exp(z_y) by the sum of all."""
    z, host = _weighed(evidence, weighing, classes)
    columns = classes.columns(evidence.values)
    parts = _exponents(evidence, weighing) + host.gather(1, columns) - z.logsumexp(1, keepdim=True)
    return parts.masked_fill(evidence.values == EMPTY, FORGOTTEN).exp()


def _weighed(evidence: Evidence, weighing: Weighing, classes: Classes) -> tuple[Tensor, Tensor]:
    """The z of every class, and what the host adds to it; a last column takes what is of none."""
    columns, exponents = classes.columns(evidence.values), _exponents(evidence, weighing)
    host = exponents.new_zeros(len(exponents), len(classes.ids) + 1)
    if evidence.logits is not None:
        host_columns = classes.columns(classes.host_ids).expand(len(host), -1)
        heard = evidence.logits > FORGOTTEN / 2
        preferred = weighing.host_weight * evidence.logits.log_softmax(1) + weighing.host_bias
        host = host.scatter(1, host_columns, preferred.masked_fill(~heard, 0.0).to(host.dtype))
        unseen = (weighing.host_score / weighing.temperature).to(host.dtype)
        columns = torch.cat([columns, host_columns], 1)
        exponents = torch.cat([exponents, unseen.where(heard, FORGOTTEN)], 1)
    # The logarithm of a sum of exponentials by class, less the greatest, so that none underflows.
    highest = torch.full_like(host, FORGOTTEN)
    highest = highest.scatter_reduce(1, columns, exponents.detach(), "amax")
    terms = (exponents - highest.gather(1, columns)).exp()
    sums = torch.zeros_like(host).scatter_add(1, columns, terms)
    spoken_for = highest > FORGOTTEN / 2
    z = sums.where(spoken_for, 1.0).log() + highest + host
    return z.where(spoken_for, FORGOTTEN), host


def _exponents(evidence: Evidence, weighing: Weighing) -> Float[Tensor, "batch k"]:
    """s_i / T; FORGOTTEN where there is no neighbour."""
    # There the score is -inf, through which no gradient would come back whole.
    scores = evidence.scores.masked_fill(evidence.values == EMPTY, 0.0)
    return (scores / weighing.temperature).masked_fill(evidence.values == EMPTY, FORGOTTEN)
