"""The decision about few queries, in one call of the library.

Right after a model has run, the caches of the processor hold its weights, and each of torch's
operators takes several times as long as it does in a loop. So all that the answer to a query does
not depend on is made ready at the first question after a change.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.blend import EXCLUDED, Classes
from rarememory.classifier.discriminant import FEW, Discriminant
from rarememory.classifier.max_logit import MaxLogit
from rarememory.native import is_floats, is_supported, library, prepared


class FewQueries:
    """Decides about few queries as `Ensembler.decide` does where there is no threshold.

    Args:
        discriminant: of the remembered classes.
        offsets: added to its logits.
        classes: all that may be the answer; the remembered ones are among them.
        host_score: that which the reader of the memory finds.
        max_logit: how that of the host counts.

    Example:
        >>> from rarememory.classifier.discriminant import fit_discriminant
        >>> found = fit_discriminant(torch.eye(4), torch.tensor([3, 3, 7, 7]))
        >>> classes = Classes(torch.tensor([3, 7]), torch.arange(0))
        >>> few, weights = FewQueries(found, torch.zeros(2), classes, 0.8), torch.ones(4)
        >>> few.decide(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), None, weights)
        [7]
    """

    def __init__(
        self,
        discriminant: Discriminant,
        offsets: Float[Tensor, " remembered"],
        classes: Classes,
        host_score: float,
        max_logit: MaxLogit = MaxLogit(),  # noqa: B008, a tuple
    ) -> None:
        self._key_dim, self._n_host = len(discriminant.mean), len(classes.host_ids)
        self._integers = classes.integers
        # What the library reads stays as long as this does.
        self._tensors = offsets, classes.columns(discriminant.classes), classes.host_columns
        self._of_discriminant = given = discriminant.kernel_arguments
        self._arguments: list[Any] | None = None
        # The logit of a forgotten class of the host is still in its output.
        whole = not (classes.host_ids == EMPTY).any()
        if given is not None and whole and is_supported(*self._tensors):
            offsets, columns, host_columns = self._tensors
            of_memory = [*given.values, offsets, len(offsets), columns]
            of_host = [self._n_host, host_columns, host_score, *max_logit]
            self._arguments = prepared(*of_memory, *of_host, len(classes.ids), EXCLUDED)

    @staticmethod
    def can_read(features: Tensor, outputs: Tensor | None, weights: Tensor) -> bool:
        """Whether these rows are few, and floats where the library can read them."""
        if features.dim() != 2 or features.shape[0] > FEW:
            return False
        if outputs is None:
            return is_floats(features, weights)
        rows = outputs.dim() == 2 and outputs.shape[0] == features.shape[0]
        return rows and is_floats(features, weights, outputs)

    def decide(
        self,
        features: Float[Tensor, "batch key_dim"],
        outputs: Float[Tensor, "batch n_host"] | None,
        weights: Float[Tensor, " 4"],
    ) -> list[int] | None:
        """The integer of the likeliest class of each row; None if this cannot decide.

        Args:
            features: of the model; all three are such as `can_read` allows.
            outputs: its logits; None without a host.
            weights: of the blend, as in `BlendWeights`.
        """
        batch, key_dim = features.shape
        n_host = 0 if outputs is None else outputs.shape[1]
        if self._arguments is None or (key_dim, n_host) != (self._key_dim, self._n_host):
            return None
        best = (ctypes.c_int64 * batch)()
        rows = (features, batch, key_dim, outputs, weights)
        unsafe = library().decide(*rows, *self._arguments, torch.get_num_threads(), best)
        return None if unsafe else [self._integers[column] for column in best]
