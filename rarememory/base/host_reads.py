"""When a program may look at the numbers that it works on."""

import torch
from torch import Tensor


def host_may_read(tensor: Tensor) -> bool:
    """Whether what comes next may depend on the numbers in a tensor.

    On a GPU the host would have to wait for them, and a compiled program has none yet.

    Example:
        >>> host_may_read(torch.ones(2)), host_may_read(torch.ones(2, device="meta"))
        (True, False)
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
