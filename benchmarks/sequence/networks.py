"""The networks that read an input and write an output: the paper's kind, and one of today.

Both read windows of the input. The LSTM writes with attention. `Modern` has no absolute positions:
convolutions see what is near, and rotary attention depends on distance, so that to copy is to look
as far back at every step.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sequence.task import N_SOURCE_TOKENS, PAD

Sources = Int64[Tensor, "batch length"]
Previous = Float[Tensor, "batch time token_width"]


class Decoded(NamedTuple):
    """The last layer of every step, and its attention vectors, the queries of the memory."""

    outputs: Float[Tensor, "batch time width"]
    contexts: Float[Tensor, "batch time width"]


class Windows(nn.Module):
    """A gated convolution of `reach` tokens: W x * sigmoid(U x) (Dauphin et al. 2017, section 2).

    At a number's first digit the window holds the number and nothing else, so its features are the
    same in every string: by them the memory recognises it.
    """

    def __init__(self, width: int, reach: int, token_width: int = 32) -> None:
        super().__init__()
        self.reach = reach
        self.embedding = nn.Embedding(N_SOURCE_TOKENS, token_width, padding_idx=PAD)
        self.near = nn.Linear(reach * token_width, 2 * width)

    def forward(self, sources: Sources) -> Float[Tensor, "batch length width"]:
        """A window that ends after the input holds zeros there, as for PAD."""
        tokens = F.pad(self.embedding(sources), (0, 0, 0, self.reach - 1))
        value, gate = self.near(tokens.unfold(1, self.reach, 1).flatten(2)).chunk(2, dim=-1)
        read: Tensor = value * gate.sigmoid()
        return read


class LSTM(nn.Module):
    """Two layers of 256 units each, and attention from the one to the other.

    The score of place j at step t is h_t . W r_j (Luong et al. 2015) plus a bias for the distance
    j - t (up to `reach`) that depends on h_t: strings of two letters have nothing else to find a
    place by. The windows' features are added to the output of the LSTM that reads.
    """

    def __init__(self, token_width: int, reach: int, width: int = 256) -> None:
        super().__init__()
        self.width, self.reach = width, reach
        self.windows = Windows(width, reach)
        self.reader = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.writer = nn.LSTM(token_width, width, num_layers=2, batch_first=True)
        self.content = nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(width, 2 * reach + 1)

    def forward(self, sources: Sources, previous: Previous) -> Decoded:
        """Read the input, and write each step after the tokens `previous` to it."""
        near = self.windows(sources)
        read = near + self.reader(near)[0]
        outputs, _ = self.writer(previous)
        scores = self.content(outputs) @ read.transpose(1, 2) / self.width**0.5
        scores = scores + self._by_distance(outputs, sources.shape[1])
        scores = scores.masked_fill((sources == PAD).unsqueeze(1), -torch.inf)
        return Decoded(outputs, scores.softmax(dim=-1) @ read)

    def _by_distance(self, outputs: Tensor, length: int) -> Float[Tensor, "batch time length"]:
        batch, time, _ = outputs.shape
        distance = torch.arange(length) - torch.arange(time).unsqueeze(1)
        distance = distance.clamp(-self.reach, self.reach) + self.reach
        bias: Tensor = self.distance(outputs)
        return bias.gather(2, distance.expand(batch, -1, -1))


class Modern(nn.Module):
    """Decoder layers with rotary attention over windows of the input."""

    def __init__(
        self, token_width: int, reach: int, width: int = 128, n_layers: int = 2, n_heads: int = 4
    ) -> None:
        super().__init__()
        self.width = width
        self.windows = Windows(width, reach)
        self.enters = nn.Linear(token_width, width)
        self.layers = nn.ModuleList(Layer(width, n_heads) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, sources: Sources, previous: Previous) -> Decoded:
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
        # Without the fused kernel: its gradient is many times slower here on a CPU.
        probabilities = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        heads = probabilities @ self._heads(self.values(read))
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


NETWORKS = {"lstm": LSTM, "modern": Modern}
