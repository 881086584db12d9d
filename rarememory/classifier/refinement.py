"""Refinement: a few steps of logistic regression that start from the class means.

    min over D, b of  sum_i -w_i log softmax(base_i + D^T x_i + b)_{y_i} + penalty / 2 |(D, b)|^2

The class means are the better classifier when there are few examples, logistic regression when
there are many (Ng and Jordan 2002): the penalty is on what is changed, so that with few examples
little is. The objective is convex and the steps are the same for the same examples.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

PENALTY = 3e-4
"""Chosen on CLINC150, BANKING77, Caltech-101 and UCI Letter; see docs/results.md."""
STEPS = 7


def refined(
    rows: Float[Tensor, "examples dim"],
    base: Float[Tensor, "examples classes"],
    classes: Int64[Tensor, " examples"],
    counts: Float[Tensor, " classes"],
    penalty: float = PENALTY,
) -> tuple[Float[Tensor, "dim classes"], Float[Tensor, " classes"]]:
    """The change D and the bias b; every class has the same weight.

    Args:
        rows: examples.
        base: logits that are there already.
        classes: the right class of each example.
        counts: examples of each class.
        penalty: on the change.

    Example:
        >>> rows, classes = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
        >>> change, bias = refined(rows, torch.zeros(2, 2), classes, torch.ones(2))
        >>> (rows @ change + bias).argmax(1)
        tensor([0, 1])
    """
    weights = 1 / (counts[classes] * len(counts))
    own = classes.unsqueeze(1)

    def objective(free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient, and the probabilities times the weights."""
        log_p = torch.addmm(base + free[-1], rows, free[:-1]).log_softmax(1)
        loss = penalty / 2 * free.square().sum() - weights @ log_p.gather(1, own).squeeze(1)
        # In place: these are the largest tensors of a fit.
        p = log_p.exp_().mul_(weights.unsqueeze(1))
        errors = p.scatter_add(1, own, -weights.unsqueeze(1))
        gradient = penalty * free
        gradient[:-1].addmm_(rows.T, errors)
        gradient[-1] += errors.sum(0)
        return loss, gradient, p

    start = rows.new_zeros(rows.shape[1] + 1, len(counts))
    _, gradient, p = objective(start)
    step = _best_step(gradient, torch.addmm(gradient[-1], rows, gradient[:-1]), p, penalty)
    # The optimiser's first step is as long as the scale of its variables: this is the best one.
    scale = (step * gradient.abs().sum()).clamp(min=1e-12)
    scaled = start.clone()
    optimizer = torch.optim.LBFGS(
        [scaled], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> float:
        loss, gradient, _ = objective(scale * scaled)
        scaled.grad = scale * gradient
        return loss.item()

    optimizer.step(closure)
    free = scale * scaled
    return free[:-1], free[-1]


def _best_step(gradient: Tensor, change: Tensor, p: Tensor, penalty: float) -> Tensor:
    """How far to go down the gradient g at first: g.g / g.H g, with H the second derivative.

    g.H g is the variance of what g changes in the logits, under the probabilities, and the penalty.
    """
    squares = gradient.square().sum()
    totals = p.sum(1)
    means = (p * change).sum(1)
    variance = (p * change.square()).sum() - (means.square() / totals.clamp(min=1e-30)).sum()
    return squares / (variance + penalty * squares).clamp(min=1e-30)
