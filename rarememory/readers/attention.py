"""Reading by attention over keys, softly or by the nearest key, in one hop or in several."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from rarememory.base.state import EMPTY
from rarememory.base.validation import check_count, check_temperature
from rarememory.memory import Memory


def attention_weights(
    queries: Float[Tensor, "*batch queries key_dim"],
    keys: Float[Tensor, "*batch slots key_dim"],
    mask: Bool[Tensor, "*batch #queries slots"] | None = None,
    temperature: float = 1.0,
    *,
    hard: bool = False,
) -> Float[Tensor, "*batch queries slots"]:
    """How much each query attends to each key.

    softmax(alpha / temperature) with alpha_i = k_i . x (Sukhbaatar et al. 2015, section 2.1); if
    hard, 1 at the greatest alpha, the lowest slot of equal ones, which is what the softmax becomes
    as the temperature goes to 0.

    Args:
        queries: x.
        keys: k.
        mask: the keys that may be read; None for all.
        temperature: divides alpha.
        hard: attend to one key only.

    Raises:
        ValueError: the temperature is not positive, or a query may read no key.

    Example:
        >>> attention_weights(torch.tensor([[1.0, 0.0]]), torch.eye(2), hard=True)
        tensor([[1., 0.]])
    """
    check_temperature(temperature)
    scores = queries @ keys.mT
    if mask is not None:
        _check_readable(mask)
        scores = scores.masked_fill(~mask, -torch.inf)
    if hard:
        best = scores.max(dim=-1, keepdim=True).indices
        return torch.zeros_like(scores).scatter(-1, best, 1.0)
    return (scores / temperature).softmax(-1)


def soft_read(
    queries: Float[Tensor, "*batch queries key_dim"],
    keys: Float[Tensor, "*batch slots key_dim"],
    values: Float[Tensor, "*batch slots value_dim"],
    mask: Bool[Tensor, "*batch #queries slots"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch queries value_dim"]:
    """s = sum_i c_i v_i with c = softmax(alpha / temperature) and alpha_i = k_i . x.

    This is torch's `scaled_dot_product_attention`, with what it has kernels for.

    Args:
        queries: x.
        keys: k.
        values: v.
        mask: the keys that may be read; None for all.
        temperature: divides alpha.

    Raises:
        ValueError: the temperature is not positive, or a query may read no key.

    Example:
        >>> keys, values = torch.eye(2), torch.tensor([[0.0], [1.0]])
        >>> soft_read(torch.tensor([[0.0, 9.0]]), keys, values).round(decimals=3)
        tensor([[1.]])
    """
    check_temperature(temperature)
    if mask is not None:
        _check_readable(mask)
    return scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=1.0 / temperature
    )


def hard_read(
    queries: Float[Tensor, "*batch queries key_dim"],
    keys: Float[Tensor, "*batch slots key_dim"],
    values: Float[Tensor, "*batch slots value_dim"],
    mask: Bool[Tensor, "*batch #queries slots"] | None = None,
) -> Float[Tensor, "*batch queries value_dim"]:
    """The value of the nearest key: `soft_read` as the temperature goes to 0.

    Raises:
        ValueError: a query may read no key.

    Example:
        >>> keys, values = torch.eye(2), torch.tensor([[0.0], [1.0]])
        >>> hard_read(torch.tensor([[0.1, 0.2]]), keys, values)
        tensor([[1.]])
    """
    if mask is not None:
        _check_readable(mask)
    read: Tensor = attention_weights(queries, keys, mask, hard=True) @ values
    return read


def multi_hop_read(
    queries: Float[Tensor, "*batch queries key_dim"],
    keys: Float[Tensor, "*batch slots key_dim"],
    values: Float[Tensor, "*batch slots key_dim"],
    mask: Bool[Tensor, "*batch #queries slots"] | None = None,
    temperature: float = 1.0,
    *,
    hops: int = 1,
    hard: bool = False,
) -> Float[Tensor, "*batch queries key_dim"]:
    """What the queries have become after several hops: u <- u + sum_i p_i v_i in each.

    p is the attention of u to the keys (Sukhbaatar et al. 2015, section 2.2).

    Args:
        queries: the first u.
        keys: k.
        values: v.
        mask: the keys that may be read; None for all.
        temperature: divides alpha; of no account if `hard`.
        hops: how many.
        hard: read the value of the nearest key only.

    Raises:
        ValueError: `hops` is less than 1, the temperature is not positive, or a query may read no
            key.

    Example:
        >>> keys = torch.eye(3)
        >>> multi_hop_read(keys[:1], keys, 2 * keys.roll(-1, 0), hops=2, hard=True)
        tensor([[1., 2., 2.]])
    """
    check_count("hops", hops)
    u = queries
    for _ in range(hops):
        if hard:
            u = u + hard_read(u, keys, values, mask)
        else:
            u = u + soft_read(u, keys, values, mask, temperature)
    return u


def _check_readable(mask: Bool[Tensor, "*batch queries slots"]) -> None:
    if not mask.any(-1).all():
        row = int((~mask.any(-1)).flatten().nonzero()[0, 0])
        raise ValueError(f"query {row} has no key to read: its mask leaves none of the slots")


class HopReading(NamedTuple):
    """What a `MultiHopReader` found.

    Attributes:
        classes: the values in memory, each once, ascending.
        probabilities: of each class, the sum of the last hop's attention to its slots.
        attention: of each hop the weight of every slot; 0 where it is empty.

    Example:
        >>> classes, probabilities = torch.tensor([3, 7]), torch.tensor([[0.9, 0.1]])
        >>> HopReading(classes, probabilities, torch.ones(1, 1, 1)).prediction
        tensor([3])
    """

    classes: Int64[Tensor, " classes"]
    probabilities: Float[Tensor, "queries classes"]
    attention: Float[Tensor, "hops queries slots"]

    @property
    def prediction(self) -> Int64[Tensor, " queries"]:
        """The likeliest class, the lowest of equally likely ones."""
        return self.classes[self.probabilities.max(dim=1).indices]


class MultiHopReader:
    """Reads a `Memory` in several hops, softly or by the nearest key.

    A hop attends to the keys, p = softmax(K u / temperature), and adds what it read to the query:
    u + sum_i p_i K_i, scaled to unit length as every query is. So a query that stands between its
    class and another moves to where more of the remembered features are. The answer is what the
    last hop attends to. One hard hop answers as `memory(queries)` does.

    Args:
        memory: of any encoder's features; read as it is when called, and never changed.
        hops: how many.
        temperature: divides the scores; the memory's own if None.
        hard: attend to the nearest key only.

    Raises:
        ValueError: `hops` is less than 1, or the temperature is not positive.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> _ = memory.write(torch.eye(2), torch.tensor([3, 5]))
        >>> MultiHopReader(memory, hops=2)(torch.tensor([[0.9, 0.1]])).prediction
        tensor([3])
    """

    def __init__(
        self,
        memory: Memory,
        *,
        hops: int = 1,
        temperature: float | None = None,
        hard: bool = False,
    ) -> None:
        check_count("hops", hops)
        self.memory, self.hops, self.hard = memory, hops, hard
        self.temperature = memory.temperature if temperature is None else temperature
        check_temperature(self.temperature)

    def __call__(self, queries: Float[Tensor, "queries key_dim"]) -> HopReading:
        """Read by every query; the gradient goes to the queries.

        Raises:
            ValueError: the memory is empty.
        """
        values = self.memory.values
        held = values != EMPTY
        if not held.any():
            raise ValueError("there is nothing to read: the memory is empty")
        keys = self.memory.keys.to(queries.dtype)
        mask = held.expand(len(queries), -1)
        u = normalize(queries, dim=1)
        attention = []
        for _ in range(self.hops):
            p = attention_weights(u, keys, mask, self.temperature, hard=self.hard)
            attention.append(p)
            u = normalize(u + p @ keys, dim=1)
        classes = values[held].unique()
        of_class = (values.unsqueeze(1) == classes).to(p.dtype)
        return HopReading(classes, p @ of_class, torch.stack(attention))
