"""Calibration: blend weights fitted to held-out examples, and the error of confidence measured."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.files import StrPath
from rarememory.classifier.blend import BlendWeights

OBJECTIVES = ("harmonic", "accuracy", "likelihood")
CURVE_POINTS = 201
WIDEST = 1e4
"""Greatest addition to the host's bias that is tried."""
ProbabilitiesOf = Callable[[BlendWeights], Tensor]
"""The probabilities [batch, classes] of some examples under given weights."""


class HostAlone(NamedTuple):
    """Which examples are of the host's classes, and which the host alone predicts correctly."""

    of_host: Bool[Tensor, " batch"]
    correct: Bool[Tensor, " batch"]


class OldAgainstNew(NamedTuple):
    """Accuracies in [0, 1] of the host's classes and of the others, for one bias of the host.

    Example:
        >>> round(OldAgainstNew(host_bias=0.5, old=0.6, new=0.3).harmonic, 3)
        0.4
    """

    host_bias: float
    old: float
    new: float

    @property
    def harmonic(self) -> float:
        """2 old new / (old + new)."""
        return 2 * self.old * self.new / max(self.old + self.new, 1e-12)


class Quality(NamedTuple):
    """How good some answers are; `merit` is how good they can be.

    Attributes:
        reached: the objective; greater is better.
        error: the expected calibration error.
        loss: mean of -log p(label).
    """

    reached: float
    error: float
    loss: float


class Curve(tuple[OldAgainstNew, ...]):
    """Points by increasing bias; its representation says how many there are."""

    def __repr__(self) -> str:
        return f"<{len(self)} points>"


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
        new: accuracy of classes that are not the host's, after fitting.
        curve: accuracies of old and new classes for each bias of the host; empty where there are
            no examples of both.

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
    new: float | None = None
    curve: Curve = Curve()

    def table(self, rows: int = 11) -> str:
        """The curve of old against new classes as text, at most so many rows of it."""
        step = max(1, -(-len(self.curve) // rows))
        lines = [f"{'host bias':>10}{'old %':>8}{'new %':>8}{'harmonic %':>12}"]
        lines += [
            f"{point.host_bias:10.2f}{100 * point.old:8.1f}{100 * point.new:8.1f}"
            f"{100 * point.harmonic:12.1f}"
            for point in self.curve[::step]
        ]
        return "\n".join(lines)

    def plot(self, path: StrPath, **options: Any) -> None:
        """Draw the curve into a file; needs matplotlib.

        Args:
            path: of the file, which may be of any kind that matplotlib writes.
            options: of matplotlib's `Figure.savefig`, such as `dpi`.

        Raises:
            ValueError: there were no examples of both old and new classes, so there is no curve.
        """
        if not self.curve:
            raise ValueError("a curve needs examples of the host's classes and of new ones")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([100 * p.old for p in self.curve], [100 * p.new for p in self.curve], "-")
        axes.plot(100 * (self.base or 0), 100 * (self.new or 0), "o", label="chosen")
        axes.set(xlabel="accuracy of old classes, %", ylabel="accuracy of new classes, %")
        axes.legend(loc="lower left")
        figure.savefig(path, **options)


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
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    start: BlendWeights,
    keep_host_score: bool = False,
) -> tuple[BlendWeights, Calibration]:
    """The weights that maximise the likelihood of the labels, and what they changed.

    L-BFGS begins at the best point of a coarse grid, because the likelihood is flat where all of
    the answer comes from the host or from the memory. Temperature and host weight are fitted as
    logarithms, so they stay positive. An L2 penalty on the distance from `start` keeps them finite
    where the classes are separable. If the loss did not fall, `start` is returned. A host score
    that is kept has its place taken by the host's bias, which adds to the same classes.
    """
    origin = torch.stack(_to_free(start)).double()
    candidates = [start, *_grid(start, keep_host_score)]
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
        if keep_host_score and free.grad is not None:
            free.grad[1] = 0
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


def old_against_new(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    weights: BlendWeights,
    of_host: Bool[Tensor, " batch"],
    columns: Bool[Tensor, " classes"],
) -> Curve:
    """The accuracies of both kinds of classes for every bias of the host that changes them.

    Args:
        probabilities: of the examples.
        labels: the right column of each.
        weights: the others stay as they are.
        of_host: which examples are of the host's classes.
        columns: which columns are the host's classes.
    """
    log_p = probabilities(weights).clamp(min=1e-300).log()
    old = log_p.masked_fill(~columns, -torch.inf).max(1)
    new = log_p.masked_fill(columns, -torch.inf).max(1)
    # The bias at which an example's answer changes from one kind to the other.
    gaps = new.values - old.values
    best = torch.where(of_host, old.indices, new.indices) == labels
    steps = torch.linspace(0, 1, CURVE_POINTS).to(gaps)
    biases = gaps.clamp(-1e3, 1e3).quantile(steps)
    is_old = biases.unsqueeze(1) >= gaps
    right_old = (is_old & best)[:, of_host].double().mean(1)
    right_new = (~is_old & best)[:, ~of_host].double().mean(1)
    points = zip(
        (weights.host_bias + biases).tolist(), right_old.tolist(), right_new.tolist(), strict=True
    )
    return Curve(OldAgainstNew(*point) for point in points)


def best_bias(curve: Curve, objective: str, share_old: float) -> float:
    """The bias of the host with the greatest objective; the middle one of equal ones.

    Args:
        curve: to choose from.
        objective: "harmonic" or "accuracy".
        share_old: of the host's classes among the examples.
    """

    merits = [_merit(point, objective, share_old) for point in curve]
    most = max(merits) - 1e-9
    best = [point.host_bias for point, found in zip(curve, merits, strict=True) if found >= most]
    return best[len(best) // 2]


def between(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    start: BlendWeights,
    fitted: BlendWeights,
    reaches: Callable[[BlendWeights], bool],
) -> BlendWeights:
    """The fitted weights if they reach enough.

    Otherwise, of `start` and of those between the two that do, the weights of the least loss.
    """
    if reaches(fitted):
        return fitted
    begin, end = (torch.stack(_to_free(weights)).double() for weights in (start, fitted))
    steps = torch.linspace(0, 1, 41).to(begin)
    tried = [_from_free(begin + step * (end - begin)) for step in steps]
    good = [start, *filter(reaches, tried)]
    return min(good, key=lambda weights: log_loss(probabilities(weights), labels).item())


def quality(
    p: Float[Tensor, "batch classes"],
    labels: Int64[Tensor, " batch"],
    of_host: Bool[Tensor, " batch"],
    objective: str,
) -> Quality:
    """How good these probabilities are; without classes of both kinds "harmonic" is accuracy."""
    loss, right = log_loss(p, labels).item(), (p.argmax(1) == labels).double()
    reached = right.mean().item()
    if objective == "likelihood":
        reached = -loss
    elif objective == "harmonic" and of_host.any() and not of_host.all():
        old, new = right[of_host].mean().item(), right[~of_host].mean().item()
        reached = OldAgainstNew(0.0, old, new).harmonic
    return Quality(reached, _error(p, labels), loss)


def merit(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    weights: BlendWeights,
    of_host: Bool[Tensor, " batch"],
    columns: Bool[Tensor, " classes"],
    objective: str,
) -> float:
    """How accurate answers can be, with the best bias of the host; greater is better.

    Likelihood decides among those that are about as accurate. Arguments are as in
    `old_against_new` and `best_bias`.
    """
    p = probabilities(weights)
    loss = log_loss(p, labels).item()
    if of_host.any() and not of_host.all():
        curve = old_against_new(probabilities, labels, weights, of_host, columns)
        share_old = of_host.double().mean().item()
        found = max(_merit(point, objective, share_old) for point in curve)
    else:
        found = (p.argmax(1) == labels).double().mean().item()
    return round(found, 3) - 0.02 * loss


def protect_host_classes(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    weights: BlendWeights,
    host: HostAlone,
    max_loss: float,
) -> BlendWeights:
    """The least `host_bias`, from the fitted one upwards, that keeps the host's accuracy.

    The host's classes may lose `max_loss`, in [0, 1], of the accuracy that the host alone has on
    them. Where no bias is enough, the fitted one stays.
    """
    alone = host.correct[host.of_host].double().mean().item()

    def accuracy(bias: Tensor) -> float:
        predicted = probabilities(weights._replace(host_bias=bias)).argmax(1)
        return (predicted == labels)[host.of_host].double().mean().item()

    # Between the lowest and the highest cosine there is a difference of 2 / T in z; scores of a
    # fitted reader are wider apart.
    low, span = weights.host_bias, 2 / weights.temperature
    while accuracy(low + span) < alone - max_loss and span < WIDEST:
        span = 2 * span
    high = low + span
    if accuracy(low) < alone - max_loss <= accuracy(high):
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if accuracy(middle) < alone - max_loss else (low, middle)
        weights = weights._replace(host_bias=high)
    return weights


def with_host(
    probabilities: ProbabilitiesOf,
    labels: Int64[Tensor, " batch"],
    weights: BlendWeights,
    report: Calibration,
    host: HostAlone | None,
) -> Calibration:
    """The report for these weights, with the accuracies of the host's classes and of the others."""
    after = probabilities(weights)
    report = report._replace(error=_error(after, labels), loss=log_loss(after, labels).item())
    if host is None:
        return report
    right = (after.argmax(1) == labels).double()
    old, new = right[host.of_host], right[~host.of_host]
    return report._replace(
        base_alone=host.correct[host.of_host].double().mean().item(),
        base=old.mean().item(),
        new=new.mean().item() if len(new) else None,
    )


def _merit(point: OldAgainstNew, objective: str, share_old: float) -> float:
    if objective == "harmonic":
        return point.harmonic
    return share_old * point.old + (1 - share_old) * point.new


def _grid(start: BlendWeights, keep_host_score: bool) -> Iterator[BlendWeights]:
    """Pairs of host_score, or host_bias in its place, and host_weight to begin from."""
    steps = torch.linspace(-20, 20, 21).to(start.host_score)
    for step in steps:
        for host_weight in steps.new_tensor([0.1, 1.0]):
            weights = start._replace(host_weight=host_weight)
            if keep_host_score:
                yield weights._replace(host_bias=start.host_bias + step)
            else:
                yield weights._replace(host_score=start.host_score + start.temperature * step)


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
