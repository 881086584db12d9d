"""Queries on the way in, checked, flattened and normalised, and on the way out, as a recall."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from rarememory import native
from rarememory.base.state import EMPTY, MemoryState, Recall, host_may_read
from rarememory.base.validation import FLOATS
from rarememory.lookup import Lookup
from rarememory.lookup.ops import nearest, nearest_pair

SAFE_LENGTHS = (1e-15, 1e15)
"""Between these a squared length neither overflows nor loses digits in float32."""


class Rows(NamedTuple):
    """Queries as the lookups and the updates want them.

    Attributes:
        queries: unit length, in the dtype of the keys or, if wider, float32; zero where they do not
            count.
        labels: the right values, if given.
        mask: rows that count; all of them if None.
        shape: the leading shape that they came in.
    """

    queries: Float[Tensor, "batch key_dim"]
    labels: Int64[Tensor, " batch"] | None
    mask: Bool[Tensor, " batch"] | None
    shape: torch.Size

    def some(self, which: slice | Int64[Tensor, " some"]) -> "Rows":
        """These rows alone."""
        labels, mask = (None if part is None else part[which] for part in (self.labels, self.mask))
        queries = self.queries[which]
        return Rows(queries, labels, mask, queries.shape[:1])

    def asked(self) -> Float[Tensor, "batch key_dim"]:
        """The queries for a lookup: those that do not count are NaN, which finds nothing."""
        queries = self.queries.detach()
        if self.mask is None:
            return queries
        return queries.masked_fill(~self.mask.unsqueeze(1), torch.nan)

    def masked(self, slots: Int64[Tensor, "batch *k"]) -> Int64[Tensor, "batch *k"]:
        """The slots, EMPTY in rows that do not count."""
        if self.mask is None:
            return slots
        return slots.masked_fill(~self.mask.view(-1, *[1] * (slots.dim() - 1)), EMPTY)


def rows_of(
    queries: Tensor,
    labels: Tensor | None,
    mask: Tensor | None,
    keys: Tensor,
    projection: nn.Linear | None,
    validate: bool,
) -> Rows:
    """Check what was passed against the memory's keys, and make rows of it.

    With `validate` a row that is zero, not finite or labelled below 0 is refused; without, and in a
    compiled program, it is left out as if masked.
    """
    _check_queries(queries, keys)
    validate = validate and not torch.compiler.is_compiling()
    shape = queries.shape[:-1]
    flat = queries.reshape(-1, keys.shape[1])
    if projection is not None:
        flat = projection(flat.to(projection.weight.dtype))
    units, good = normalized(flat, _wide(keys))
    labels = None if labels is None else _labels(labels, queries)
    mask = None if mask is None else _mask(mask, queries)
    if good is not None and validate:
        _refuse(good, mask, shape, "queries must be finite and not zero", _MEND_QUERIES)
    elif good is not None:
        mask = good if mask is None else good & mask
    rows = _with_good_labels(Rows(units, labels, mask, shape), validate)
    if rows.mask is None:
        return rows
    # So that whoever meets these rows again, in a recall, sees that they were left out.
    return rows._replace(queries=units.masked_fill(~rows.mask.unsqueeze(1), 0.0))


def rows_again(units: Tensor, queries: Tensor, labels: Tensor) -> Rows:
    """The rows of queries that were checked and normalised before, with other labels."""
    return _with_good_labels(Rows(units, _labels(labels, queries), None, queries.shape[:-1]), True)


def recalled_rows(
    recall: Recall,
    labels: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    validate: bool,
    memory_size: int,
) -> Rows:
    """Rows of queries that a read of these keys has already checked and normalised."""
    _check_queries(recall.queries, keys)
    validate = validate and not torch.compiler.is_compiling()
    shape = recall.queries.shape[:-1]
    units = recall.queries.reshape(-1, keys.shape[1]).to(_wide(keys))
    labels = _labels(labels, recall.queries)
    mask = None if mask is None else _mask(mask, recall.queries)
    if host_may_read(recall.slots) and recall.slots.numel():
        lowest, highest = (int(slot) for slot in recall.slots.aminmax())
        if highest >= memory_size or lowest < EMPTY:
            raise ValueError(
                f"the recall names slot {highest if highest >= memory_size else lowest}, and this "
                f"memory has 0 to {memory_size - 1}: read again, then write"
            )
    # Queries that the read left out have no length.
    lengths = torch.linalg.vector_norm(units, dim=1)
    good = (lengths > 0) & (lengths < torch.inf)
    if not host_may_read(good) or not good.all():
        mask = good if mask is None else good & mask
    return _with_good_labels(Rows(units, labels, mask, shape), validate)


def nearest_slots(
    rows: Rows,
    state: MemoryState,
    half_keys: Tensor | None,
    lookup: Lookup,
    k: int,
    among: Tensor | None = None,
) -> Tensor:
    """The k nearest slots of each row, [batch, min(k, slots)]; EMPTY in rows that do not count.

    Perhaps only of some occupied slots, for all rows, [slots], or for each, [batch, slots].
    """
    # To look for the occupied slots takes time: those of one filter for all are enough.
    occupied = state.occupied if among is None or among.dim() == 2 else among
    with torch.no_grad(), full_precision(state):
        found = nearest(lookup, rows.asked(), state.keys, occupied, k, half_keys, among)
        return rows.masked(found)


def pair_of_slots(
    rows: Rows, state: MemoryState, half_keys: Tensor | None, lookup: Lookup
) -> Tensor:
    """The nearest slot of the right value and the nearest of a wrong one, [batch, 2]."""
    assert rows.labels is not None
    with torch.no_grad(), full_precision(state):
        pair = nearest_pair(lookup, rows.asked(), state.keys, state.values, rows.labels, half_keys)
        return rows.masked(torch.stack(pair, dim=1))


def recalled(
    rows: Rows,
    found: tuple[Tensor, Tensor, Tensor],
    temperature: float,
    loss: Tensor | None,
    filtered: bool = False,
) -> Recall:
    """Slots, scores and values, in the shape that the queries came in."""
    slots, scores, values = found
    queries, shape = rows.queries, rows.shape
    if len(shape) != 1:
        slots, scores, values, queries = (
            part.view(*shape, part.shape[1]) for part in (slots, scores, values, queries)
        )
    return Recall(slots, scores, values, queries, temperature, loss, filtered)


def full_precision(state: MemoryState) -> torch.autocast:
    """A block without autocast."""
    # Autocast would round the products of the search, and with them its answers.
    return torch.autocast(state.keys.device.type, enabled=False)


def normalized(
    queries: Float[Tensor, "batch key_dim"], dtype: torch.dtype
) -> tuple[Float[Tensor, "batch key_dim"], Bool[Tensor, " batch"] | None]:
    """q / |q| in at least float32; and, unless all have such a thing, which rows do.

    The other rows become zero.
    """
    if queries.dtype == dtype == torch.float32 and not queries.requires_grad:
        units = _normalized_natively(queries)
        if units is not None:
            return units, None
    wide = queries.to(torch.promote_types(queries.dtype, torch.float32))
    lengths = _lengths(wide)
    if _all_between(lengths, *SAFE_LENGTHS):
        return (wide / lengths).to(dtype), None
    # Scaled by its greatest number first, any finite row has a length that can be squared.
    greatest = wide.detach().abs().amax(1, keepdim=True)
    good = (greatest > 0) & (greatest < torch.inf)
    shortest, longest = SAFE_LENGTHS
    unsafe = good & ((lengths <= shortest) | (lengths >= longest))
    wide = wide.where(good, 0.0) / greatest.where(unsafe, 1.0)
    return (wide / _lengths(wide).where(good, 1.0)).to(dtype), good.squeeze(1)


def _normalized_natively(queries: Tensor) -> Tensor | None:
    """The rows at unit length; None where one is not safe to divide, or the library cannot."""
    if not native.is_supported(queries):
        return None
    units = torch.empty_like(queries)
    unsafe = native.library().normalize(queries, *queries.shape, units)
    return None if unsafe else units


def _lengths(rows: Tensor) -> Tensor:
    """|q|, summed in float64 where the device has it and rounded once, as scores are."""
    wide = rows.dtype if rows.device.type == "mps" else torch.float64
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=wide)
    return lengths.to(rows.dtype)


def _wide(keys: Tensor) -> torch.dtype:
    return torch.promote_types(keys.dtype, torch.float32)


def _all_between(lengths: Tensor, shortest: float, longest: float) -> bool:
    """Whether the quick way is safe; where asking would make the host wait, it may not be."""
    if not host_may_read(lengths) or lengths.numel() == 0:
        return False
    least, greatest = lengths.detach().aminmax()
    return shortest < least.item() and greatest.item() < longest


def _with_good_labels(rows: Rows, validate: bool) -> Rows:
    if rows.labels is None:
        return rows
    good = rows.labels >= 0
    if validate:
        rule, mend = "labels must be integers >= 0", "mask them, or mend them"
        _refuse(good, rows.mask, rows.shape, rule, mend)
        return rows
    return rows._replace(mask=good if rows.mask is None else good & rows.mask)


def _check_queries(queries: Tensor, keys: Tensor) -> None:
    key_dim = keys.shape[1]
    if not isinstance(queries, Tensor):
        raise ValueError(f"queries must be a tensor [..., {key_dim}], not a {_kind(queries)}")
    check_floats("queries", queries)
    check_floats("keys", keys)
    if queries.dim() == 0 or queries.shape[-1] != key_dim:
        width = "no width" if queries.dim() == 0 else f"width {queries.shape[-1]}"
        raise ValueError(f"queries have {width}, and the keys of this memory have {key_dim}")
    if queries.device != keys.device:
        raise ValueError(f"queries are on {queries.device}, and the memory is on {keys.device}")


def check_floats(name: str, tensor: Tensor) -> None:
    """Refuse what is not a dense tensor of floating point, of this name."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {tensor.dtype}")
    if tensor.dtype not in FLOATS:
        raise ValueError(
            f"{name} must be float32, float64, float16 or bfloat16, not {tensor.dtype}: convert "
            "them by .float()"
        )
    _check_dense(name, tensor)


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise ValueError(f"{name} must be dense, not nested: give .to_padded_tensor() and a mask")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense, not {tensor.layout}: give .to_dense()")


def _labels(labels: Tensor, queries: Tensor) -> Tensor:
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor of integers >= 0, not a {_kind(labels)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers >= 0, not {labels.dtype}")
    return one_a_query("labels", labels, queries.shape[:-1], queries.device).long()


def _mask(mask: Tensor, queries: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else f"a {_kind(mask)}"
        raise ValueError(f"mask must be torch.bool, True for rows that count, not {kind}")
    return one_a_query("mask", mask, queries.shape[:-1], queries.device)


def _kind(thing: object) -> str:
    return type(thing).__name__


def one_a_query(name: str, given: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """What was given for queries of a leading shape on a device, in one dimension.

    Raises:
        ValueError: it is not dense, of another shape, or on another device.
    """
    _check_dense(name, given)
    if given.shape != shape:
        raise ValueError(
            f"{name} of shape {list(given.shape)} for queries that ask for {list(shape)}: give one "
            "a query"
        )
    if given.device != device:
        raise ValueError(f"{name} on {given.device} for queries on {device}: move one")
    return given.reshape(-1)


# Who asks a classifier has no mask.
_MEND_QUERIES = "leave them out, or look for NaN in the inputs and weights that they come from"


def _refuse(good: Tensor, mask: Tensor | None, shape: torch.Size, rule: str, mend: str) -> None:
    if mask is not None:
        good = good | ~mask
    if good.all():
        return
    bad = good.logical_not().nonzero().squeeze(1)
    # A single query has no leading shape; it is row 0.
    where = torch.stack(torch.unravel_index(bad[:8], shape or (1,)), 1).tolist()
    named = ", ".join(str(row[0] if len(row) == 1 else tuple(row)) for row in where)
    more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
    raise ValueError(f"{rule}, and these rows are not: {named}{more} ({mend})")
