"""A network that translates step by step, with or without a memory that is read at each of them."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.sequence.networks import LSTM, Modern
from benchmarks.sequence.task import END, FIRST_SYMBOL, Examples
from rarememory import Memory, Recall
from rarememory.training.precision import encoder_autocast


class Steps(NamedTuple):
    """All steps of a batch: the hidden states, and what the memory recalled."""

    hidden: Float[Tensor, "batch time token_width"]
    recall: Recall | None


class Translator(nn.Module):
    """An encoder and decoder, and the memory's use of Kaiser et al. 2017, section 3.

    At every step the attention vector gives a query. The value that it recalls, an output token, is
    embedded, multiplied by its softmax weight, and joined with the decoder's state by a linear
    layer. One table embeds previous tokens and recalled tokens, and scores symbols (Press & Wolf
    2017): a recalled symbol can be predicted even if it never was before.

    A prediction is first a kind (the end, either letter, a symbol) and then which symbol, so that
    only steps of symbols pay for a softmax over 16,000.
    """

    def __init__(
        self, network: LSTM | Modern, n_tokens: int, token_width: int, memory: Memory | None = None
    ) -> None:
        super().__init__()
        self.network, self.memory = network, memory
        self.precision = partial(encoder_autocast, torch.device("cpu"))
        self.embedding = nn.Embedding(n_tokens, token_width)
        joined = 2 * network.width
        if memory is not None:
            self.query = nn.Linear(network.width, memory.keys.shape[1])
            joined += token_width
        self.join = nn.Linear(joined, token_width)
        self.kinds = nn.Linear(token_width, FIRST_SYMBOL + 1)

    def forward(self, examples: Examples, *, learn: bool = False) -> Steps:
        """Every step, given the true tokens before it; `learn` sets `recall.loss`.

        The memory is read, and never written.
        """
        first = torch.full_like(examples.targets[:, :1], END)
        previous = self.embedding(torch.cat([first, examples.targets[:, :-1]], dim=1))
        with self.precision():
            outputs, contexts = self.network(examples.sources, previous)
        parts, recall = [outputs.float(), contexts.float()], None
        if self.memory is not None:
            labels = examples.targets if learn else None
            recall = self.memory(self.query(parts[1]), labels, k=self.memory.k, mask=examples.mask)
            answer = self.embedding(recall.prediction.clamp(min=0))
            parts.append(answer * recall.confidence.unsqueeze(-1))
        return Steps(self.join(torch.cat(parts, dim=-1)), recall)

    def loss(self, steps: Steps, examples: Examples) -> Float[Tensor, ""]:
        """-log p of the true tokens plus the memory loss, over all steps of an output."""
        targets, mask, symbols = examples.targets, examples.mask, examples.symbols
        kinds = self.kinds(steps.hidden[mask])
        loss = cross_entropy(kinds, targets[mask].clamp(max=FIRST_SYMBOL), reduction="sum")
        scores = self._symbol_scores(steps.hidden[symbols])
        loss = loss + cross_entropy(scores, targets[symbols] - FIRST_SYMBOL, reduction="sum")
        if steps.recall is not None and steps.recall.loss is not None:
            # It is a mean over steps, of which a number is one of twenty: as a sum it has weight.
            loss = loss + steps.recall.loss * mask.sum()
        return loss / len(targets)

    @torch.no_grad()
    def answers(self, examples: Examples) -> Int64[Tensor, "batch time"]:
        """The most probable token of every step, given the true ones before it.

        All of an output is correct if, and only if, greedy decoding gives it too.
        """
        hidden = self(examples).hidden
        tokens: Tensor = self.kinds(hidden).argmax(dim=-1)
        symbols = tokens == FIRST_SYMBOL
        tokens[symbols] += self._symbol_scores(hidden[symbols]).argmax(dim=-1)
        return tokens

    def _symbol_scores(self, hidden: Tensor) -> Float[Tensor, "steps symbols"]:
        with self.precision():
            return (hidden @ self.embedding.weight[FIRST_SYMBOL:].T).float()
