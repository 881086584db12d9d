"""The paper's kind of network: an LSTM that reads, one that writes, attention between them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from benchmarks.sequence.task import PAD
from benchmarks.sequence.windows import Decoded, Windows


class LSTM(nn.Module):
    """Two layers of 256 units each, and attention from the one to the other.

    The score of place j at step t is h_t . W r_j (Luong et al. 2015) plus a bias for the distance
    j - t that depends on h_t: strings of two letters have nothing else to find a place by. What was
    read by windows is added to what the LSTM makes of it.

    Args:
        token_width: of the embedded tokens that were written before.
        reach: tokens in a window, and the greatest distance with a bias of its own.
        width: of all layers.
    """

    def __init__(self, token_width: int, reach: int, width: int = 256) -> None:
        super().__init__()
        self.width, self.reach = width, reach
        self.windows = Windows(width, reach)
        self.reader = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.writer = nn.LSTM(token_width, width, num_layers=2, batch_first=True)
        self.content = nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(width, 2 * reach + 1)

    def forward(
        self,
        sources: Int64[Tensor, "batch length"],
        previous: Float[Tensor, "batch time token_width"],
    ) -> Decoded:
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
