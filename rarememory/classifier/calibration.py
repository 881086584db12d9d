"""Calibration: blend weights fitted by likelihood, and the error of confidence measured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.classifier.blend import BlendWeights

ProbabilitiesOf = Callable[[BlendWeights], Tensor]
"""The probabilities [batch, classes] of some examples under given weights."""


class HostAlone(NamedTuple):
    """Which examples are of the host's classes, and which the host alone predicts correctly."""

    of_host: Bool[Tensor, " batch"]
    correct: Bool[Tensor, " batch"]


class Calibration(NamedTuple):
    """What calibrating changed: expected calibration error, log-loss, accuracy of old classes.

    Attributes:
        error_before: in [0, 1]; 0.05 means that confidence is off by five points on average.
        error: the same after fitting.
        loss_before: mean of -log p(label).
        loss: the same after fitting.
        examples: how many there were to fit to.
        base_alone: accuracy of the host alone on its own classes; None without examples of them.
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
    confidences: Float[Tensor, " batch"], correct: Bool[Tensor, " batch"], bins: int = 15
) -> float:
    """sum over bins of |bin| / n * |accuracy(bin) - confidence(bin)| (Guo et al. 2017, equation 3).

    The bins are of equal width.

    Example:
        >>> confidences, correct = torch.tensor([0.9, 0.9]), torch.tensor([True, False])
        >>> round(expected_calibration_error(confidences, correct), 3)
        0.4
    """
    confidences = confidences.double()
    indices = (confidences * bins).ceil().clamp(1, bins).long() - 1
    gaps = confidences.new_zeros(bins).index_add_(0, indices, correct.double() - confidences)
    return gaps.abs().sum().item() / max(1, len(confidences))


def log_loss(
    probabilities: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean of -log p(label); a probability below 1e-12 counts as 1e-12."""
    return -probabilities.gather(1, labels.unsqueeze(1)).clamp(min=1e-12).log().mean()


def fit_weights(
    probabilities: ProbabilitiesOf, labels: Int64[Tensor, " batch"], start: BlendWeights
) -> tuple[BlendWeights, Calibration]:
    """The weights that maximise the likelihood of the labels, and what they changed.

    L-BFGS begins at the best point of a coarse grid, because the likelihood is flat where all of
    the answer comes from the host or from the memory. Temperature and host weight are fitted as
    logarithms, so they stay positive. An L2 penalty on the distance from `start` keeps them finite
    where the classes are separable. If the loss did not fall, `start` is returned.
    """
    origin = torch.stack(_to_free(start)).double()
    candidates = [start, *(start._replace(host_score=s, host_weight=w) for s, w in _grid(start))]
    best = min(candidates, key=lambda weights: log_loss(probabilities(weights), labels).item())
    free = torch.stack(_to_free(best)).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [free], max_iter=50, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        penalty = ((free - origin) ** 2).sum() / 1000
        loss = log_loss(probabilities(_from_free(free)), labels) + penalty
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    weights = _from_free(free.detach())
    before, after = probabilities(start), probabilities(weights)
    if not log_loss(after, labels) <= log_loss(before, labels):
        weights, after = start, before
    return weights, Calibration(
        _error(before, labels),
        _error(after, labels),
        log_loss(before, labels).item(),
        log_loss(after, labels).item(),
        len(labels),
    )


def protect_host_classes(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    weights: BlendWeights,
    report: Calibration,
    host: HostAlone,
    max_loss: float,
) -> tuple[BlendWeights, Calibration]:
    """The least `host_bias`, from the fitted one upwards, that keeps the host's accuracy.

    The host's classes may lose `max_loss`, in [0, 1], of the accuracy that the host alone has on
    them. Where no bias is enough, the fitted one stays.
    """
    if not host.of_host.any():
        return weights, report
    alone = host.correct[host.of_host].double().mean().item()

    def accuracy(bias: Tensor) -> float:
        predicted = probabilities(weights._replace(host_bias=bias)).argmax(1)
        return (predicted == labels)[host.of_host].double().mean().item()

    # Between the lowest and the highest cosine there is a difference of 2 / T in z.
    low, high = weights.host_bias, weights.host_bias + 2 / weights.temperature
    if accuracy(low) < alone - max_loss <= accuracy(high):
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if accuracy(middle) < alone - max_loss else (low, middle)
        weights = weights._replace(host_bias=high)
    after = probabilities(weights)
    return weights, report._replace(
        error=_error(after, labels),
        loss=log_loss(after, labels).item(),
        base_alone=alone,
        base=accuracy(weights.host_bias),
    )


def _grid(start: BlendWeights) -> list[tuple[Tensor, Tensor]]:
    """Pairs of host_score and host_weight to begin from."""
    scores = torch.linspace(-1, 1, 11).to(start.host_score)
    return [(score, weight) for score in scores for weight in scores.new_tensor([0.1, 1.0])]


def _error(probabilities: Tensor, labels: Tensor) -> float:
    best = probabilities.max(1)
    return expected_calibration_error(best.values, best.indices == labels)


def _to_free(weights: BlendWeights) -> list[Tensor]:
    """The weights as unconstrained parameters."""
    temperature, host_score, host_weight, host_bias = weights
    return [temperature.log(), host_score, host_weight.log(), host_bias]


def _from_free(free: Tensor) -> BlendWeights:
    temperature, host_score, host_weight, host_bias = free
    return BlendWeights(temperature.exp(), host_score, host_weight.exp(), host_bias)
