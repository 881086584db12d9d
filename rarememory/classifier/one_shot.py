"""The fitted reader of classes with one example each, by distance.

    z_c = -t / 2 |s (x - x_c)|^2        s: 1 over the deviation of each column

There is nothing to leave out, and so nothing to fit a metric by.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.discriminant import LeftOut
from rarememory.classifier.kernel import scaled_columns
from rarememory.classifier.metric import fitting

_SCALE = 16.0
"""Of the mean squared difference of a column."""


@dataclass(frozen=True)
class OneShotDistances:
    """A fitted reader of remembered examples; its interface is that of `Discriminant`.

    Attributes:
        classes: integers of the classes, ascending.
        mean: of the examples.
        columns: s.
        rows: the example of each class, less the mean, in these columns.
        scale: t.
        left_out: what is said of each example; nothing is left out.

    Example:
        >>> found = one_shot_distances(torch.tensor([[1.0], [3.0]]), torch.tensor([3, 7]))
        >>> found.classes[found.logits(torch.tensor([[1.5], [2.5]])).argmax(1)]
        tensor([3, 7])
    """

    classes: Int64[Tensor, " classes"]
    mean: Float[Tensor, " key_dim"]
    columns: Float[Tensor, " key_dim"]
    rows: Float[Tensor, "classes key_dim"]
    scale: float
    left_out: LeftOut

    def logits(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch classes"]:
        """The z of every class."""
        return _logits(self._scaled(features), self.rows, self.scale).to(features.dtype)

    def foreign(
        self, features: Float[Tensor, "batch key_dim"], places: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """The z of every class, if the class in this place had never been learnt; -inf for that."""
        return self.logits(features).scatter(1, places.unsqueeze(1), -torch.inf)

    def similarities(
        self, queries: Float[Tensor, "batch key_dim"], features: Float[Tensor, "examples key_dim"]
    ) -> Float[Tensor, "batch examples"]:
        """exp(z) of queries and examples."""
        rows, others = self._scaled(queries), self._scaled(features)
        return _logits(rows, others, self.scale).exp().to(queries.dtype)

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.to(self.mean.dtype) - self.mean) * self.columns


def one_shot_distances(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> OneShotDistances | None:
    """The reader of these examples; None where all features are equal."""
    with fitting(features.device):
        examples, mean, columns = scaled_columns(features, values)
        if not columns.any():
            return None
        scale = _SCALE / int(columns.count_nonzero())
        rows = examples.rows
        logits = _logits(rows, rows, scale).to(torch.promote_types(features.dtype, torch.float32))
        own = examples.places
        left_out = LeftOut(
            logits,
            logits,
            lambda: logits.scatter(1, own.unsqueeze(1), -torch.inf),
            examples.samples,
            own,
            torch.zeros_like(own, dtype=torch.bool),
            lambda one, other: logits[one, own[other]],
        )
        return OneShotDistances(examples.classes, mean, columns, rows, scale, left_out)


def _logits(rows: Tensor, others: Tensor, scale: float) -> Tensor:
    return -scale / 2 * torch.cdist(rows, others).square()
