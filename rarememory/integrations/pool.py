"""Several readers of a table, pooled by how well they answer the samples that are left out.

    p(c | x)  is in proportion to  prod_k (p_k(c | x) + 0.001)^(w_k)

Three readers, in each of some spaces of keys at unit length: the vote of the nearest samples, the
class means of `rarememory.classifier.discriminant`, and kernel ridge regression (Saunders et al.
1998) with the kernel exp(-width |x - x'|^2). Two more are kernel ridge regression of rows at their
own length, because columns can tell classes by how far a row is from the mean: of columns as they
are, and of columns that count by how well each tells the classes apart (`telling`). And one is a
normal density of each class, with a covariance of its own (`rarememory.integrations.quadratic`).
Each says in closed form, or nearly so, what it would answer to a sample that it had not seen. The
weights are those of greatest likelihood of the left-out samples, with a prior of equal weights
(Genest and Zidek 1986, logarithmic pools).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from rarememory.classifier.discriminant import Discriminant, fit_discriminant
from rarememory.classifier.kernel_regression import (
    JUDGED,
    TRIED,
    Regression,
    Samples,
    fitted_settings,
    regressed,
    telling,
)
from rarememory.integrations.quadratic import Quadratic, fit_quadratic

MOST_JUDGED = JUDGED
"""Samples that are left out, and samples that kernels are fitted to; evenly spaced."""
_FLOOR = 1e-3
_CELLS = 2**24
"""Cosines at once: 128 MiB."""


def vote(
    queries: Float[Tensor, "queries dim"],
    keys: Float[Tensor, "samples dim"],
    classes: Int64[Tensor, " samples"],
    n_neighbors: int,
    temperature: float,
    own: Int64[Tensor, " queries"] | None = None,
) -> Float[Tensor, "queries classes"]:
    """Probabilities: softmax(cosine / temperature) of the nearest samples, added up by class.

    Args:
        queries: at unit length.
        keys: of the samples, at unit length.
        classes: of the samples, 0, 1, ...
        n_neighbors: samples that vote; all of them if there are fewer.
        temperature: of the softmax.
        own: for each query the sample that has no vote, if any.

    Example:
        >>> keys, classes = torch.eye(2), torch.tensor([0, 1])
        >>> vote(keys, keys, classes, 1, 0.1)
        tensor([[1., 0.],
                [0., 1.]])
        >>> vote(keys, keys, classes, 1, 0.1, own=torch.tensor([0, 1]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    found = queries.new_zeros(len(queries), int(classes.max()) + 1)
    step = max(1, _CELLS // len(keys))
    k = min(n_neighbors, len(keys) - (own is not None))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        cosines = queries[part] @ keys.T
        if own is not None:
            cosines.scatter_(1, own[part].unsqueeze(1), -torch.inf)
        nearest = cosines.topk(k, dim=1)
        weights = (nearest.values / temperature).softmax(1)
        found[part].scatter_add_(1, classes[nearest.indices], weights)
    return found


def evenly_spaced(classes: Int64[Tensor, " samples"], most: int) -> Int64[Tensor, " some"]:
    """At most so many samples, of each class its part.

    Example:
        >>> evenly_spaced(torch.tensor([0, 1, 0, 1, 0]), 3)
        tensor([0, 3, 4])
    """
    if len(classes) <= most:
        return torch.arange(len(classes))
    by_class = classes.argsort(stable=True)
    return by_class[torch.linspace(0, len(classes) - 1, most).long()].sort().values


@dataclass(frozen=True)
class KernelRidge:
    """Kernel ridge regression of the classes, with logits.

    Attributes:
        regression: of the classes on the samples; every sample has the same weight.
        columns: what each column is multiplied with.
        scale: of the logits.
        left_out: logits of each sample as if it had not been seen.

    Example:
        >>> keys = torch.eye(2, dtype=torch.double).repeat(3, 1)
        >>> ridge = fit_kernel_ridge(keys, torch.tensor([0, 1] * 3), 2)
        >>> ridge.left_out.argmax(1)
        tensor([0, 1, 0, 1, 0, 1])
    """

    regression: Regression
    columns: Float[Tensor, " dim"]
    scale: float
    left_out: Float[Tensor, "samples classes"]

    def logits(self, keys: Float[Tensor, "queries dim"]) -> Float[Tensor, "queries classes"]:
        """Of every class."""
        return self.scale * self.regression.values(keys * self.columns)


def fit_kernel_ridge(
    keys: Float[Tensor, "samples dim"],
    classes: Int64[Tensor, " samples"],
    n_classes: int,
    weights: Float[Tensor, " dim"] | None = None,
) -> KernelRidge:
    """Width, ridge and scale are those of greatest likelihood of the samples that are left out.

    Args:
        keys: of the samples, at most `MOST_JUDGED`.
        classes: 0, 1, ..., one of them with two samples.
        n_classes: how many there are.
        weights: what the squared difference of each column counts, also for a sample that is left
            out; all the same if None.

    Example:
        >>> keys = torch.eye(2, dtype=torch.double).repeat(3, 1)
        >>> fit_kernel_ridge(keys, torch.tensor([0, 1] * 3), 2).logits(keys[:2]).argmax(1)
        tensor([0, 1])
    """
    columns = torch.ones_like(keys[0]) if weights is None else weights.sqrt()
    order = classes.argsort(stable=True)
    known = (keys * columns)[order], classes[order], n_classes
    samples = Samples.of(*known, TRIED, equal=False)
    width, ridge, scale, _ = fitted_settings(samples, torch.ones_like(samples.rows))
    samples = Samples.of(*known, MOST_JUDGED, equal=False)
    regression = regressed(samples, width, ridge)
    left_out = keys.new_empty(len(keys), n_classes)
    left_out[order] = scale * regression.left_out(samples, torch.ones_like(samples.rows))
    return KernelRidge(regression, columns, scale, left_out)


@dataclass(frozen=True)
class Pool:
    """Readers of the same samples in several spaces, and their weights.

    Attributes:
        keys: of the samples in each space, at unit length.
        classes: of the samples, 0, 1, ...
        n_neighbors: samples that vote.
        temperature: of the vote.
        discriminants: in each space.
        ridges: in each space.
        of_rows: kernel ridges of rows at their own length; none without them.
        quadratic: normal densities of rows; None without rows, or where there are none.
        judged: the samples that were left out; those that are alone in their class are not.
        left_out: log-probabilities that each reader gives them.
        weights: of the readers: vote, class means and kernel ridge in each space, kernel ridges
            of rows, normal densities.

    Example:
        >>> keys = torch.eye(2, dtype=torch.double).repeat(3, 1)
        >>> pool = fit_pool([keys, keys], torch.tensor([0, 1] * 3), 1, 0.1)
        >>> pool.weights.shape, pool.judged
        (torch.Size([6]), tensor([0, 1, 2, 3, 4, 5]))
    """

    keys: Sequence[Float[Tensor, "samples dim"]]
    classes: Int64[Tensor, " samples"]
    n_neighbors: int
    temperature: float
    discriminants: Sequence[Discriminant]
    ridges: Sequence[KernelRidge]
    of_rows: Sequence[KernelRidge]
    quadratic: Quadratic | None
    judged: Int64[Tensor, " judged"]
    left_out: Float[Tensor, "readers judged classes"]
    weights: Float[Tensor, " readers"]

    def probabilities(
        self,
        keys: Sequence[Float[Tensor, "queries dim"]],
        rows: Float[Tensor, "queries columns"] | None = None,
    ) -> Float[Tensor, "queries classes"]:
        """Of every class, for queries in each space at unit length, and as rows if it reads those.

        Raises:
            ValueError: it reads rows too, and there are none.
        """
        found = []
        for own, theirs, discriminant, ridge in zip(
            self.keys, keys, self.discriminants, self.ridges, strict=True
        ):
            found += [
                vote(theirs, own, self.classes, self.n_neighbors, self.temperature),
                discriminant.logits(theirs).softmax(1),
                ridge.logits(theirs).softmax(1),
            ]
        if self.of_rows:
            if rows is None:
                raise ValueError("this pool reads rows at their own length too: give rows")
            found += [ridge.logits(rows).softmax(1) for ridge in self.of_rows]
            if self.quadratic is not None:
                found.append(self.quadratic.logits(rows).softmax(1))
        return pooled(_logs(found), self.weights)


def fit_pool(
    keys: Sequence[Float[Tensor, "samples dim"]],
    classes: Int64[Tensor, " samples"],
    n_neighbors: int,
    temperature: float,
    rows: Float[Tensor, "samples columns"] | None = None,
) -> Pool:
    """The pool of these samples.

    Args:
        keys: of the samples in each space, at unit length.
        classes: 0, 1, ..., two or more, each with a sample, and one of them with two.
        n_neighbors: samples that vote.
        temperature: of the vote.
        rows: of the samples, at their own length; None to compare them at unit length only.

    Example:
        >>> keys = torch.eye(2, dtype=torch.double).repeat(3, 1)
        >>> pool = fit_pool([keys], torch.tensor([0, 1] * 3), 1, 0.1)
        >>> pool.probabilities([keys[:2]]).argmax(1)
        tensor([0, 1])
    """
    counts = classes.bincount()
    n_classes = len(counts)
    discriminants = [fit_discriminant(space, classes) for space in keys]
    known = torch.ones(len(classes), dtype=torch.bool)
    for discriminant in discriminants:
        of_it = torch.zeros_like(known)
        of_it[discriminant.left_out.samples] = True
        known &= of_it
    some = known.nonzero().squeeze(1)
    some = some[evenly_spaced(classes[some], MOST_JUDGED)]
    judged = counts[classes[some]] > 1
    found, ridges = [], []
    for space, discriminant in zip(keys, discriminants, strict=True):
        ridge = fit_kernel_ridge(space[some], classes[some], n_classes)
        left_out = discriminant.left_out
        place = torch.zeros_like(classes)
        place[left_out.samples] = torch.arange(len(left_out.samples))
        found += [
            vote(space[some], space, classes, n_neighbors, temperature, own=some),
            left_out.unrefined[place[some]].softmax(1),
            ridge.left_out.softmax(1),
        ]
        ridges.append(ridge)
    of_rows, quadratic = [], None
    if rows is not None:
        weights = telling(rows, classes, counts.to(rows)).weights
        samples = rows[some], classes[some], n_classes
        # By all samples, also where one is left out, which changes them little.
        of_rows = [fit_kernel_ridge(*samples), fit_kernel_ridge(*samples, weights)]
        found += [ridge.left_out.softmax(1) for ridge in of_rows]
        quadratic = fit_quadratic(rows, classes, some)
        if quadratic is not None:
            found.append(quadratic.left_out.softmax(1))
    logs = _logs(found)[:, judged]
    of_readers = _weights(logs, classes[some[judged]])
    return Pool(
        keys,
        classes,
        n_neighbors,
        temperature,
        discriminants,
        ridges,
        of_rows,
        quadratic,
        some[judged],
        logs,
        of_readers,
    )


def pooled(
    logs: Float[Tensor, "readers queries classes"], weights: Float[Tensor, " readers"]
) -> Float[Tensor, "queries classes"]:
    """Probabilities: the product of those of the readers, each to the power of its weight.

    Example:
        >>> pooled(torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log(), torch.tensor([1.0, 1.0]))
        tensor([[0.9000, 0.1000]])
    """
    return torch.einsum("rqc,r->qc", logs, weights).softmax(1)


def _logs(probabilities: Sequence[Tensor]) -> Tensor:
    return (torch.stack(list(probabilities)) + _FLOOR).log()


def _weights(logs: Tensor, classes: Tensor) -> Tensor:
    """exp(u) / readers, with a normal prior of the u."""
    right = one_hot(classes, logs.shape[2]).to(logs)
    free = logs.new_zeros(len(logs))
    optimizer = torch.optim.LBFGS([free], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> float:
        weights = free.exp() / len(logs)
        log_p = torch.einsum("rqc,r->qc", logs, weights).log_softmax(1)
        errors = log_p.exp() - right
        free.grad = torch.einsum("rqc,qc->r", logs, errors) * weights + free
        return (free.square().sum() / 2 - (log_p * right).sum()).item()

    optimizer.step(closure)
    return free.exp() / len(logs)
