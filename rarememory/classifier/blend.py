"""Memory and host combined into one answer: the sum of what each says of every class.

    z_y      = log([y in host] exp(host_score / T) + sum_{i: V[n_i] = y} exp(s_i / T))
               + [y in host] (host_weight log p_host(y | x) + host_bias + h(x))
    p(y | x) = exp(z_y) / sum_c exp(z_c)

with the scores s_i = q.K[n_i] of the neighbours, p_host = softmax(logits) and a term h for all of
the host's classes (`rarememory.classifier.max_logit`), most often 0. Logarithms are added,
as Tip-Adapter adds a cache to a classifier's logits (Zhang et al. 2022, equation 6), so the two are
multiplied, and either can veto: a product of experts (Hinton 2002). kNN-LM takes the weighted mean
of a memory and a model instead (Khandelwal et al. 2020, equation 3); with it the host's classes
lost more accuracy, or new ones had less (benchmarks.generalised).

A class of the host counts as if an example of it were remembered at the cosine `host_score`: it can
be predicted without an example, and a remembered example of another class that is nearer outweighs
it. Without a host this is the vote of Kaiser et al. 2017, section 2; with an empty memory the host
alone answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.derived import Derived
from rarememory.base.state import EMPTY, wants_gradient
from rarememory.native import empty_output, is_floats, is_supported, library

FOUND = torch.inf
"""A host score that stands for the one that the reader of the memory finds."""
EXCLUDED = -1e30
"""The logit of a class that may not be predicted; finite, so that gradients are finite."""


class BlendWeights(NamedTuple):
    """The four numbers of the formula above: T, host_score, host_weight, host_bias.

    Example:
        >>> from rarememory import wrap
        >>> wrap(torch.nn.Linear(4, 2), host_score=0.5).blend_weights.host_score
        tensor(0.5000)
    """

    temperature: Float[Tensor, ""]
    host_score: Float[Tensor, ""]
    host_weight: Float[Tensor, ""]
    host_bias: Float[Tensor, ""]


class Evidence(NamedTuple):
    """What memory and host say of each example.

    Attributes:
        scores: of k neighbours, or of k classes; -inf where there is none.
        values: their integers; EMPTY where there is none.
        logits: of the host's classes; EXCLUDED for a forgotten one; None without a host.
        host_score: that which the reader of the memory finds, where the weights have FOUND.
        follows: whether that follows the memory, so that calibration leaves it to the reader.
        find_plain: gives what familiarity takes the mean with, beside the greatest score
            (`rarememory.classifier.class_cosines`); None if it is the score alone.
        host_terms: h, added for all classes of the host; None for 0.
    """

    scores: Float[Tensor, "batch k"]
    values: Int64[Tensor, "batch k"]
    logits: Float[Tensor, "batch n_host"] | None
    host_score: float = 0.8
    follows: bool = False
    find_plain: Callable[[], Float[Tensor, " batch"]] | None = None
    host_terms: Float[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Classes:
    """The classes that may be predicted.

    Attributes:
        ids: their integers, ascending.
        host_ids: the integer of each of the host's classes, EMPTY for a forgotten one.
    """

    ids: Int64[Tensor, " classes"]
    host_ids: Int64[Tensor, " n_host"]
    _of_row: Derived[Tensor] = field(default_factory=Derived, init=False)

    @cached_property
    def host_columns(self) -> Int64[Tensor, " n_host"]:
        """The index of each of the host's classes among the ids; len(ids) for a forgotten one."""
        return self.columns(self.host_ids)

    @cached_property
    def integers(self) -> list[int]:
        """The ids for the host, and EMPTY in the column after them."""
        return [*self.ids.tolist(), EMPTY]

    def columns(self, values: Int64[Tensor, "*rows"]) -> Int64[Tensor, "*rows"]:
        """The index of each integer among the ids; len(ids) for EMPTY."""
        if values.dim() == 2 and (len(values) == 1 or (len(values) and values.stride(0) == 0)):
            # All rows are one row in memory, often the same as last time.
            return self._of_row.of(self.columns, values[0]).expand_as(values)
        columns = torch.searchsorted(self.ids, values.contiguous())
        return columns.where(values != EMPTY, len(self.ids))


def resolved(weights: BlendWeights, host_score: float) -> BlendWeights:
    """The weights, with the host score that the reader finds where they have none of their own."""
    return weights._replace(host_score=weights.host_score.nan_to_num(posinf=host_score))


def unremembered_logits(
    evidence: Evidence, weights: BlendWeights, logs: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The z of classes of the host of which nothing is remembered.

    Args:
        evidence: in which the reader says what score they have.
        weights: of the blend.
        logs: their log-probabilities; for familiarity their log-odds.
    """
    weights = resolved(weights, evidence.host_score)
    prior = weights.host_score / weights.temperature
    z = prior + weights.host_weight * logs + weights.host_bias
    return z if evidence.host_terms is None else z + evidence.host_terms


def class_logits(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> Float[Tensor, "batch columns"]:
    """The z of every class; EXCLUDED for one without evidence and, last, for no class at all."""
    found = _natively(evidence, weights, classes)
    return _class_logits(evidence, weights, classes)[0] if found is None else found[0]


def likeliest(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> tuple[Float[Tensor, "batch columns"], Int64[Tensor, " batch"]]:
    """The z of every class as in `class_logits`, and the index of the likeliest.

    Of equal classes it is the first; the number of classes where none has any evidence.
    """
    found = _natively(evidence, weights, classes)
    if found is not None:
        return found
    z, _ = _class_logits(evidence, weights, classes)
    best = z.max(1)
    return z, best.indices.where(best.values > EXCLUDED / 2, len(classes.ids))


def probabilities(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> Float[Tensor, "batch classes"]:
    """The probability of every class; all are 0 where no class has any evidence."""
    z = class_logits(evidence, weights, classes)
    p = z.softmax(1) * (z > EXCLUDED / 2)
    return p[:, :-1]


def example_weights(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> Float[Tensor, "batch k"]:
    """Each neighbour's share of the answer: its term of exp(z_y), over the sum of all exp(z_c)."""
    z, host = _class_logits(evidence, weights, classes)
    columns = classes.columns(evidence.values)
    shares = _exponents(evidence, weights) + host.gather(1, columns) - z.logsumexp(1, keepdim=True)
    return shares.masked_fill(evidence.values == EMPTY, EXCLUDED).exp()


def _class_logits(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> tuple[Tensor, Tensor]:
    """z of every class, and the host's term in it; the last column collects empty neighbours."""
    columns, exponents = classes.columns(evidence.values), _exponents(evidence, weights)
    host = exponents.new_zeros(len(exponents), len(classes.ids) + 1)
    if evidence.logits is not None:
        host_columns = classes.host_columns.expand(len(host), -1)
        allowed = evidence.logits > EXCLUDED / 2
        term = weights.host_weight * evidence.logits.log_softmax(1) + weights.host_bias
        if evidence.host_terms is not None:
            term = term + evidence.host_terms.unsqueeze(1)
        host = host.scatter(1, host_columns, term.where(allowed, 0.0).to(host.dtype))
        host_score = resolved(weights, evidence.host_score).host_score
        prior = (host_score / weights.temperature).to(host.dtype)
        columns = torch.cat([columns, host_columns], 1)
        exponents = torch.cat([exponents, prior.where(allowed, EXCLUDED)], 1)
    # The log-sum-exp of each class; its maximum is subtracted, so that no sum underflows.
    highest = torch.full_like(host, EXCLUDED)
    highest = highest.scatter_reduce(1, columns, exponents.detach(), "amax")
    terms = (exponents - highest.gather(1, columns)).exp()
    sums = torch.zeros_like(host).scatter_add(1, columns, terms)
    has_evidence = highest > EXCLUDED / 2
    z = sums.where(has_evidence, 1.0).log() + highest + host
    return z.where(has_evidence, EXCLUDED), host


def _natively(
    evidence: Evidence, weights: BlendWeights, classes: Classes
) -> tuple[Float[Tensor, "batch columns"], Int64[Tensor, " batch"]] | None:
    """`likeliest` in one call; None for a gradient, and where the library cannot read these."""
    scores, values, logits, found = evidence[:4]
    terms = evidence.host_terms
    given = [scores, *weights, *(one for one in (logits, terms) if one is not None)]
    fits = logits is None or logits.shape == (len(scores), len(classes.host_ids))
    readable = is_floats(*given) and is_supported(classes.ids, classes.host_ids)
    if wants_gradient(*given) or not (fits and readable):
        return None
    columns, count = classes.columns(values), len(classes.ids)
    z = empty_output(len(scores), count + 1, dtype=torch.float32)
    best = empty_output(len(scores), dtype=torch.int64)
    host: tuple[Tensor | None, int, Tensor | None] = (None, 0, None)
    if logits is not None:
        host = (logits, logits.shape[1], classes.host_columns)
    library().blend(
        *(scores, *scores.shape, columns, columns.stride(0), *host),
        *(weights.temperature, weights.host_score, found, weights.host_weight, weights.host_bias),
        *(terms, count, EXCLUDED, torch.get_num_threads(), z, best),
    )
    return z, best


def _exponents(evidence: Evidence, weights: BlendWeights) -> Float[Tensor, "batch k"]:
    """s_i / T; EXCLUDED where there is no neighbour."""
    nothing = evidence.values == EMPTY
    # There the score is -inf, whose gradient would be NaN.
    scores = evidence.scores.masked_fill(nothing, 0.0)
    return (scores / weights.temperature).masked_fill(nothing, EXCLUDED)
