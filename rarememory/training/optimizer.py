"""The optimizer of a training: Muon for weights that are matrices, AdamW for all others."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer

from rarememory.training.precision import WithoutBfloat16, computes_in_bfloat16


class MuonAndAdamW(Optimizer):
    """A torch optimizer with one learning rate for all weights of an encoder.

    Muon (Jordan 2024; torch's own) steps along the nearest orthogonal matrix to the momentum of the
    gradient, so that no direction of a weight is learnt slower than another. A convolution is a
    matrix too, [out, in * height * width]. Biases, norms, and layers with one input channel, such
    as the first, are stepped by AdamW. Steps of both have the same length (Liu et al. 2025, "Muon
    is Scalable for LLM Training", section 2.2: 0.2 sqrt(max(out, in)) times the learning rate).

    Args:
        params: weights and biases, which are changed in place.
        lr: the learning rate, of every group; a scheduler may change it.
        weight_decay: of the weights, but not of biases and norms.

    Example:
        >>> layer = torch.nn.Conv2d(2, 4, 3)
        >>> optimizer = MuonAndAdamW(layer.parameters(), lr=0.01)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.ones(1, 2, 3, 3)).sum().backward()
        >>> optimizer.step()
        >>> bool((layer.weight < before).any())
        True
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float = 1e-3, *, weight_decay: float = 0.0
    ) -> None:
        params = list(params)
        weights = [param for param in params if param.dim() > 1]
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in weights if weight.shape[1] < 2]},
            {"params": [param for param in params if param.dim() < 2], "weight_decay": 0.0},
            {"params": [weight for weight in weights if weight.shape[1] > 1], "muon": True},
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "muon": False})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the weights by their gradients; those without one stay.

        Args:
            closure: computes the gradients again, and returns the loss, which `step` returns too.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if group["muon"]:
                self._step_by_muon(params, group)
            elif params:
                self._step_by(AdamW([{**group, "params": params}], betas=(0.9, 0.99)), params)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of another optimizer of the same weights.

        Raises:
            ValueError: the state is of another kind of optimizer, or of other weights.
        """
        if "param_groups" not in state_dict:
            raise ValueError(
                f"a state of {', '.join(state_dict)} is not of this optimizer, or of an older "
                "version of it: start the training again"
            )
        super().load_state_dict(state_dict)

    def _step_by_muon(self, params: list[Parameter], group: dict[str, Any]) -> None:
        # The same storage, seen as a matrix.
        matrices = [Parameter(_as_matrix(param.detach(), like=param)) for param in params]
        for matrix, param in zip(matrices, params, strict=True):
            assert param.grad is not None
            matrix.grad = _as_matrix(param.grad, like=param)
        muon = Muon([{**group, "params": matrices}], adjust_lr_fn="match_rms_adamw")
        # Muon multiplies in bfloat16 on every device: without instructions for it, that would be
        # most of a training.
        rounds = all(computes_in_bfloat16(param.device) for param in params)
        with nullcontext() if rounds else WithoutBfloat16():
            self._step_by(muon, params)

    def _step_by(self, optimizer: Optimizer, params: list[Parameter]) -> None:
        """One step of an optimizer of torch that reads and writes the state of this one."""
        (group,) = optimizer.param_groups
        for param, stepped in zip(params, group["params"], strict=True):
            optimizer.state[stepped] = self.state[param]
        optimizer.step()


def _as_matrix(weight: Tensor, *, like: Tensor) -> Float[Tensor, "out fan_in"]:
    """Its rows flattened in the order in which `like` lies in memory, so that it is a view of it.

    The order of columns does not matter to Muon, as long as it is always the same.
    """
    return (weight if like.is_contiguous() else weight.movedim(1, -1)).flatten(1)
