"""Answers by all keys of a class, those that the query is nearest to before the others."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from rarememory.checks import check_positive
from rarememory.memory import Memory
from rarememory.state import EMPTY

_CELLS = 2**24
"""Scores at once, of so many queries and all slots: 64 MiB of them."""
_SHORTEST = 1e-6
"""Keys of a class that cancel to less than this have no direction: their class scores near 0."""


class Attended(NamedTuple):
    """What the queries say of every class that is in memory.

    Attributes:
        classes: the values in memory, each once, ascending.
        scores: cosines of each query and what it attends to of each class, with gradient to the
            queries; -inf in rows that the memory left out.

    Example:
        >>> found = Attended(torch.tensor([3, 7]), torch.tensor([[0.5, 0.9], [0.8, 0.1]]))
        >>> found.prediction
        tensor([7, 3])
    """

    classes: Int64[Tensor, " classes"]
    scores: Float[Tensor, "*batch classes"]

    @property
    def prediction(self) -> Int64[Tensor, "*batch"]:
        """The class of the greatest score; EMPTY where there is none."""
        # A column more, so that there is a best one even among no classes.
        classes = pad(self.classes, (0, 1), value=EMPTY)
        scores = pad(self.scores, (0, 1), value=-torch.inf)
        best = classes[scores.argmax(dim=-1)]
        return best.masked_fill(scores.amax(dim=-1) == -torch.inf, EMPTY)


def attended(
    memory: Memory, queries: Float[Tensor, "*batch key_dim"], *, temperature: float = 0.4
) -> Attended:
    """Ask every class for what it has most like the query: the mean of its keys, weighted so.

    score(q, v) = q . p / |p|,   p = sum_{n: V[n] = v} w_n K[n],   w = softmax(q . K[n] / t) over v

    A class prototype (Snell et al. 2017, equation 1) of each query's own, by attention over the
    support (Vinyals et al. 2016, section 2.1.1) that stays within a class. At a great temperature t
    it is the mean of the class, at a small one its nearest key; between them a class of several
    examples is told better than by either. With one key a class all three are the same.

    It looks at all keys, not at the nearest few, and changes nothing. For a memory to hold every
    example, write by `FirstInFirstOut`: the paper's rule averages some of them.

    Args:
        memory: of any kind.
        queries: any leading shape, as in `Memory`.
        temperature: divides the cosines; 0.4 was chosen by drawings of Omniglot.

    Raises:
        ValueError: the temperature is not above 0, or the queries are none for this memory.

    Example:
        >>> from rarememory import FirstInFirstOut
        >>> memory = Memory(key_dim=2, memory_size=4, update=FirstInFirstOut())
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
        >>> write = memory.write(keys, torch.tensor([3, 3, 7]))
        >>> found = attended(memory, torch.tensor([0.96, 0.28]))
        >>> found.classes, found.scores, found.prediction
        (tensor([3, 7]), tensor([0.9947, 0.9360]), tensor(3))
    """
    check_positive("temperature", temperature)
    units = memory(queries, k=1).queries
    rows = units.reshape(-1, units.shape[-1])
    keys, values = memory.keys.to(rows.dtype), memory.values
    classes, counts = values[values != EMPTY].unique(return_counts=True)
    # Slots class by class, those that are empty first.
    slots = values.argsort(stable=True)[(values == EMPTY).sum() :]
    firsts = counts.cumsum(0) - counts
    scores = rows.new_empty(len(rows), len(classes))
    for count in counts.unique().tolist():
        # Classes of as many keys are one block.
        here = (counts == count).nonzero().squeeze(1)
        block = keys[slots[firsts[here].unsqueeze(1) + torch.arange(count, device=slots.device)]]
        at_once = rows.split(max(1, _CELLS // (len(here) * count)))
        found = torch.cat([_cosines(part, block, temperature) for part in at_once])
        scores = scores.index_copy(1, here, found)
    left_out = ~rows.detach().any(dim=1, keepdim=True)
    scores = scores.masked_fill(left_out, -torch.inf)
    return Attended(classes, scores.view(*units.shape[:-1], len(classes)))


def _cosines(
    rows: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "classes count key_dim"],
    temperature: float,
) -> Float[Tensor, "batch classes"]:
    """q . p / |p|; of p its length alone is needed, |p|^2 = w^T (K K^T) w."""
    cosines = (rows @ keys.flatten(0, 1).T).view(-1, *keys.shape[:2])
    weights = (cosines / temperature).softmax(dim=2)
    squares = torch.einsum("bcm,cmn,bcn->bc", weights, keys @ keys.mT, weights)
    lengths = squares.clamp(min=_SHORTEST**2).sqrt()
    return (weights * cosines).sum(dim=2) / lengths
