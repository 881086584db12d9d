"""A network of today: gated convolutions that read, a small transformer that writes.

It knows no absolute place: convolutions see what is near, and rotary positions make attention a
matter of distance, so that to copy is to look as far back at every step.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sequence.task import PAD
from benchmarks.sequence.windows import Decoded, Windows


class Modern(nn.Module):
    """Two decoder layers with rotary attention over windows of the input.

    Args:
        token_width: of the embedded tokens that were written before.
        reach: tokens in a window.
        width: of all layers.
        n_layers: of the decoder.
        n_heads: of each attention.
    """

    def __init__(
        self, token_width: int, reach: int, width: int = 128, n_layers: int = 2, n_heads: int = 4
    ) -> None:
        super().__init__()
        self.width = width
        self.windows = Windows(width, reach)
        self.enters = nn.Linear(token_width, width)
        self.layers = nn.ModuleList(Layer(width, n_heads) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(
        self,
        sources: Int64[Tensor, "batch length"],
        previous: Float[Tensor, "batch time token_width"],
    ) -> Decoded:
        """Read the input, and write each step after the tokens `previous` to it."""
        read = self.norms[0](self.windows(sources))
        there = (sources != PAD)[:, None, None, :]
        past = torch.ones(2 * [previous.shape[1]], dtype=torch.bool).tril()
        hidden = self.enters(previous)
        for layer in self.layers:
            hidden, contexts = layer(hidden, past, read, there)
        return Decoded(self.norms[1](hidden), contexts)


class Layer(nn.Module):
    """Attention to what was written, attention to what was read, a gated layer; norms before."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.to_written, self.to_read = (RotaryAttention(width, n_heads) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(
        self, hidden: Tensor, past: Tensor, read: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The hidden states of the next layer, and the attention vectors of this."""
        written = self.norms[0](hidden)
        hidden = hidden + self.to_written(written, written, past)
        contexts = self.to_read(self.norms[1](hidden), read, there)
        hidden = hidden + contexts
        value, gate = self.up(self.norms[2](hidden)).chunk(2, dim=-1)
        return hidden + self.down(value * F.silu(gate)), contexts


class RotaryAttention(nn.Module):
    """Attention by content and distance: queries and keys are turned by their place.

    (Su et al. 2021, "RoFormer", section 3.2.)
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        hidden: Float[Tensor, "batch time width"],
        read: Float[Tensor, "batch length width"],
        allowed: Bool[Tensor, "*batch time length"],
    ) -> Float[Tensor, "batch time width"]:
        """From each step to the places that are allowed."""
        queries, keys = rotated(self._heads(self.queries(hidden))), self._heads(self.keys(read))
        scores = queries @ rotated(keys).transpose(-1, -2) / queries.shape[-1] ** 0.5
        # Plain products: the fused kernel's gradient is many times slower here on a CPU.
        chances = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        heads = chances @ self._heads(self.values(read))
        joined: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, hidden: Tensor) -> Float[Tensor, "batch heads length head_width"]:
        heads: Tensor = hidden.unflatten(-1, (self.n_heads, -1))
        return heads.transpose(1, 2)


def rotated(x: Float[Tensor, "*batch length width"]) -> Float[Tensor, "*batch length width"]:
    """Pairs of numbers turned by angles that grow with the place: q . k then depends on j - t."""
    pairs = x.shape[-1] // 2
    rates = 1000.0 ** (-torch.arange(pairs) / pairs)
    angles = torch.arange(x.shape[-2]).unsqueeze(1) * rates
    left, right = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1).to(x.dtype)
