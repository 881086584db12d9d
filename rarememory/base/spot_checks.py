"""A look at a few rows, others each time, for changes of a tensor that torch does not count.

Who changes a tensor through `.data`, through NumPy or by a collective such as
`torch.distributed.broadcast` leaves its version as it was, and what was derived from it does not
notice. To compare all of it at every use would cost as much as the cache saves. Instead a few rows
are compared at every use: a change of most rows is seen at once, that of one when its turn comes.
"""

import ctypes
import math
import warnings

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import host_may_read


def scattered(count: int) -> Int64[Tensor, " count"]:
    """All numbers below `count`, each once, and each far from those just before it.

    n_i = i s mod count, where s is the number nearest to count / 1.618 without a common divisor.

    Example:
        >>> scattered(8)
        tensor([0, 5, 2, 7, 4, 1, 6, 3])
    """
    step = round(count * (math.sqrt(5) - 1) / 2)
    while count > 1 and math.gcd(step, count) > 1:
        step += 1
    return torch.arange(count) * step % max(1, count)


class SpotCheck:
    """Which row is looked at next; every row has its turn.

    Example:
        >>> now, then, rows = torch.zeros(3, 2), torch.zeros(3, 2), SpotCheck()
        >>> now.numpy()[1] = 1
        >>> turns = [rows.next(now) for _ in range(3)]
        >>> [(row, torch.equal(now[row], then[row])) for row in turns]
        [(2, True), (1, False), (0, True)]
    """

    def __init__(self) -> None:
        self._order: list[int] = []
        self._turn = 0

    def next(self, tensor: Tensor) -> int | None:
        """The row whose turn it is; None where there is none, or the host would wait for it."""
        count = tensor.shape[0]
        if not count or not host_may_read(tensor):
            return None
        order = self._order
        if len(order) != count:
            order = self._order = scattered(count).tolist()
        self._turn = turn = (self._turn + 1) % len(order)
        return order[turn]


def row_bytes(tensor: Tensor, row: int) -> bytes:
    """A row of a contiguous tensor on a CPU, as bytes: quicker to compare than tensors of one row.

    Example:
        >>> row_bytes(torch.tensor([[1], [2]], dtype=torch.uint8), 1)
        b'\\x02'
    """
    size = tensor.stride(0) * tensor.element_size()
    return ctypes.string_at(tensor.data_ptr() + row * size, size)


def record_uncounted_change(tensor: Tensor) -> None:
    """Count a change that torch did not, so that whatever was derived from the tensor notices.

    Warns:
        UserWarning: answers may have been wrong since the change.
    """
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)
    warnings.warn(
        "the memory was changed in a way that torch does not count, such as .data, NumPy or "
        "torch.distributed: call memory.sync() after such a change, since answers until now may "
        "be of the memory before it",
        stacklevel=2,
    )
