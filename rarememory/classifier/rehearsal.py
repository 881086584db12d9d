"""Rehearsal: old against new classes, weighed by what remembered examples would be answered.

The classes of the host and those that were learnt beside them rest on unequal numbers of examples,
and a class of few examples answers less often than it should. How much less is found out by the
remembered examples, left out one at a time: no calibration data are needed.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.classifier.discriminant import LeftOut

FOREIGN_QUANTILE = 0.75
LONE_COSINE = 0.4
"""Of an example that is alone: how alike others of its class will be cannot be found out."""
_SEEN = 0.1
_OFFSETS = 99


def host_level(left_out: LeftOut, log_confidences: Float[Tensor, " examples"]) -> float:
    """The logit of a host's class of which nothing is remembered.

    A class of the host answers an example if this and its log-probability are more than the best
    logit of the memory. Of an example of its own classes the host is at least as sure as it was of
    the remembered ones, and it is as foreign to the remembered classes as these are to each other:
    that speaks for a high quantile of the best logit that another class gives to a remembered
    example, less the log-probability that the host gave it. But a few classes say little of how
    foreign many others are. What is known too is what classes say of their own examples, left out:
    of C classes this is 1 / sqrt(C) of the way from that quantile to the median of the own ones,
    and at most this median. Where no class has two examples, what they say of the ones that they
    have seen is more than they will say of others: it is a tenth of that way.

    There must be three classes, so that leaving one out leaves several.

    Args:
        left_out: of all remembered examples.
        log_confidences: the log-probability of the host's likeliest class for each of them.
    """
    foreign = (left_out.foreign.amax(1) - log_confidences).quantile(FOREIGN_QUANTILE).item()
    own, part = left_out.logits.amax(1) - log_confidences, left_out.logits.shape[1] ** -0.5
    if left_out.several.any():
        return between(foreign, own[left_out.several], part)
    return between(foreign, own, _SEEN * part)


def nearest_level(
    cosines: Float[Tensor, "examples examples"],
    places: Int64[Tensor, " examples"],
    log_confidences: Float[Tensor, " examples"],
) -> float:
    """The same as a cosine, where one or two classes are told by that of the nearest example.

    Foreign is what `LONE_COSINE` says, or what one of the two classes says of the other if that is
    more; this is halfway from there to the median of the own ones.

    Args:
        cosines: of all remembered examples with each other.
        places: the class of each.
        log_confidences: as in `host_level`, over the scale of the cosines.
    """
    if not len(cosines):
        return LONE_COSINE
    shift = log_confidences.median().item()
    same = places.unsqueeze(1) == places
    own = cosines.masked_fill(~same, -torch.inf).fill_diagonal_(-torch.inf).amax(1)
    foreign = LONE_COSINE - shift
    if not same.all():
        other = cosines.masked_fill(same, -torch.inf).amax(1) - log_confidences
        foreign = max(foreign, other.quantile(FOREIGN_QUANTILE).item())
    known = own > -torch.inf
    if known.any():
        return between(foreign, (own - log_confidences)[known], 0.5)
    # However alike two single examples are, more is like each of them than itself.
    return min(foreign, (LONE_COSINE + 1) / 2 - shift)


def between(foreign: float, own: Float[Tensor, " examples"], part: float) -> float:
    """This part of the way from how foreign others are to the median of the own; at most that."""
    median = own.median().item()
    return min(median, foreign + part * (median - foreign))


def new_class_offset(left_out: LeftOut, of_host: Bool[Tensor, " classes"]) -> float:
    """What to add to the logits of new classes, for the harmonic mean of old and new accuracy.

    New classes with several examples are judged by their own examples. If they have one each, the
    host's classes stand in for them: each example is asked for by one other of its class.

    Args:
        left_out: of all remembered examples.
        of_host: which classes are the host's.
    """
    old = of_host[left_out.classes]
    usable = left_out.several & old
    if not usable.any() or of_host.all():
        return 0.0
    judged = left_out.several & ~old
    gaps, right = _gaps(left_out.logits, left_out.classes, of_host)
    if judged.any():
        return _best_offset(gaps[usable], right[usable], gaps[judged], right[judged])
    new_gaps, new_right = _as_one_shot(left_out, of_host, usable)
    return _best_offset(gaps[usable], right[usable], new_gaps, new_right)


def harmonic_mean(old: Float[Tensor, "*"], new: Float[Tensor, "*"]) -> Float[Tensor, "*"]:
    """2 old new / (old + new); 0 where both are.

    Example:
        >>> harmonic_mean(torch.tensor(0.6), torch.tensor(0.3))
        tensor(0.4000)
    """
    return 2 * old * new / (old + new).clamp(min=1e-12)


def _gaps(
    logits: Tensor, classes: Tensor, of_host: Tensor
) -> tuple[Float[Tensor, " examples"], Bool[Tensor, " examples"]]:
    """The best old logit less the best new one; and whether the best of its own kind is right."""
    old = logits.masked_fill(~of_host, -torch.inf).max(1)
    new = logits.masked_fill(of_host, -torch.inf).max(1)
    best = torch.where(of_host[classes], old.indices, new.indices)
    return old.values - new.values, best == classes


def _as_one_shot(
    left_out: LeftOut, of_host: Tensor, usable: Tensor
) -> tuple[Float[Tensor, " examples"], Bool[Tensor, " examples"]]:
    """The same of the host's examples, as if their class were new and had one other example."""
    classes, places = left_out.classes[usable], usable.nonzero().squeeze(1)
    # Examples come class by class: the next one, or the first of the class after its last.
    after = torch.arange(1, len(classes) + 1, device=classes.device) % len(classes)
    first = torch.searchsorted(classes, classes)
    other = torch.where(classes[after] == classes, after, first)
    own = left_out.one_shot(places, places[other])
    others = left_out.of_others[usable]
    old = others.masked_fill(~of_host, -torch.inf).amax(1)
    new = others.masked_fill(of_host, -torch.inf).amax(1)
    return old - own, own > new


def _best_offset(old_gaps: Tensor, old_right: Tensor, new_gaps: Tensor, new_right: Tensor) -> float:
    """The middle of the offsets with the greatest harmonic mean of both accuracies."""
    steps = torch.linspace(0.01, 0.99, _OFFSETS, device=old_gaps.device, dtype=old_gaps.dtype)
    offsets = torch.cat([old_gaps, new_gaps]).quantile(steps)
    above = old_gaps.unsqueeze(1) > offsets
    below = new_gaps.unsqueeze(1) <= offsets
    old = (above & old_right.unsqueeze(1)).to(offsets).mean(0)
    new = (below & new_right.unsqueeze(1)).to(offsets).mean(0)
    means = harmonic_mean(old, new)
    return offsets[means == means.max()].median().item()
