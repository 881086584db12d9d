"""Half the bits for an encoder in training, where the chip has instructions for them."""

from typing import Any

import torch


def precision(device: torch.device, bfloat16: bool | None = None) -> torch.autocast:
    """The context to encode in: bfloat16 if that is wished, or if None where it is no slower.

    Example:
        >>> with precision(torch.device("cpu"), bfloat16=True):
        ...     print(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype)
        torch.bfloat16
    """
    half = _computes_in_bfloat16(device) if bfloat16 is None else bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the chip has instructions for it; where it has not, bfloat16 is many times slower."""
    if device.type != "cpu":
        return True
    # Older versions of torch cannot tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))
