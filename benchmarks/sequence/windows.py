"""How either network reads an input: each token with the few after it, wherever they stand."""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.sequence.task import N_SOURCE_TOKENS, PAD


class Decoded(NamedTuple):
    """What a network makes of every step of the output.

    Attributes:
        outputs: of its last layer.
        contexts: the attention vectors, of which the memory is asked.
    """

    outputs: Float[Tensor, "batch time width"]
    contexts: Float[Tensor, "batch time width"]


class Windows(nn.Module):
    """A gated convolution of the tokens: W x * sigmoid(U x) (Dauphin et al. 2017, section 2).

    At a number's first digit the window holds the number and nothing else. So what is made of it is
    the same in every string, which is what a memory has to recognise it by; and it is found where
    the next letter would be.

    Args:
        width: of what is read.
        reach: tokens that a window holds.
        token_width: of an embedded token.
    """

    def __init__(self, width: int, reach: int, token_width: int = 32) -> None:
        super().__init__()
        self.reach = reach
        self.embedding = nn.Embedding(N_SOURCE_TOKENS, token_width, padding_idx=PAD)
        self.near = nn.Linear(reach * token_width, 2 * width)

    def forward(
        self, sources: Int64[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length width"]:
        """A window that ends after the input holds zeros there, as for PAD."""
        tokens = pad(self.embedding(sources), (0, 0, 0, self.reach - 1))
        value, gate = self.near(tokens.unfold(1, self.reach, 1).flatten(2)).chunk(2, dim=-1)
        read: Tensor = value * gate.sigmoid()
        return read
