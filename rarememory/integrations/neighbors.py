"""What integrations that search for neighbours share."""

from jaxtyping import Float, Int64
from torch import Tensor


def without_self(
    scores: Float[Tensor, "rows k"], slots: Int64[Tensor, "rows k"], own: Int64[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows k-1"], Int64[Tensor, "rows k-1"]]:
    """The k - 1 best of k neighbours of remembered rows, without each row's own slot.

    Where more than k slots hold the same key, the own slot may not be among the k neighbours: then
    the last one is left out.

    Example:
        >>> import torch
        >>> slots, own = torch.tensor([[0, 2], [0, 1]]), torch.tensor([0, 1])
        >>> without_self(torch.ones(2, 2), slots, own)[1]
        tensor([[2],
                [0]])
    """
    others = slots != own.unsqueeze(1)
    others[:, -1] &= ~others.all(dim=1)
    return scores[others].view(len(own), -1), slots[others].view(len(own), -1)
