"""Confidence that means what it says: the weighing fitted by likelihood, the error measured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.classifier.blending import Weighing

Chances = Callable[[Weighing], Tensor]
"""The probabilities [batch, classes] under a weighing."""


class Alone(NamedTuple):
    """Which examples are of the host's own classes, and which it gets right by itself."""

    own: Bool[Tensor, " batch"]
    right: Bool[Tensor, " batch"]


class Calibration(NamedTuple):
    """What calibrating did: the expected calibration error before and after, and mean log-loss.

    Attributes:
        error_before: in [0, 1]; 0.05 means that confidence is off by five points on average.
        error: the same after fitting.
        loss_before: mean of -log p(right class).
        loss: the same after fitting.
        examples: how many there were to fit.
        base_alone: accuracy of the host by itself on its own classes; None if there were none.
        base: the same of host and memory together, after fitting.

    Example:
        >>> from rarememory import Memory, wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(2))
        >>> learnt = birds.learn(torch.eye(2), ["kea", "weka"])
        >>> held_out = torch.tensor([[0.8, 0.6], [0.8, 0.6], [0.6, 0.8]])
        >>> report = birds.calibrate(held_out, ["kea", "weka", "weka"])
        >>> report.examples, report.loss < report.loss_before
        (3, True)
    """

    error_before: float
    error: float
    loss_before: float
    loss: float
    examples: int
    base_alone: float | None = None
    base: float | None = None


def expected_calibration_error(
    confidences: Float[Tensor, " batch"], right: Bool[Tensor, " batch"], bins: int = 15
) -> float:
    """sum over bins of |bin| / n * |accuracy(bin) - confidence(bin)| (Guo et al. 2017, equation 3).

    The bins are of equal width.

    Example:
        >>> sure, right = torch.tensor([0.9, 0.9]), torch.tensor([True, False])
        >>> round(expected_calibration_error(sure, right), 3)
        0.4
    """
    confidences = confidences.double()
    places = (confidences * bins).ceil().clamp(1, bins).long() - 1
    gaps = confidences.new_zeros(bins).index_add_(0, places, right.double() - confidences)
    return gaps.abs().sum().item() / max(1, len(confidences))


def log_loss(
    chances: Float[Tensor, "batch classes"], columns: Int64[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean of -log p(right class); one that has no chance at all counts as 1e-12."""
    return -chances.gather(1, columns.unsqueeze(1)).clamp(min=1e-12).log().mean()


def fitted(
    chances: Chances, columns: Int64[Tensor, " batch"], start: Weighing
) -> tuple[Weighing, Calibration]:
    """The weighing under which the right classes are likeliest, and what it changed.

    The search begins at the best point of a coarse grid, since where the share is nearly 0 or 1 the
    likelihood is flat. Temperatures and width are fitted as logarithms, so that they stay positive;
    a weak pull towards where they start keeps them finite where a class is told apart without an
    error. If fitting makes it worse, the start is kept.
    """
    origin = torch.stack(_free(start)).double()
    nearby = [start, *(start._replace(host_score=s, host_weight=w) for s, w in _grid(start))]
    best = min(nearby, key=lambda weighing: log_loss(chances(weighing), columns).item())
    free = torch.stack(_free(best)).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [free], max_iter=50, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def step() -> float:
        optimizer.zero_grad()
        # Scaled so that cosines and logarithms move at the same pace.
        pull = ((free - origin) ** 2).sum() / 1000
        loss = log_loss(chances(_bound(free)), columns) + pull
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(step)
    weighing = _bound(free.detach())
    before, after = chances(start), chances(weighing)
    if not log_loss(after, columns) <= log_loss(before, columns):
        weighing, after = start, before
    return weighing, Calibration(
        _error(before, columns),
        _error(after, columns),
        log_loss(before, columns).item(),
        log_loss(after, columns).item(),
        len(columns),
    )


def kept(
    chances: Chances,
    columns: Int64[Tensor, " batch"],
    weighing: Weighing,
    report: Calibration,
    alone: Alone,
    keep: float,
) -> tuple[Weighing, Calibration]:
    """The least `host_bias`, from the fitted one on, with which the host's own classes keep theirs.

    They may lose `keep`, in [0, 1], of the accuracy that the host by itself has on them. Where no
    bias is enough, the fitted one stays.
    """
    if not alone.own.any():
        return weighing, report
    wanted = alone.right[alone.own].double().mean().item()

    def base(bias: Tensor) -> float:
        best = chances(weighing._replace(host_bias=bias)).argmax(1)
        return (best == columns)[alone.own].double().mean().item()

    # From the lowest cosine to the highest there are 2 / T.
    low, high = weighing.host_bias, weighing.host_bias + 2 / weighing.temperature
    if base(low) < wanted - keep <= base(high):
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if base(middle) < wanted - keep else (low, middle)
        weighing = weighing._replace(host_bias=high)
    after = chances(weighing)
    return weighing, report._replace(
        error=_error(after, columns),
        loss=log_loss(after, columns).item(),
        base_alone=wanted,
        base=base(weighing.host_bias),
    )


def _grid(start: Weighing) -> list[tuple[Tensor, Tensor]]:
    """Scores that a class of the host may be worth, and weights of its preference among them."""
    scores = torch.linspace(-1, 1, 11).to(start.host_score)
    return [(score, weight) for score in scores for weight in scores.new_tensor([0.1, 1.0])]


def _error(chances: Tensor, columns: Tensor) -> float:
    best = chances.max(1)
    return expected_calibration_error(best.values, best.indices == columns)


def _free(weighing: Weighing) -> list[Tensor]:
    temperature, host_score, host_weight, host_bias = weighing
    return [temperature.log(), host_score, host_weight.log(), host_bias]


def _bound(free: Tensor) -> Weighing:
    temperature, host_score, host_weight, host_bias = free
    return Weighing(temperature.exp(), host_score, host_weight.exp(), host_bias)
