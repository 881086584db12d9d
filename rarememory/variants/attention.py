"""Answers by all keys of a class, those that the query is nearest to before the others."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize, pad

from rarememory.base.deprecation import renamed_keywords
from rarememory.base.state import EMPTY
from rarememory.base.validation import check_finite, check_temperature
from rarememory.lookup.pair import SCORES_AT_ONCE
from rarememory.memory import Memory
from rarememory.memory.queries import rows_of
from rarememory.variants.hubness import HUBNESS_NEIGHBORS, class_hubness

TEMPERATURE = 0.4
"""Chosen by validation characters of Omniglot."""
HUBNESS_CORRECTION = 0.15
"""Chosen by validation characters of Omniglot."""
_SHORTEST = 0.01
"""The mean of a class that is shorter than this counts as this long; see `class_attention`."""


class ClassScores(NamedTuple):
    """What the queries say of every class that is in memory.

    Attributes:
        classes: the values in memory, each once, ascending.
        scores: cosine of each query and the weighted mean of each class's keys, less the hubness
            correction, with gradient to the queries; -inf in rows that are masked or left out.

    Example:
        >>> found = ClassScores(torch.tensor([3, 7]), torch.tensor([[0.5, 0.9], [0.8, 0.1]]))
        >>> found.prediction
        tensor([7, 3])
    """

    classes: Int64[Tensor, " classes"]
    scores: Float[Tensor, "*batch classes"]

    @property
    def prediction(self) -> Int64[Tensor, "*batch"]:
        """The class of the greatest score, the lowest of equal ones; EMPTY where there is none."""
        # A column more, so that there is a best one even among no classes.
        classes = pad(self.classes, (0, 1), value=EMPTY)
        scores, best = pad(self.scores, (0, 1), value=-torch.inf).max(dim=-1)
        return classes[best].masked_fill(scores == -torch.inf, EMPTY)


ClassAttention = Callable[[Memory, Float[Tensor, "*batch key_dim"]], ClassScores]
"""`class_attention`, or a partial of it."""


@renamed_keywords(crowding="hubness_correction")
def class_attention(
    memory: Memory,
    queries: Float[Tensor, "*batch key_dim"],
    *,
    temperature: float = TEMPERATURE,
    hubness_correction: float = 0.0,
) -> ClassScores:
    """Ask every class for what it has most like the query: the mean of its keys, weighted so.

    score(q, v) = q . p / |p| - c r(v)
    p = sum_{n: V[n] = v} w_n K[n],   w = softmax(q . K[n] / t) over v

    A class prototype (Snell et al. 2017, equation 1) of each query's own, by attention over the
    support (Vinyals et al. 2016, section 2.1.1) that stays within a class. At a great temperature t
    it is the mean of the class, at a small one its nearest key; between them a class of several
    examples is told apart better than by either. With one key a class all three are the same. Of
    hundreds of classes, those close to keys of others answer too often, unless some of r(v), the
    mean cosine to the 10 nearest of these, is taken off
    (`rarememory.variants.hubness.class_hubness`). Where the keys of a class cancel, 0.01 stands for
    a smaller |p|, so that its score falls to 0 with |p|.

    It looks at all keys, not at the nearest few, makes the host wait for a GPU, and changes
    nothing: a read for classes of several examples, not for every step of a training. For a memory
    to hold every example, write by `FirstInFirstOut`: the paper's rule averages some of them.

    Args:
        memory: of any kind.
        queries: any leading shape, as in `Memory`.
        temperature: divides the cosines.
        hubness_correction: the factor c; 0.15 does well with hundreds of classes. Unless it is
            0, a call costs a cosine more for every class and slot: ask all queries at once.

    Raises:
        ValueError: the temperature is not above 0, the hubness correction is below 0 or
            infinite, or the queries do not fit this memory.

    Example:
        >>> from rarememory import FirstInFirstOut
        >>> memory = Memory(key_dim=2, memory_size=4, update=FirstInFirstOut())
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
        >>> write = memory.write(keys, torch.tensor([3, 3, 7]))
        >>> found = class_attention(memory, torch.tensor([0.96, 0.28]))
        >>> found.classes, found.scores, found.prediction
        (tensor([3, 7]), tensor([0.9947, 0.9360]), tensor(3))
    """
    check_temperature(temperature)
    check_finite("hubness_correction", hubness_correction)
    with memory.lock.reading():
        rows = rows_of(queries, None, None, memory.keys, memory.projection, memory.validate)
        # Autocast would round the products, and with them the answers.
        with torch.autocast(rows.queries.device.type, enabled=False):
            classes, scores = _scores(memory, rows.queries, temperature, hubness_correction)
    if rows.mask is not None:
        scores = scores.masked_fill(~rows.mask.unsqueeze(1), -torch.inf)
    return ClassScores(classes, scores.view(*rows.shape, len(classes)))


def _scores(
    memory: Memory,
    rows: Float[Tensor, "batch key_dim"],
    temperature: float,
    hubness_correction: float,
) -> tuple[Int64[Tensor, " classes"], Float[Tensor, "batch classes"]]:
    # Occupied slots, class by class: empty ones sort first, and are left out.
    slots = memory.values.argsort(stable=True)[int((memory.values == EMPTY).sum()) :]
    keys = memory.keys[slots].to(torch.promote_types(memory.keys.dtype, torch.float32))
    classes, places, counts = memory.values[slots].unique(return_inverse=True, return_counts=True)
    scores = rows.new_empty(len(rows), len(classes))
    for some, block in _blocks(keys, counts):
        # |p|^2 = w^T K K^T w needs no p, but K K^T of more keys than they are wide is the larger.
        products = block @ block.mT if block.shape[1] <= block.shape[2] else None
        pieces = rows.split(max(1, SCORES_AT_ONCE // block.shape[:2].numel()))
        found = [_cosines(piece, block, products, temperature) for piece in pieces]
        scores = scores.index_copy(1, some, torch.cat(found))
    if hubness_correction:
        scores = scores - hubness_correction * _hubness_of(keys, places, counts)
    return classes, scores


def _hubness_of(
    keys: Float[Tensor, "slots key_dim"],
    places: Int64[Tensor, " slots"],
    counts: Int64[Tensor, " classes"],
) -> Float[Tensor, " classes"]:
    means = keys.new_empty(len(counts), keys.shape[1])
    for some, block in _blocks(keys, counts):
        means[some] = block.mean(dim=1)
    k = min(HUBNESS_NEIGHBORS, len(keys) - max(counts.tolist(), default=0))
    return class_hubness(normalize(means, dim=1, eps=_SHORTEST), keys, places, k)


def _blocks(
    keys: Float[Tensor, "slots key_dim"], counts: Int64[Tensor, " classes"]
) -> Iterator[tuple[Int64[Tensor, " some"], Float[Tensor, "some count key_dim"]]]:
    """The places of the classes that have as many keys, and those keys; all come class by class."""
    firsts = counts.cumsum(0) - counts
    for count in counts.unique().tolist():
        some = (counts == count).nonzero().squeeze(1)
        if len(some) == len(counts):
            # As most often: no copy is made.
            yield some, keys.view(len(some), count, -1)
        else:
            own = firsts[some].unsqueeze(1) + torch.arange(count, device=keys.device)
            yield some, keys[own]


def _cosines(
    rows: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "classes count key_dim"],
    products: Float[Tensor, "classes count count"] | None,
    temperature: float,
) -> Float[Tensor, "batch classes"]:
    """q . p / |p|."""
    cosines = (rows @ keys.flatten(0, 1).T).view(-1, *keys.shape[:2])
    weights = (cosines / temperature).softmax(dim=2)
    if products is None:
        squares = torch.einsum("bcm,cmd->bcd", weights, keys).square().sum(dim=2)
    else:
        squares = torch.einsum("bcm,cmn,bcn->bc", weights, products, weights)
    lengths = squares.clamp(min=_SHORTEST**2).sqrt()
    return (weights * cosines).sum(dim=2) / lengths
