"""Cosines to class means as the features are, for familiarity beside the fitted metric.

    s(f) = t max_c cos(f, m_c)                  m_c: the mean of the unit features of class c

The metric of `rarememory.classifier.metric` compares features about the mean of all classes. That
tells the classes from each other, and takes away what they have in common: a stranger that is far
from all of them can lie in the direction of one. What classes have in common tells such strangers
(Kamoi and Kobayashi 2020), so familiarity is the mean of s and of the greatest logit, which is t
times about a cosine too. It was chosen by strangers of seventeen worlds, of which CLINC150 is none.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class ClassCosines:
    """The greatest cosine with the mean of a class.

    Attributes:
        means: of the unit features of each class.
        counts: examples of each class.
        scale: t.

    Example:
        >>> found = ClassCosines(2 * torch.eye(2), torch.ones(2), scale=10.0)
        >>> found.greatest(torch.tensor([[4.0, 3.0]]))
        tensor([8.])
        >>> found.greatest(torch.tensor([[4.0, 3.0]]), excluded=torch.tensor([True, False]))
        tensor([6.])
    """

    means: Float[Tensor, "classes key_dim"]
    counts: Float[Tensor, " classes"]
    scale: float

    def greatest(
        self,
        features: Float[Tensor, "batch key_dim"],
        excluded: Bool[Tensor, "*batch classes"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """s of features of any length, perhaps without some classes; -inf without all of them."""
        cosines = self._rows(features) @ self._directions
        if excluded is not None:
            cosines = cosines.masked_fill(excluded, -torch.inf)
        return self.scale * cosines.amax(1)

    def greatest_left_out(
        self, features: Float[Tensor, "examples key_dim"], places: Int64[Tensor, " examples"]
    ) -> Float[Tensor, " examples"]:
        """s of examples, each left out of the mean of its own class, which is in this place.

        The mean without x is (n m - x) / (n - 1); an example that is alone stays in.
        """
        rows, n = self._rows(features), self.counts[places]
        own = n.unsqueeze(1) * self.means[places] - rows
        own = rows.where((n == 1).unsqueeze(1), own)
        of_own = (rows * normalize(own, dim=1)).sum(1, keepdim=True)
        cosines = (rows @ self._directions).scatter(1, places.unsqueeze(1), of_own)
        return self.scale * cosines.amax(1)

    @cached_property
    def _directions(self) -> Float[Tensor, "key_dim classes"]:
        return normalize(self.means, dim=1).T

    def _rows(self, features: Tensor) -> Tensor:
        return normalize(features.to(self.means.dtype), dim=1)
