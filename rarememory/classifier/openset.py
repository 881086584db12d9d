"""Unknown classes: how familiar an example is, and the threshold below which it is unknown."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.blend import (
    EXCLUDED,
    BlendWeights,
    Classes,
    Evidence,
    class_logits,
    unremembered_logits,
)

SEVERAL = 5
"""Examples of a class that tell something of a quantile of theirs."""


def familiarity(
    evidence: Evidence,
    weights: BlendWeights,
    classes: Classes,
    z: Float[Tensor, "batch columns"] | None = None,
) -> Float[Tensor, " batch"]:
    """The evidence for the best class: any number, greater is surer.

    Without a host it is the cosine of the nearest remembered example; with the fitted reader it is
    the mean of the greatest logit and of the greatest plain cosine with a class mean, times t
    (`rarememory.classifier.class_cosines`). With a host it is on the same
    scale, as the cosine of an example that alone would give as much evidence: T max_y z_y, with z_y
    as in `blend`, but the host's log-odds log(p / (1 - p)) in place of log p, because log-odds do
    not saturate as p does near 1. It is -inf where no class has any evidence. Who has the z of the
    classes already gives them too.
    """
    if evidence.logits is None:
        # One column more, because there may be no class.
        best = torch.nn.functional.pad(evidence.scores, (1, 0), value=-torch.inf).amax(1)
        return best if evidence.find_plain is None else (best + evidence.find_plain()) / 2
    if z is None:
        z = class_logits(evidence, weights, classes)
    columns = classes.host_columns.expand(len(z), -1)
    others = torch.zeros_like(z)
    others = others.scatter(1, columns, _log_of_others(evidence.logits).to(z.dtype))
    best = (z - weights.host_weight * others).amax(1)
    return (weights.temperature * best).masked_fill(best <= EXCLUDED / 2, -torch.inf)


def familiarity_by_confidence(
    evidence: Evidence,
    confidences: Float[Tensor, " batch"],
    weights: BlendWeights,
    classes: Classes,
) -> Float[Tensor, " batch"]:
    """`familiarity` where the host's highest probability is all that is known of its answer.

    Nothing is remembered of the host's classes, so the likeliest of them has the most evidence.
    """
    of_memory = class_logits(evidence._replace(logits=None), weights, classes).amax(1)
    of_host = unremembered_logits(evidence, weights, confidences.logit())
    return weights.temperature * torch.maximum(of_memory, of_host)


def _log_of_others(logits: Float[Tensor, "batch n_host"]) -> Float[Tensor, "batch n_host"]:
    """log(1 - p) of every class, at least -100."""
    likeliest = torch.zeros_like(logits, dtype=torch.bool)
    likeliest = likeliest.scatter(1, logits.argmax(1, keepdim=True), value=True)
    # For the likeliest from the logits of the others: 1 - p rounds to 0 where p is near 1.
    rest = logits.masked_fill(likeliest, -torch.inf).logsumexp(1, keepdim=True)
    of_likeliest = (rest - logits.logsumexp(1, keepdim=True)).clamp(min=-100.0)
    of_rest = torch.log1p(-logits.softmax(1).masked_fill(likeliest, 0.0))
    return torch.where(likeliest, of_likeliest, of_rest)


def without_own_class(
    evidence: Evidence, own_ids: Int64[Tensor, " batch"], host_ids: Int64[Tensor, " n_host"]
) -> Evidence:
    """The evidence for each example less that for its own class.

    Args:
        evidence: of memory and host.
        own_ids: the integer of each example's own class.
        host_ids: the integers of the host's classes.
    """
    own, logits = own_ids.unsqueeze(1), evidence.logits
    is_own = evidence.values == own
    return evidence._replace(
        scores=evidence.scores.masked_fill(is_own, -torch.inf),
        values=evidence.values.masked_fill(is_own, EMPTY),
        logits=None if logits is None else logits.masked_fill(host_ids == own, EXCLUDED),
    )


class Threshold(float):
    """A threshold, and what it is expected to do.

    Attributes:
        false_accept_rate: of unknown examples: of a typical class that is not known, or of
            examples like those that were given as unknown.
        alike: the rate of unknown examples that are as like the known classes as these are like
            each other; None if it was fitted to unknown examples.
        known_accepted: the share of known examples that is accepted; None if there is nothing to
            measure it by.
        interval: half of the 95 % interval of `known_accepted` (Wilson 1927, not 0 where all are
            accepted); None where that is.
        unknown_interval: the same of the rate that was measured on unknown examples: `alike`, or
            `false_accept_rate` where that is None. It takes the examples for independent.
        examples: how many examples it was fitted to.

    Example:
        >>> found = Threshold(0.5, unknown=torch.tensor([0.1, 0.9]), known=torch.tensor([0.8]))
        >>> print(found)
        threshold 0.500: false accepts 50.0 +- 40.5 %, known accepted 100.0 +- 39.7 %
    """

    false_accept_rate: float
    alike: float | None
    known_accepted: float | None
    interval: float | None
    unknown_interval: float
    examples: int

    def __new__(
        cls,
        threshold: float,
        unknown: Float[Tensor, " unknown"],
        known: Float[Tensor, " known"] | None = None,
        requested: float | None = None,
    ) -> "Threshold":
        """The threshold with its rates.

        Args:
            threshold: itself.
            unknown: familiarities of examples that should not be accepted.
            known: familiarities of examples that should be.
            requested: the rate that a typical class was given, if the unknown ones were known
                examples without their own class.
        """
        self = super().__new__(cls, threshold)
        measured = (unknown > threshold).double().mean().item()
        self.false_accept_rate = measured if requested is None else requested
        self.alike = None if requested is None else measured
        self.unknown_interval = _wilson(measured, len(unknown))
        self.known_accepted = self.interval = None
        if known is not None and len(known):
            share = (known > threshold).double().mean().item()
            self.known_accepted = share
            self.interval = _wilson(share, len(known))
        self.examples = len(unknown)
        return self

    def __str__(self) -> str:
        """One sentence."""
        rate, half = 100 * self.false_accept_rate, 100 * self.unknown_interval
        if self.alike is None:
            parts = [f"threshold {float(self):.3f}: false accepts {rate:.1f} +- {half:.1f} %"]
        else:
            parts = [
                f"threshold {float(self):.3f}: false accepts {rate:.1f} %",
                f"{100 * self.alike:.1f} +- {half:.1f} % of classes as alike as the known ones",
            ]
        if self.known_accepted is not None and self.interval is not None:
            share, half = 100 * self.known_accepted, 100 * self.interval
            parts.append(f"known accepted {share:.1f} +- {half:.1f} %")
        return ", ".join(parts)


def _wilson(share: float, count: int) -> float:
    """Half of the interval z / (1 + z^2/n) sqrt(p (1 - p)/n + z^2/(4 n^2)) of a share p of n."""
    z = 1.96
    return z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)


def typical_threshold(
    familiarities: Float[Tensor, " batch"], own_ids: Int64[Tensor, " batch"], rate: float
) -> float:
    """The threshold that a typical class, were it unknown, would exceed at this rate.

    The median over classes of the quantile of each one's examples, answered without their own
    class. An average over all examples would be decided by the few classes that have a near
    duplicate among the others. Classes of fewer than 5 examples say too little of their own
    quantile: with half of the classes so small it is `threshold_at` of all examples.
    """
    quantiles = [
        some.quantile(1 - rate)
        for some in (familiarities[own_ids == own] for own in own_ids.unique())
        if len(some) >= SEVERAL and not (some == -torch.inf).any()
    ]
    if 2 * len(quantiles) <= len(own_ids.unique()):
        return threshold_at(familiarities, rate)
    _check_rate(rate)
    return torch.stack(quantiles).median().item()


def threshold_at(unknown: Float[Tensor, " batch"], false_accept_rate: float) -> float:
    """The least threshold that at most `false_accept_rate` of unknown examples exceed.

    It is the ceil((1 - rate)(n + 1))-th smallest of their n familiarities, the quantile of split
    conformal prediction (Vovk et al. 2005): a new unknown example, exchangeable with these, exceeds
    it with a probability of at most `false_accept_rate`. Too few examples for so small a rate
    (n < 1 / rate - 1) give the greatest of them.

    Raises:
        ValueError: the rate is not between 0 and 1, there are no examples, or no class has evidence
            for any of them.
    """
    _check_rate(false_accept_rate)
    if not len(unknown):
        raise ValueError("a threshold needs examples, and there are 0")
    if (unknown == -torch.inf).all():
        raise ValueError("nothing is known beside each example's own class: give unknown=")
    # (1 - 0.7) * 10 is a little more than 3 in floating point, and must give 3.
    rank = math.ceil((1 - false_accept_rate) * (len(unknown) + 1) - 1e-9)
    return unknown.sort().values[min(rank, len(unknown)) - 1].item()


def are_few(count: int, false_accept_rate: float) -> bool:
    """Whether so many unknown examples are too few to tell of so small a rate.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    _check_rate(false_accept_rate)
    return count < 1 / false_accept_rate - 1


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"false_accept_rate must be between 0 and 1, not {rate}")
