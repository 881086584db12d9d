"""Knowing that one does not know: how familiar an example is, and where to draw the line."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.classifier.blending import FORGOTTEN, Classes, Evidence, Weighing, weighed


def familiarity(
    evidence: Evidence, weighing: Weighing, classes: Classes
) -> Float[Tensor, " batch"]:
    """How much speaks for the class that most speaks for; any number, greater is surer.

    Without a host it is the cosine of the nearest remembered example. With one it is a cosine as
    well, of an example that alone would say as much: T max_y z_y, with z_y as in `blending` but for
    the host's log-odds log(p / (1 - p)) in place of log p, which do not saturate where p does; -inf
    where nothing speaks for any class.
    """
    if evidence.logits is None:
        return evidence.scores[:, 0]
    z = weighed(evidence, weighing, classes)
    columns = classes.columns(classes.host_ids).expand(len(z), -1)
    odds = torch.nn.functional.pad(torch.zeros_like(z), (0, 1))
    odds = odds.scatter(1, columns, _log_of_others(evidence.logits).to(z.dtype))
    best = torch.nn.functional.pad(z - weighing.host_weight * odds[:, :-1], (1, 0), value=FORGOTTEN)
    best = best.amax(1)
    return (weighing.temperature * best).masked_fill(best <= FORGOTTEN / 2, -torch.inf)


def _log_of_others(logits: Float[Tensor, "batch n_host"]) -> Float[Tensor, "batch n_host"]:
    """log(1 - p) of every class; not below -100, as where there is no other."""
    likeliest = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).bool()
    # Of the likeliest from the others, for 1 - p rounds to 0 where the host is sure.
    rest = logits.masked_fill(likeliest, -torch.inf).logsumexp(1, keepdim=True)
    surest = (rest - logits.logsumexp(1, keepdim=True)).clamp(min=-100.0)
    return torch.log1p(-logits.softmax(1).masked_fill(likeliest, 0.0)).where(~likeliest, surest)


def threshold_at(strangers: Float[Tensor, " batch"], far: float) -> float:
    """The least familiarity above which at most a fraction `far` of the strangers lies.

    It is the ceil((1 - far)(n + 1))-th smallest of the n, the quantile of split conformal
    prediction (Vovk et al. 2005): a stranger to come, exchangeable with these, lies above it with a
    probability of at most `far`. Too few strangers for so small a rate (n < 1 / far - 1) give the
    greatest of them, which is the most that they can say.

    Raises:
        ValueError: `far` is not between 0 and 1, there are no strangers, or nothing they could be
            taken for.
    """
    if not 0 < far < 1:
        raise ValueError(f"far, the false-accept rate, must be between 0 and 1, not {far}")
    if not len(strangers):
        raise ValueError("a threshold needs examples, and there are 0")
    if (strangers == -torch.inf).all():
        raise ValueError("nothing is known beside each example's own class: give unknown=")
    # (1 - 0.7) * 10 is a little more than 3, and must not be 4.
    place = math.ceil((1 - far) * (len(strangers) + 1) - 1e-9)
    return strangers.sort().values[min(place, len(strangers)) - 1].item()
