"""bfloat16 autocast for an encoder in training, where the device computes in it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def encoder_autocast(device: torch.device, bfloat16: bool | None = None) -> torch.autocast:
    """Autocast to bfloat16: always if True, never if False, where the device has it if None.

    Example:
        >>> with encoder_autocast(torch.device("cpu"), bfloat16=True):
        ...     print(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype)
        torch.bfloat16
    """
    enabled = computes_in_bfloat16(device) if bfloat16 is None else bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without, it is many times slower.

    Example:
        >>> with encoder_autocast(device := torch.device("cpu")):
        ...     product = torch.ones(1, 1) @ torch.ones(1, 1)
        >>> (product.dtype == torch.bfloat16) == computes_in_bfloat16(device)
        True
    """
    if device.type == "cuda" and torch.cuda.is_available():
        # From Ampere on.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return True
    # Older versions of torch have no such function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))


class WithoutBfloat16(TorchFunctionMode):
    """Inside, tensors that torch's own code would round to bfloat16 are copied unrounded.

    Example:
        >>> with WithoutBfloat16():
        ...     print(torch.ones(1).bfloat16().dtype, torch.ones(1).to(torch.bfloat16).dtype)
        torch.float32 torch.float32
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, unless it rounds."""
        options = (*args[1:], *(kwargs or {}).values())
        if function is Tensor.bfloat16 or (function is Tensor.to and torch.bfloat16 in options):
            return args[0].clone()
        return function(*args, **(kwargs or {}))
