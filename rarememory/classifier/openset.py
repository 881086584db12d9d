"""Knowing that one does not know: how familiar an example is, and where to draw the line."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.classifier.blending import FORGOTTEN, Weighing


def familiarity(
    nearest: Float[Tensor, " batch"],
    logits: Float[Tensor, "batch n_host"] | None,
    weighing: Weighing,
) -> Float[Tensor, " batch"]:
    """How surely memory or host have met an example's class; any real number, greater is surer.

    Without a host it is the cosine of the nearest remembered example. With one it is
    -log[(1 - share)(1 - max p_host)], the negative logarithm of the chance that neither knows it,
    which does not saturate where the chances do; share and p_host as in `blending`.

    Args:
        nearest: score of the nearest remembered example; -inf if there is none.
        logits: the host's.
        weighing: as in `blending`.
    """
    if logits is None:
        return nearest
    unseen = torch.nn.functional.softplus((nearest - weighing.host_score) / weighing.width)
    scaled = logits.to(nearest.dtype) / weighing.host_temperature
    best = torch.nn.functional.one_hot(scaled.argmax(1), scaled.shape[1]).bool()
    # log(1 - max p) from the other classes, for 1 - p rounds to 0 where the host is sure.
    others = scaled.masked_fill(best, -torch.inf).logsumexp(1) - scaled.logsumexp(1)
    speechless = (logits <= FORGOTTEN).all(1)
    return unseen - others.masked_fill(speechless, 0.0).clamp(min=-100.0)


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
