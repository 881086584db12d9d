"""The optimiser of a training: Muon for weights that are matrices, AdamW for all others."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer

from rarememory.training.precision import WithoutBfloat16, computes_in_bfloat16


class MuonAndAdamW:
    """One optimiser with one learning rate for all weights of an encoder.

    Muon (Jordan 2024; torch's own) steps along the nearest orthogonal matrix to the momentum of the
    gradient, so that no direction of a weight is learnt slower than another. A convolution is a
    matrix too, [out, in * height * width]. Biases, norms, and the first layer, which has one
    channel to look at, are stepped by AdamW. Steps of both are as long (Liu et al. 2025, "Muon is
    Scalable for LLM Training", section 2.2: 0.2 sqrt(max(out, in)) times the learning rate).

    Args:
        parameters: where they will be trained, on their device; they are changed in place.
        weight_decay: of the weights, but not of biases and norms.

    Example:
        >>> import torch
        >>> layer = torch.nn.Conv2d(2, 4, 3)
        >>> optimizer = MuonAndAdamW(layer.parameters(), weight_decay=0.0)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.ones(1, 2, 3, 3)).sum().backward()
        >>> optimizer.step(learning_rate=0.01)
        >>> bool((layer.weight < before).any())
        True
    """

    def __init__(self, parameters: Iterable[Parameter], *, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self._learnt = [p for p in self.parameters if p.dim() > 1 and p.shape[1] > 1]
        rest = [p for p in self.parameters if p.dim() <= 1 or p.shape[1] <= 1]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        ]
        # The same storage, seen as a matrix.
        self._matrices = [Parameter(_as_matrix(p.detach(), like=p)) for p in self._learnt]
        self._optimizers: dict[str, Optimizer] = {}
        if rest:
            self._optimizers["adamw"] = AdamW(groups, betas=(0.9, 0.99))
        if self._matrices:
            self._optimizers["muon"] = Muon(
                self._matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, *, learning_rate: float) -> None:
        """Change the weights by their gradients; those without one stay."""
        for matrix, parameter in zip(self._matrices, self._learnt, strict=True):
            gradient = parameter.grad
            matrix.grad = None if gradient is None else _as_matrix(gradient, like=parameter)
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        # Muon multiplies in bfloat16 on whatever chip: without instructions for it, that would be
        # most of a training.
        rounds = all(computes_in_bfloat16(parameter.device) for parameter in self.parameters)
        with nullcontext() if rounds else WithoutBfloat16():
            for optimizer in self._optimizers.values():
                optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name])


def _as_matrix(weight: Tensor, *, like: Tensor) -> Float[Tensor, "out fan_in"]:
    """Its rows flattened in the order in which `like` lies in memory, so that it is a view of it.

    Muon does not care for the order of columns, as long as it is always the same.
    """
    return (weight if like.is_contiguous() else weight.movedim(1, -1)).flatten(1)
