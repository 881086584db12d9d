"""Data types: what a memory holds, what a read found, what a write did.

Axes: `slots` is memory_size, `key_dim` the width of a key, `k` the neighbours of one query, `...`
the leading shape of the queries, whatever it is.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

EMPTY = -1
"""The value, slot and age of nothing: an empty slot, a neighbour that is not there."""


class MemoryState(NamedTuple):
    """The buffers of a memory, shared with it: to change them in place is to change the memory.

    Attributes:
        keys: unit length; zero where empty.
        values: labels; EMPTY where empty.
        written: the clock when each slot was last written.
        clock: writes so far.
        seed: of the memory's own randomness.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=3)
        >>> write = memory.write(torch.eye(2)[:1], torch.tensor([7]))
        >>> write = memory.write(torch.eye(2)[1:], torch.tensor([9]))
        >>> memory.state.values, memory.state.ages, memory.state.clock
        (tensor([ 7,  9, -1]), tensor([ 1,  0, -1]), tensor(2))
    """

    keys: Float[Tensor, "slots key_dim"]
    values: Int64[Tensor, " slots"]
    written: Int64[Tensor, " slots"]
    clock: Int64[Tensor, ""]
    seed: Int64[Tensor, ""]

    @property
    def occupied(self) -> Bool[Tensor, " slots"]:
        """Slots that hold something."""
        return self.values != EMPTY

    @property
    def ages(self) -> Int64[Tensor, " slots"]:
        """Writes since each slot was last written (the paper's A); EMPTY where empty."""
        return (self.clock - self.written).masked_fill(~self.occupied, EMPTY)


class Recall(NamedTuple):
    """What the queries found: the neighbours looked up, best first, and what follows from them.

    A read without labels looks up the k nearest slots. A read with labels looks up two, the nearest
    slot of the right value and the nearest of a wrong one, which is all that training needs; give
    it `k` as well to have the k nearest. Where there are fewer neighbours than places, the places
    left over have slot and value EMPTY, score -inf and weight 0; a query that finds nothing at all
    (an empty memory, a masked row) has prediction EMPTY and confidence 0. Weights and confidence
    are over the neighbours looked up, so those of a read with labels are between two.

    Attributes:
        slots: of the neighbours.
        scores: their cosines, with gradient to the queries.
        values: their labels.
        queries: as the memory sees them, projected and of unit length; zero where left out.
        temperature: of the weights.
        loss: with labels, the memory loss.
        filtered: whether the read was among some slots only.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8, temperature=0.5)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> recall = memory(torch.tensor([0.6, 0.8]), k=3)
        >>> recall.values, recall.scores, recall.weights
        (tensor([ 9,  7, -1]), tensor([0.8000, 0.6000,   -inf]), tensor([0.5987, 0.4013, 0.0000]))
        >>> recall.prediction, recall.confidence
        (tensor(9), tensor(0.5987))
    """

    slots: Int64[Tensor, "*batch k"]
    scores: Float[Tensor, "*batch k"]
    values: Int64[Tensor, "*batch k"]
    queries: Float[Tensor, "*batch key_dim"]
    temperature: float
    loss: Float[Tensor, ""] | None = None
    filtered: bool = False

    @property
    def weights(self) -> Float[Tensor, "*batch k"]:
        """softmax(scores / temperature) over the neighbours (Kaiser et al. 2017, section 2)."""
        there = self.slots != EMPTY
        # Not -inf, so that a row that found nothing has a softmax all the same; it is worth 0.
        lowest = torch.finfo(self.scores.dtype).min
        logits = (self.scores / self.temperature).masked_fill(~there, lowest)
        return logits.softmax(dim=-1) * there

    @property
    def prediction(self) -> Int64[Tensor, "*batch"]:
        """Value of the nearest neighbour."""
        return self.values[..., 0]

    @property
    def confidence(self) -> Float[Tensor, "*batch"]:
        """Weight of the nearest neighbour."""
        return self.weights[..., 0]


class Write(NamedTuple):
    """What a write did with every row; a masked row has slot EMPTY and is no hit.

    Attributes:
        slots: where the row went.
        hits: whether the nearest value was the label, before this write.
        overwritten: the value that was lost to the row, EMPTY if none was.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=1)
        >>> memory.write(torch.tensor([1.0, 0.0]), torch.tensor(7)).overwritten
        tensor(-1)
        >>> memory.write(torch.tensor([0.8, 0.6]), torch.tensor(7)).hits
        tensor(True)
        >>> memory.write(torch.tensor([0.0, 1.0]), torch.tensor(9)).overwritten
        tensor(7)
    """

    slots: Int64[Tensor, "*batch"]
    hits: Bool[Tensor, "*batch"]
    overwritten: Int64[Tensor, "*batch"]


def in_transform() -> bool:
    """Whether this is inside a transform of torch.func, whose tensors are of no use after it.

    Example:
        >>> in_transform(), torch.func.vmap(lambda one: one + in_transform())(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether what is computed of these tensors has a gradient.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> wants_gradient(x), wants_gradient(x.detach())
        (True, False)
    """
    # In a loop: before every small read any() takes longer than this.
    for tensor in tensors:
        if tensor.requires_grad:
            return torch.is_grad_enabled()
    return False


def host_may_read(tensor: Tensor) -> bool:
    """Whether what comes next may depend on the numbers in a tensor.

    On a GPU the host would have to wait for them, and a compiled program has none yet.

    Example:
        >>> host_may_read(torch.ones(2)), host_may_read(torch.ones(2, device="meta"))
        (True, False)
    """
    return tensor.is_cpu and not torch.compiler.is_compiling()
