"""What a write stores, and where: policies, and the one write that carries them out.

A policy is a frozen dataclass with two answers: which rows are averaged into the key that answered
them, and which slots are given up first for the rest. Everything that is easy to get wrong (rows of
a batch that want one slot, a slot that is averaged and replaced at once, the order of the rows) is
settled here, once, for every policy.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from rarememory.noise import slot_noise
from rarememory.state import EMPTY, MemoryState, Write

_SHORTEST_SUM = 1e-12
"""A key and rows that cancel to less than this have no direction: the key stays as it is."""


@runtime_checkable
class Update(Protocol):
    """A policy of writing.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from rarememory import Memory
        >>> @dataclass(frozen=True)
        ... class KeepTheOldest:
        ...     def averages(self, hits):
        ...         return hits
        ...     def eviction(self, ages, noise):
        ...         return -ages
        >>> memory = Memory(key_dim=2, memory_size=1, update=KeepTheOldest())
    """

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Rows that are averaged into their nearest key; only rows that hit can be."""
        ...

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        """How gladly each occupied slot is given up: the highest goes first, then the lower slot.

        `noise` is uniform in [-1, 1), new for each write. Empty slots go before all others, however
        glad the policy is, and a slot of -inf goes last: every row is written somewhere.
        """
        ...


@dataclass(frozen=True)
class AverageOrReplace:
    """The paper's policy: average into the key that answered rightly, or replace the oldest slot.

    V[n1] = v:  K[n1] <- (q + K[n1]) / |q + K[n1]|;  otherwise n' = argmax A[i] + r_i,  K[n'] <- q,
    V[n'] <- v, with r_i uniform in [-age_noise, age_noise] (Kaiser et al. 2017, section 2; the
    default 8 is from the authors' code).
    """

    age_noise: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.age_noise < float("inf"):
            raise ValueError(f"age_noise must be 0 or a positive number, not {self.age_noise}")

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return hits

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        return ages + self.age_noise * noise


@dataclass(frozen=True)
class FirstInFirstOut:
    """Every row gets a slot of its own, that of the row written longest ago."""

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return torch.zeros_like(hits)

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        return ages


@dataclass(frozen=True)
class AverageOrReplaceRandom:
    """As the paper's, but a slot drawn at random is replaced, however young: the usual ablation."""

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return hits

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        return noise


def write(
    state: MemoryState,
    update: Update,
    queries: Float[Tensor, "batch key_dim"],
    labels: Int64[Tensor, " batch"],
    nearest: Int64[Tensor, " batch"],
    mask: Bool[Tensor, " batch"] | None = None,
) -> tuple[Write, Bool[Tensor, " batch"]]:
    """Write rows of unit length into the state, in place, as one set: their order does not matter.

    Rows that average into one slot are summed with its key and normalised once. The others take
    distinct slots, in the order of `Update.eviction`, never one that is averaged into here. All
    ages grow by one, those of written slots become 0. Without a row to write nothing changes.

    Args:
        nearest: the slot nearest to each row; EMPTY where none is, or where the mask leaves it out.

    Returns:
        What was done with each row, and the rows that found no slot because all were taken.
    """
    if len(queries) == 0:
        return Write(nearest, nearest.bool(), nearest), nearest.bool()
    hits = (nearest != EMPTY) & (state.values[nearest] == labels)
    placed = ~update.averages(hits) | ~hits
    if mask is not None:
        placed = placed & mask
    averaged = hits & ~placed
    slots = nearest.where(averaged, EMPTY)
    overwritten = torch.full_like(slots, EMPTY)
    turn = _own_order(queries, labels)
    keys = queries
    if _any(placed):
        slots = _placed(state, update, slots, placed, turn)
        overwritten = state.values[slots].where(placed & (slots != EMPTY), EMPTY)
    if _any(averaged):
        keys = _averaged(state.keys, queries, slots, averaged, turn)
    everyone = mask is None and len(queries) <= len(state.values)
    _store(state, keys, labels, slots, None if everyone else slots != EMPTY)
    return Write(slots, hits, overwritten), placed & (slots == EMPTY)


def eviction_order(
    state: MemoryState, update: Update, count: int, keep: Int64[Tensor, " kept"] | None = None
) -> Int64[Tensor, " count"]:
    """The slots to give up first: empty ones, then the policy's choice; never one of `keep`.

    This is the one part of a write that looks at every slot. EMPTY where no slot is left.
    """
    size = len(state.values)
    noise = slot_noise(state.seed, state.clock, size)
    gladness = update.eviction((state.clock - state.written).double(), noise).nan_to_num()
    # One place more than there are slots: what `keep` holds for "none" lands there.
    gladness = torch.cat([gladness, gladness.new_full((1,), -torch.inf)])
    gladness[:-1].masked_fill_(state.values == EMPTY, torch.inf)
    if keep is not None:
        gladness.index_fill_(0, keep.where(keep != EMPTY, size), -torch.inf)
    count = min(count, size)
    least = gladness.topk(count).values[-1]
    # Of the slots that tie for the last place, the lower ones are in.
    above, tied = gladness > least, gladness == least
    chosen = above | (tied & (tied.cumsum(0) <= count - above.sum()))
    slots = torch.nonzero_static(chosen, size=count).squeeze(1)
    slots = slots[gladness[slots].argsort(descending=True, stable=True)]
    return slots.masked_fill(gladness[slots] == -torch.inf, EMPTY)


def _own_order(queries: Tensor, labels: Tensor) -> Tensor:
    """An order of the rows that depends on what they are, not on where they stand.

    By label, then by sum_i q_i cos(i), i = 1 ... key_dim, a number that tells rows apart. Who gets
    which slot depends on the order of the rows, and so does the rounding of a sum; in this order a
    batch and its permutation leave the same memory, to the bit.
    """
    axis = torch.arange(1, queries.shape[1] + 1, device=queries.device, dtype=torch.float64)
    by_query = (queries * axis.cos_()).sum(1).argsort()
    return by_query[labels[by_query].argsort(stable=True)]


def _any(rows: Tensor) -> bool:
    """Whether there is work to do; where asking would make the host wait, there may be."""
    return rows.device.type != "cpu" or bool(rows.any())


def _placed(
    state: MemoryState, update: Update, slots: Tensor, placed: Tensor, turn: Tensor
) -> Tensor:
    """The slots, with one given to every placed row, in its turn, as long as there are any."""
    free = eviction_order(state, update, len(slots), keep=slots)
    place = torch.empty_like(slots)
    place[turn] = placed[turn].cumsum(0) - 1
    found = free[place.clamp(0, len(free) - 1)].masked_fill(place >= len(free), EMPTY)
    return found.where(placed, slots)


def _store(
    state: MemoryState, keys: Tensor, labels: Tensor, slots: Tensor, real: Tensor | None
) -> None:
    """Put keys and labels into their slots, all of them or those that are `real`."""
    state.clock.add_(1 if real is None else real.any())
    stamps = state.clock.expand(len(slots))
    if real is None:
        for stored, rows in zip(state, (keys, labels, stamps), strict=False):
            stored.index_copy_(0, slots, rows)
        return
    # Shapes that depend on data would make the host wait. So a row without a slot writes again what
    # the first real row writes or, where there is none, what its slot holds already.
    first = real.int().argmax().view(1)
    target = slots[first].clamp(min=0)
    slots = slots.where(real, target)
    for stored, rows in zip(state, (keys, labels, stamps), strict=False):
        again = rows[first].where(_along(real[first], rows), stored[target])
        stored.index_copy_(0, slots, rows.where(_along(real, rows), again))


def _along(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))


def _averaged(
    keys: Tensor, queries: Tensor, slots: Tensor, averaged: Tensor, turn: Tensor
) -> Tensor:
    """The key that each row leaves in its slot: the row itself, or the average it is part of."""
    # All rows of one slot are summed in the place of the first of them, for each to find.
    in_slot_order = slots.sort(stable=True)
    first = in_slot_order.indices[torch.searchsorted(in_slot_order.values, slots)]
    rows = queries[turn]
    if queries.device.type == "cpu":
        sums = torch.zeros_like(rows).index_add_(0, first[turn], rows)
    else:
        # On a GPU index_add_ adds in any order; this one sorts first.
        sums = torch.zeros_like(rows).index_put_((first[turn],), rows, accumulate=True)
    before = keys[slots]
    sums = before + sums[first]
    lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    means = (sums / lengths).where(lengths > _SHORTEST_SUM, before)
    return torch.where(averaged.unsqueeze(1), means, queries)
