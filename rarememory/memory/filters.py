"""Which slots a read may find: those with some labels, those of a mask, all but one in each row."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rarememory import native
from rarememory.base.state import EMPTY, MemoryState, host_may_read
from rarememory.lookup.native import among_arguments
from rarememory.memory.queries import Rows, one_a_query

Among = int | Iterable[Any] | Tensor
"""Labels or a mask of slots, as `Memory` takes them."""

_MARKS_AT_ONCE = 2**24
"""Of so many rows and all slots, a byte each."""


class Filter(NamedTuple):
    """What a read may find.

    Attributes:
        slots: a mask of occupied slots for all rows, [slots], or one for each.
        labels: of each row; EMPTY in places left over. None if the mask says it all.
        not_slots: a slot that each row may not find, EMPTY for none.
        not_labels: a label that each row may not find, EMPTY for none.
        whole: whether the mask is of all occupied slots.
    """

    slots: Bool[Tensor, "*rows slots"]
    labels: Int64[Tensor, "batch labels"] | None = None
    not_slots: Int64[Tensor, " batch"] | None = None
    not_labels: Int64[Tensor, " batch"] | None = None
    whole: bool = False

    @property
    def of_each_row(self) -> bool:
        """Whether rows differ in what they may find."""
        each = (self.labels, self.not_slots, self.not_labels)
        return self.slots.dim() == 2 or any(part is not None for part in each)

    def parts(
        self, rows: Rows, state: MemoryState
    ) -> Iterator[tuple[Rows, Bool[Tensor, " slots"] | Bool[Tensor, "some slots"]]]:
        """Rows, some at a time, and the occupied slots that they may find."""
        if not self.of_each_row:
            yield rows, self.slots
            return
        at_once = max(1, _MARKS_AT_ONCE // len(state.values))
        for first in range(0, max(1, len(rows.queries)), at_once):
            some = slice(first, first + at_once)
            yield rows.some(some), self._of_some(some, state)

    def _of_some(self, some: slice, state: MemoryState) -> Tensor:
        slots = self.slots[some] if self.slots.dim() == 2 else self.slots.unsqueeze(0)
        if self.not_slots is not None:
            places = torch.arange(len(state.values), device=slots.device)
            slots = slots & (places != self.not_slots[some].unsqueeze(1))
        if self.not_labels is not None:
            slots = slots & (state.values != self.not_labels[some].unsqueeze(1))
        if self.labels is None:
            return slots
        found = torch.zeros_like(slots)
        for label in self.labels[some].unbind(1):
            found = found | (state.values == label.unsqueeze(1))
        return slots & found


def filter_of(
    among: Among | None,
    not_slots: Int64[Tensor, "*batch"] | None,
    not_labels: Int64[Tensor, "*batch"] | None,
    rows: Rows,
    state: MemoryState,
) -> Filter:
    """The filter that the arguments stand for, checked against the queries and the memory.

    Raises:
        ValueError: `among` is neither integers nor a mask, a shape does not fit, or a slot does not
            exist.
    """
    found = Filter(state.occupied, whole=True) if among is None else _among(among, rows, state)
    if not_slots is not None:
        slots = _one_a_row("exclude", not_slots, rows)
        size = len(state.values)
        if host_may_read(slots) and slots.numel():
            lowest, highest = (int(slot) for slot in slots.aminmax())
            if lowest < EMPTY or highest >= size:
                raise ValueError(
                    f"exclude names slot {lowest if lowest < EMPTY else highest}, and this memory "
                    f"has 0 to {size - 1}, and EMPTY ({EMPTY}) for none"
                )
        found = found._replace(not_slots=slots)
    if not_labels is not None:
        labels = _one_a_row("exclude_labels", not_labels, rows)
        found = found._replace(not_labels=labels)
    return found


def _one_a_row(name: str, numbers: Tensor, rows: Rows) -> Tensor:
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, one a query, not {numbers.dtype}")
    return one_a_query(name, numbers, rows.shape, rows.queries.device).long()


def _among(among: Among, rows: Rows, state: MemoryState) -> Filter:
    marks = among_tensor(among, state.values)
    if marks.is_floating_point() or marks.is_complex():
        raise ValueError(
            f"among must be labels, which are integers, or a mask of slots, not {marks.dtype}"
        )
    size, batch = len(state.values), rows.shape
    of_each = marks.dim() != 1
    if of_each and marks.shape[:-1] != batch:
        raise ValueError(
            f"among of shape {list(marks.shape)} for queries of shape {list(batch)}: give it one "
            f"dimension, for all of them, or {[*batch, 'n']}"
        )
    is_mask = marks.dtype == torch.bool
    if is_mask and marks.shape[-1] != size:
        raise ValueError(f"among is a mask of {marks.shape[-1]} slots, and this memory has {size}")
    if not of_each:
        return Filter(_found_among(marks if is_mask else marks.long(), state))
    marks = marks.reshape(-1, marks.shape[-1])
    return Filter(marks & state.occupied) if is_mask else Filter(state.occupied, marks.long())


def _found_among(among: Tensor, state: MemoryState) -> Tensor:
    """The occupied slots that are in a mask, or whose values are among labels."""
    values = state.values
    if not native.is_supported(values, among):
        marks = among if among.dtype == torch.bool else torch.isin(values, among)
        return marks & state.occupied
    marks = native.empty_output(len(values), dtype=torch.bool)
    listed, threads = among_arguments(among), torch.get_num_threads()
    native.library().mark(values, len(values), *listed, threads, marks)
    return marks


def among_tensor(among: Among, values: Tensor) -> Tensor:
    """The labels or the mask as a tensor on the device of the values.

    Raises:
        ValueError: they are neither, or on another device.
    """
    if isinstance(among, Tensor):
        if among.device != values.device:
            raise ValueError(
                f"among is on {among.device}, and the memory is on {values.device}: move one"
            )
        return among.reshape(1) if among.dim() == 0 else among
    listed = [among] if isinstance(among, int) else list(among)
    try:
        marks = torch.tensor(listed) if listed else torch.zeros(0, dtype=torch.int64)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"among must be labels, which are integers, not {listed}") from None
    return marks.to(values.device)
