"""The one write that carries out every policy, in place.

Everything that is easy to get wrong (rows of a batch that want one slot, a slot that is averaged
and replaced at once, the order of the rows) is settled here, once. Plain torch defines it; on a CPU
the library of `native` does the same.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from rarememory import native
from rarememory.base.state import EMPTY, MemoryState, Write, host_may_read
from rarememory.memory.budgets import BY_CLASS, layers_of
from rarememory.memory.placing import Placing, assigned, placed, slots_of
from rarememory.memory.queries import Rows
from rarememory.memory.spans import Span
from rarememory.memory.updates import ByAgeAndNoise, ByUsage, Update, sequence_of, slot_noise
from rarememory.memory.usage import Usage

SHORTEST_SUM = 1e-12
"""A key and rows that cancel to less than this have no direction: the key stays as it is."""

_FEW = 1024
"""Slots that are best chosen one by one; more of them are best sorted."""

_SLOTS_AT_ONCE = 2**16
"""Slots that are looked at together on a CPU, few enough for its caches."""


def write(
    state: MemoryState,
    update: Update,
    queries: Float[Tensor, "batch key_dim"],
    labels: Int64[Tensor, " batch"],
    nearest: Int64[Tensor, " batch"],
    mask: Bool[Tensor, " batch"] | None = None,
    before: Callable[[Tensor], object] | None = None,
    usage: Usage | None = None,
    span: Span | None = None,
    seen: Shaped[Tensor, "slots ..."] | None = None,
    known: Callable[[MemoryState, int, Tensor], Tensor | None] | None = None,
) -> tuple[Write, Bool[Tensor, " batch"]]:
    """Write rows of unit length into the state, in place, as one set: their order does not matter.

    Rows that average into one slot are summed with its key and normalised once. The others take
    distinct slots, in the order of `Update.eviction`, never one that is averaged into here. All
    ages grow by one, those of written slots become 0. Without a row to write nothing changes.

    Several memories of as many slots are written at once if the state holds one after the other,
    with a clock and a seed for each, and the rows are as many of each, in the same order.

    Args:
        nearest: the slot nearest to each row; EMPTY where none is, or where the mask leaves it out.
        before: called with the slots that are about to change, and perhaps others.
        span: the slots of the memory that the state holds, if not all.
        seen: the buffer of what was seen of each class, if the policy needs it; brought up to date.
        known: gives what `eviction_order` would, or None, where that may be known already.

    Returns:
        What was done with each row, and the rows that were to take a slot of their own; those of
        them with slot EMPTY found none, because all were taken.
    """
    if len(queries) == 0:
        return Write(nearest, nearest.bool(), nearest), nearest.bool()
    hits = (nearest != EMPTY) & (state.values[nearest] == labels)
    averaged = update.averages(hits)
    if not isinstance(averaged, Tensor) or averaged.shape != hits.shape:
        raise ValueError(
            f"{type(update).__name__}.averages gave {_described(averaged)} for {len(hits)} rows: "
            "give a tensor of one truth value a row"
        )
    averaged = averaged.bool() & hits
    inserted = ~averaged if mask is None else mask & ~averaged
    free, found = nearest[:0], Placing()
    if _any(inserted):
        keep = nearest.where(averaged, EMPTY)
        if not isinstance(update, BY_CLASS):
            count = len(nearest) // state.clock.numel()
            order = None if known is None else known(state, count, keep)
            if order is None:
                order = eviction_order(state, update, count, keep, usage, span)
            free = order
        else:
            layers = layers_of(update)
            order, size = _own_order(queries, labels, 1).flatten(), len(state.values)
            rows, rule = order[inserted[order]].tolist(), layers.rule
            priority = partial(_eviction_priority, state, rule, 0, size, usage)
            evict = partial(eviction_order, state, rule, usage=usage)
            found = placed(layers, state, queries, labels, rows, keep, seen, priority)
            stored, free_slots = assigned(found, layers, state, rows, keep, evict)
            inserted = torch.zeros_like(inserted)
            inserted[stored] = True
            free = nearest.new_tensor(free_slots)
    if before is not None:
        group = [slots_of(state, label).nonzero().squeeze(1) for label in found.seen]
        before(torch.cat([nearest[averaged], free, *group]))
    queries, labels, nearest = queries.contiguous(), labels.contiguous(), nearest.contiguous()
    supported = _is_native(state, queries, labels, nearest, averaged, inserted, free)
    insert = _insert_rows_natively if supported else _insert_rows
    slots, overwritten = insert(state, queries, labels, nearest, averaged, inserted, free)
    if seen is not None:
        for label, its in found.seen.items():
            seen[slots_of(state, label)] = its.to(seen)
    return Write(slots, hits, overwritten), inserted


def all_written(
    rows: Rows,
    nearest: Int64[Tensor, " batch"],
    size: int,
    put: Callable[[Rows, Tensor], tuple[Write, Tensor]],
    search: Callable[[Rows, int], Tensor],
) -> Write:
    """Write all rows; those for which there was no slot left are written by themselves.

    Args:
        rows: to write.
        nearest: the slot nearest to each.
        size: slots that there are.
        put: writes rows once, and says which are still without a slot.
        search: finds so many nearest slots of each row, in what has been written since.
    """
    done, waiting = put(rows, nearest)
    # Only more rows than slots can leave one without, so only then is it worth a look.
    while len(nearest) > size and waiting.any():
        rest = rows._replace(mask=waiting)
        now, still = put(rest, search(rest, 1).squeeze(1))
        done = Write(*(new.where(waiting, old) for new, old in zip(now, done, strict=True)))
        waiting = still
    return done


def is_by_age(update: Update) -> bool:
    """Whether a policy gives up empty slots, then the oldest, and of equal ages the lower one."""
    return _weights(update) == (1.0, 0.0)


def is_queue(update: Update) -> bool:
    """Whether each row takes a slot of its own, an empty one or that written longest ago."""
    return is_by_age(update) and type(update).averages is ByAgeAndNoise.averages


def written_beside(
    state: MemoryState,
    queries: Float[Tensor, "batch key_dim"],
    labels: Int64[Tensor, " batch"],
    order: Int64[Tensor, " batch"],
) -> tuple[MemoryState, Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """Write rows into copies of the slots of a memory, whose state stays as it is.

    Args:
        order: the slots to give up, one for each row.

    Returns:
        What the slots hold afterwards, in this order; the place in it of each row; and the value
        that each row has overwritten.
    """
    keys, values = torch.empty_like(queries, dtype=state.keys.dtype), state.values[order]
    own = MemoryState(keys, values, torch.empty_like(values), state.clock.clone(), state.seed)
    nearest, averaged = torch.full_like(labels, EMPTY), torch.zeros_like(labels, dtype=torch.bool)
    given = (own, queries.contiguous(), labels.contiguous(), nearest, averaged, ~averaged)
    free = torch.arange(len(order), device=order.device)
    supported = _is_native(own, *given[1:], free)
    places, overwritten = (_insert_rows_natively if supported else _insert_rows)(*given, free)
    return own, places, overwritten


def _is_native(state: MemoryState, *tensors: Tensor) -> bool:
    return state.clock.dim() == 0 and native.is_supported(*state, *tensors)


def eviction_order(
    state: MemoryState,
    update: Update,
    count: int,
    keep: Int64[Tensor, " kept"] | None = None,
    usage: Usage | None = None,
    span: Span | None = None,
) -> Int64[Tensor, " count"]:
    """The slots to give up first: empty ones, then the policy's choice; never one of `keep`.

    This is the one part of a write that looks at every slot. EMPTY where no slot is left.
    """
    memories = state.clock.numel()
    size = len(state.values) // memories
    count = min(count, size)
    keep = state.values[:0] if keep is None else keep
    if count <= _FEW and _is_native(state, keep):
        return _eviction_order_natively(state, update, count, keep, usage, span)
    # One place more than there are slots: what `keep` holds for "none" lands there.
    priority = _eviction_priority(state, update, 0, size, usage, span).nan_to_num()
    priority = torch.cat([priority, priority.new_zeros(1)])
    priority[:-1].masked_fill_(state.values == EMPTY, torch.inf)
    priority.index_fill_(0, keep.where(keep != EMPTY, len(state.values)), -torch.inf)
    of_each = priority[:-1].view(memories, size)
    least = of_each.topk(count).values[:, -1:]
    # Of the slots that tie for the last place, the lower ones are in.
    above, tied = of_each > least, of_each == least
    chosen = above | (tied & (tied.cumsum(1) <= count - above.sum(1, keepdim=True)))
    slots = torch.nonzero_static(chosen.flatten(), size=memories * count).view(memories, count)
    slots = slots.gather(1, priority[slots].argsort(descending=True, stable=True)).flatten()
    return slots.masked_fill(priority[slots] == -torch.inf, EMPTY)


def _eviction_priority(
    state: MemoryState,
    update: Update,
    first: int,
    count: int,
    usage: Usage | None,
    span: Span | None = None,
) -> Tensor:
    """The eviction priority of these slots, by the policy."""
    size = len(state.values) // state.clock.numel()
    if span is None:
        noise = slot_noise(state.seed, state.clock, size, first, count).flatten()
    else:
        noise = span.noise(state, first, count).flatten()
    some = slice(first, first + count)
    written = state.written.view(*state.clock.shape, size)[..., some]
    ages = (state.clock.unsqueeze(-1) - written).double().flatten()
    if isinstance(update, ByUsage) and usage is not None:
        uses, idle = usage.uses[some].double(), usage.idle[some].double()
        priority = update.eviction_by_usage(ages, uses, idle)
    else:
        priority = update.eviction(ages, noise)
    numbers = isinstance(priority, Tensor) and priority.shape == noise.shape
    if not numbers or priority.device != noise.device:
        raise ValueError(
            f"{type(update).__name__}.eviction gave {_described(priority)} "
            f"for {count} slots on {noise.device}: give a tensor of one number a slot"
        )
    return priority.double()


def _described(answer: object) -> str:
    """What a policy answered, for an error."""
    if isinstance(answer, Tensor):
        return f"{list(answer.shape)} numbers on {answer.device}"
    return f"a {type(answer).__name__}"


def _eviction_order_natively(
    state: MemoryState,
    update: Update,
    count: int,
    keep: Tensor,
    usage: Usage | None,
    span: Span | None,
) -> Tensor:
    chosen = native.empty_output(count, dtype=torch.int64).fill_(EMPTY)
    size, weights = len(state.values), _weights(update)
    if weights is not None and (span is None or span.slots is None):
        whole, begin = (size, 0) if span is None else (span.memory_size, span.first)
        # To find where the noise begins takes as long as to look at thousands of slots.
        noise = sequence_of(state.seed, state.clock, whole, begin) if weights[1] else 0
        native.library().evict_oldest(
            *(state.values, state.written, state.clock.item(), noise, *weights, size),
            *(keep, len(keep), count, chosen),
        )
        return chosen
    best = native.empty_output(count, dtype=torch.float64)
    for first in range(0, size, _SLOTS_AT_ONCE):
        values = state.values[first : first + _SLOTS_AT_ONCE]
        priority = _eviction_priority(state, update, first, len(values), usage, span)
        rows = (priority.contiguous(), values, first, len(values))
        native.library().evict(*rows, keep, len(keep), count, best, chosen)
    return chosen


def _weights(update: Update) -> tuple[float, float] | None:
    """Of age and noise, if the policy gives up slots by their sum and nothing else."""
    if not isinstance(update, ByAgeAndNoise):
        return None
    of_age, of_noise = map(float, update.weights)
    plain = vars(ByAgeAndNoise)["eviction"] is getattr(type(update), "eviction")  # noqa: B009
    return (of_age, of_noise) if plain and math.isfinite(of_age + of_noise) else None


def _insert_rows(
    state: MemoryState,
    queries: Tensor,
    labels: Tensor,
    nearest: Tensor,
    averaged: Tensor,
    inserted: Tensor,
    free: Tensor,
) -> tuple[Tensor, Tensor]:
    """Average these rows and place those in the free slots; the slots, and what was overwritten."""
    slots = nearest.where(averaged, EMPTY)
    overwritten = torch.full_like(slots, EMPTY)
    memories = state.clock.numel()
    order = _own_order(queries, labels, memories)
    keys = queries
    if len(free):
        slots = _assign_slots(slots, inserted, free.view(memories, -1), order)
        overwritten = state.values[slots].where(inserted & (slots != EMPTY), EMPTY)
    if _any(averaged):
        keys = _averaged(state.keys, queries, slots, averaged, order.flatten())
    _store(state, keys, labels, slots, slots != EMPTY)
    return slots, overwritten


def _insert_rows_natively(
    state: MemoryState,
    queries: Tensor,
    labels: Tensor,
    nearest: Tensor,
    averaged: Tensor,
    inserted: Tensor,
    free: Tensor,
) -> tuple[Tensor, Tensor]:
    slots, overwritten = torch.empty_like(nearest), torch.empty_like(nearest)
    native.library().write(
        *(state.keys, state.keys.shape[1], state.values, state.written, state.clock),
        *(queries, labels, len(queries), nearest, averaged, inserted),
        *(free, len(free), SHORTEST_SUM, slots, overwritten),
    )
    # Torch did not see it: autograd has to be informed if it keeps one of these for a gradient.
    torch.autograd.graph.increment_version([state.keys, state.values, state.written, state.clock])
    return slots, overwritten


def _own_order(queries: Tensor, labels: Tensor, memories: int) -> Tensor:
    """An order of the rows of each memory, [memories, rows], wherever they stand in the batch.

    By label, then by sum_i q_i cos(i), i = 1 ... key_dim, a number that tells rows apart. Who gets
    which slot depends on the order of the rows, and so does the rounding of a sum; in this order a
    batch and its permutation leave the same memory, to the bit.
    """
    axis = torch.arange(1, queries.shape[1] + 1, device=queries.device, dtype=torch.float64)
    by_query = (queries * axis.cos_()).sum(1).view(memories, -1).argsort(stable=True)
    labels = labels.view(memories, -1).gather(1, by_query)
    order = by_query.gather(1, labels.argsort(stable=True))
    first = torch.arange(0, len(queries), order.shape[1], device=queries.device)
    return order + first.unsqueeze(1)


def _any(rows: Tensor) -> bool:
    """Whether there is work to do; where asking would make the host wait, there may be."""
    return not host_may_read(rows) or bool(rows.any())


def _assign_slots(slots: Tensor, inserted: Tensor, free: Tensor, order: Tensor) -> Tensor:
    """The slots, with a free one for each row to insert, in this order, while there are any."""
    place = torch.empty_like(slots)
    place[order] = inserted[order].cumsum(1) - 1
    place, count = place.view_as(order), free.shape[1]
    found = free.gather(1, place.clamp(0, count - 1)).masked_fill(place >= count, EMPTY)
    return found.flatten().where(inserted, slots)


def _store(state: MemoryState, keys: Tensor, labels: Tensor, slots: Tensor, real: Tensor) -> None:
    """Put keys and labels into their slots, those that are `real`."""
    of_each = real.view(*state.clock.shape, -1)
    state.clock.add_(of_each.any(-1))
    keys = keys.to(state.keys.dtype)
    stamps = state.clock.unsqueeze(-1).expand_as(of_each).flatten()
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
    keys: Tensor, queries: Tensor, slots: Tensor, averaged: Tensor, order: Tensor
) -> Tensor:
    """The key that each row leaves in its slot: the row itself, or the average it is part of."""
    # All rows of one slot are summed in the place of the first of them, for each to find.
    in_slot_order = slots.sort(stable=True)
    first = in_slot_order.indices[torch.searchsorted(in_slot_order.values, slots)]
    rows = queries[order].to(_wide(queries))
    if queries.device.type == "cpu":
        sums = torch.zeros_like(rows).index_add_(0, first[order], rows)
    else:
        # On a GPU index_add_ adds in any order; this one sorts first.
        sums = torch.zeros_like(rows).index_put_((first[order],), rows, accumulate=True)
    before = keys[slots]
    sums = before + sums[first]
    lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    means = (sums / lengths).where(lengths > SHORTEST_SUM, before).to(queries.dtype)
    return torch.where(averaged.unsqueeze(1), means, queries)


def _wide(rows: Tensor) -> torch.dtype:
    """Float64, where the device has it: sums are rounded once, into the key."""
    return torch.float32 if rows.device.type == "mps" else torch.float64
