"""Many memories of one size in one module: each row of a batch reads and writes its own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from rarememory.base.locks import ReadersWriterLock
from rarememory.base.state import EMPTY, MemoryState, Recall, Write
from rarememory.base.validation import check_count
from rarememory.lookup import LOOKUPS, AutoLookup
from rarememory.lookup.exact import in_order, ranked, score
from rarememory.lookup.pair import SCORES_AT_ONCE, pair_at_once
from rarememory.lookup.torch import nearest_at_once
from rarememory.memory import Memory, at_once, margin_loss, writing
from rarememory.memory.invariants import check_fits, check_state
from rarememory.memory.queries import Rows, recalled, recalled_rows, rows_of
from rarememory.memory.slots import SLOT_BUFFERS, SlotBuffers

_OPTIONS = ("k", "margin", "temperature", "update", "subtract_margin", "validate")


class BatchedMemory(nn.Module):
    """Memories side by side, read and written in one operation: of many users, or of sequences.

    Row b of a batch reads and writes memory b, and no other. What is found, lost and written is
    what a loop over the memories finds, loses and writes, to the bit, in one operation. (So is the
    gradient of the loss in float32 on a CPU, without a mask; other gradients are to rounding.)

    Args:
        memories: empty or not, alike in their options; each has a seed of its own. What they hold
            is copied, and `unbind` gives it back.

    Raises:
        ValueError: there is none, they differ, or have what this module has not: a projection, a
            copy in half precision, further buffers, a lookup of one's own or an approximate one,
            or a policy other than the package's by age and noise.

    Example:
        >>> users = BatchedMemory([Memory(key_dim=2, memory_size=4, seed=n) for n in range(3)])
        >>> queries = torch.eye(2).expand(3, 2, 2)
        >>> labels = torch.tensor([[7, 9], [9, 7], [1, 1]])
        >>> users.write(queries, labels).hits.any(), users.values[1]
        (tensor(False), tensor([ 7,  9, -1, -1]))
        >>> recall = users(queries, labels)
        >>> recall.prediction.tolist(), recall.loss
        ([[7, 9], [9, 7], [1, 1]], tensor([0., 0., 0.]))
    """

    keys: Tensor
    values: Tensor
    written: Tensor
    clock: Tensor
    seed: Tensor

    def __init__(self, memories: Sequence[Memory]) -> None:
        super().__init__()
        if not memories:
            raise ValueError("give at least one memory")
        for number, memory in enumerate(memories):
            _check_alone(memory, number)
            _check_alike(memory, memories[0], number)
        self._options: dict[str, Any] = {name: getattr(memories[0], name) for name in _OPTIONS}
        self._lookup = memories[0].lookup.name
        for name in MemoryState._fields:
            self.register_buffer(name, torch.stack([getattr(memory, name) for memory in memories]))
        self.lock = ReadersWriterLock()

    def unbind(self) -> list[Memory]:
        """The memories, each a copy of its own."""
        _, size, key_dim = self.keys.shape
        options = {**self._options, "lookup": self._lookup, "key_dtype": self.keys.dtype}
        with self.lock.reading():
            memories = [Memory(key_dim, size, **options) for _ in self.keys]
            for number, memory in enumerate(memories):
                memory.to(self.keys.device)
                memory.put_state({name: part[number] for name, part in self.state_dict().items()})
        return memories

    # Reading

    def forward(
        self,
        queries: Float[Tensor, "memories *batch key_dim"],
        labels: Int[Tensor, "memories *batch"] | None = None,
        *,
        k: int | None = None,
        mask: Bool[Tensor, "memories *batch"] | None = None,
    ) -> Recall:
        """Find the neighbours of each query in its own memory, as `Memory.forward` does.

        Slots are those of the own memory. The loss is one for each memory, [memories]: take its
        mean, or its sum, for one number.

        Raises:
            ValueError: the number that was wrong and the choice that is right.
        """
        with self.lock.reading():
            self._check_memories(queries)
            recall = None if mask is not None else self._read_at_once(queries, labels, k)
            return self._read(self._rows(queries, labels, mask), k) if recall is None else recall

    def _read_at_once(self, queries: Tensor, labels: Tensor | None, k: int | None) -> Recall | None:
        searched, temperature = (self.keys, self.values, None), self._options["temperature"]
        if labels is None:
            k = self._options["k"] if k is None else k
            return at_once.read_at_once(queries, *searched, k, temperature)
        if k is not None:
            return None
        margin = self._options["margin"]
        margins = (margin, margin if self._options["subtract_margin"] else 0.0)
        return at_once.read_pair_at_once(queries, labels, *searched, *margins, temperature)

    def _read(self, rows: Rows, k: int | None) -> Recall:
        state, loss = self._state, None
        if rows.labels is not None:
            slots = self._pair(rows)
            scores = score(rows.queries, state.keys, slots)
            loss = self._loss(scores, rows.mask)
        if rows.labels is None or k is not None:
            slots = self._nearest(rows, self._options["k"] if k is None else k)
            slots, scores, values = ranked(rows.queries, state.keys, state.values, slots)
        else:
            slots, scores, values = in_order(slots, scores, state.values)
        found = (self._moved(slots, -1), scores, values)
        return recalled(rows, found, self._options["temperature"], loss)

    def _rows(self, queries: Tensor, labels: Tensor | None, mask: Tensor | None) -> Rows:
        return rows_of(queries, labels, mask, self.keys[0], None, self._options["validate"])

    def _check_memories(self, queries: Tensor) -> None:
        count, _, key_dim = self.keys.shape
        if isinstance(queries, Tensor) and (queries.dim() < 2 or len(queries) != count):
            raise ValueError(
                f"queries of shape {list(queries.shape)} for {count} memories: give "
                f"[{count}, ..., {key_dim}], those of each memory"
            )

    def _loss(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        of_each = (len(self.keys), len(scores) // len(self.keys))
        positive, negative = (part.reshape(of_each) for part in scores.unbind(1))
        mask, margin = None if mask is None else mask.view(of_each), self._options["margin"]
        loss = margin_loss(positive, negative, margin, mask=mask, dim=1)
        return loss - margin if self._options["subtract_margin"] else loss

    def _nearest(self, rows: Rows, k: int) -> Tensor:
        check_count("k", k)
        occupied = (self.values != EMPTY).unsqueeze(1)
        search = partial(nearest_at_once, k=min(k, self.keys.shape[1]))
        return self._search(search, rows, occupied)

    def _pair(self, rows: Rows) -> Tensor:
        assert rows.labels is not None
        labels = rows.labels.view(len(self.keys), -1) if len(rows.labels) else self.values[:, :0]
        return self._search(
            lambda *given: torch.stack(pair_at_once(*given), dim=2), rows, self.values, labels
        )

    def _search(self, search: Callable[..., Tensor], rows: Rows, *others: Tensor) -> Tensor:
        """Slots, counted through all memories, of the queries of each memory in its own keys."""
        count, size, key_dim = self.keys.shape
        queries = rows.asked().view(count, len(rows.queries) // count, key_dim)
        # The scores of so many memories have room at once.
        some = max(1, SCORES_AT_ONCE // max(1, queries.shape[1] * size))
        split = [part.split(some) for part in (queries, self.keys, *others)]
        with torch.no_grad(), torch.autocast(self.keys.device.type, enabled=False):
            found = torch.cat([search(*parts) for parts in zip(*split, strict=True)])
        return rows.masked(self._moved(found.flatten(0, 1), 1))

    def _moved(self, slots: Tensor, sign: int) -> Tensor:
        """Slots of the own memory, counted through all memories; with -1 the other way."""
        count, size = self.values.shape
        first = torch.arange(count, device=slots.device) * (sign * size)
        first = first.repeat_interleave(len(slots) // count).view(-1, *[1] * (slots.dim() - 1))
        return (slots + first).where(slots != EMPTY, EMPTY)

    @property
    def _state(self) -> MemoryState:
        """The buffers, all slots in a row."""
        return MemoryState(
            self.keys.view(-1, self.keys.shape[2]),
            self.values.view(-1),
            self.written.view(-1),
            self.clock,
            self.seed,
        )

    @property
    def ages(self) -> Int64[Tensor, "memories slots"]:
        """Writes of its memory since each slot was last written; EMPTY where empty."""
        with self.lock.reading():
            ages = self.clock.unsqueeze(1) - self.written
            return ages.masked_fill(self.values == EMPTY, EMPTY)

    # Writing

    @torch.no_grad()
    def write(
        self,
        queries: Float[Tensor, "memories *batch key_dim"] | Recall,
        labels: Int[Tensor, "memories *batch"],
        *,
        mask: Bool[Tensor, "memories *batch"] | None = None,
    ) -> Write:
        """Store the queries in their memories, as `Memory.write` does.

        A memory without a row that counts is not changed.

        Raises:
            ValueError: the number that was wrong and the choice that is right; nothing is written.
        """
        with self.lock.writing():
            self._check_memories(queries.queries if isinstance(queries, Recall) else queries)
            done = None if mask is not None else self._write_at_once(queries, labels)
            if done is not None:
                return done
            if isinstance(queries, Recall):
                validate = self._options["validate"]
                keys, size = self.keys[0], self.values.shape[1]
                rows = recalled_rows(queries, labels, mask, keys, validate, size)
                slots = queries.slots[..., 0].reshape(-1)
                nearest = rows.masked(self._moved(slots, 1))
            else:
                rows = self._rows(queries, labels, mask)
                nearest = self._nearest(rows, 1).squeeze(1)
            done = writing.all_written(rows, nearest, self.values.numel(), self._put, self._nearest)
            slots = self._moved(done.slots, -1)
            return Write(*(part.view(rows.shape) for part in done._replace(slots=slots)))

    def _write_at_once(self, queries: Tensor | Recall, labels: Tensor) -> Write | None:
        recall = queries if isinstance(queries, Recall) else self._read_at_once(queries, None, 1)
        if recall is None:
            return None
        state = MemoryState(*(self.get_buffer(name) for name in MemoryState._fields))
        done = at_once.write_at_once(state, self._options["update"], recall, labels)
        return None if done is None else done[0]

    def _put(self, rows: Rows, nearest: Tensor) -> tuple[Write, Tensor]:
        assert rows.labels is not None
        update = self._options["update"]
        given = (self._state, update, rows.queries, rows.labels, nearest, rows.mask)
        write, inserted = writing.write(*given)
        return write, inserted & (write.slots == EMPTY)

    @torch.no_grad()
    def forget(
        self, which: Bool[Tensor, " memories"] | Bool[Tensor, "memories slots"]
    ) -> Int64[Tensor, " memories"]:
        """Empty whole memories, or some slots; return how many slots of each were occupied.

        Raises:
            ValueError: the mask is of another shape.

        Example:
            >>> users = BatchedMemory([Memory(key_dim=2, memory_size=3) for _ in range(2)])
            >>> write = users.write(torch.eye(2).expand(2, 2, 2), torch.tensor([[7, 9], [7, 8]]))
            >>> users.forget(users.values == 7), users.forget(torch.tensor([True, False]))
            (tensor([1, 1]), tensor([1, 0]))
        """
        count, size = self.values.shape
        if which.dtype != torch.bool or which.shape not in ((count,), (count, size)):
            raise ValueError(
                f"which is {which.dtype} of shape {list(which.shape)}: give a mask of memories "
                f"[{count}], or of slots [{count}, {size}]"
            )
        with self.lock.writing():
            gone = which.view(count, -1) & (self.values != EMPTY)
            buffers = {name: self.get_buffer(name).flatten(0, 1) for name in SLOT_BUFFERS}
            SlotBuffers(buffers, SLOT_BUFFERS).empty(gone.flatten())
            return gone.sum(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = {
            name: state_dict[prefix + name]
            for name in MemoryState._fields
            if prefix + name in state_dict
        }
        try:
            if stored:
                self._check_stored(stored)
        except ValueError as error:
            args[-1].append(str(error))
            return
        with self.lock.writing():
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_stored(self, stored: Mapping[str, Tensor]) -> None:
        """Refuse what is not the state of so many memories of this size."""
        own = {name: self.get_buffer(name) for name in MemoryState._fields}
        check_fits(own, {name: stored.get(name) for name in own})
        for number in range(len(self.keys)):
            try:
                check_state({name: part[number] for name, part in stored.items()})
            except ValueError as error:
                raise ValueError(f"memory {number}: {error}") from None

    def extra_repr(self) -> str:
        count, size, key_dim = self.keys.shape
        return f"memories={count}, key_dim={key_dim}, memory_size={size}"


def _check_alone(memory: Memory, number: int) -> None:
    """Refuse a memory with something that there is no operation for many of."""
    allowed = (AutoLookup, *LOOKUPS.values())
    reasons = {
        "is not a plain Memory": type(memory) is not Memory,
        "projects its queries": memory.projection is not None,
        "has a copy of its keys in half precision": memory.half_precision_copy is not None,
        "has buffers beside keys and values": len(memory.state_dict()) > len(MemoryState._fields),
        f"searches by {memory.lookup.name!r}": type(memory.lookup) not in allowed,
        f"writes by {memory.update}": type(memory.update) not in at_once.AVERAGES,
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise ValueError(
            f"memory {number} {wrong[0]}, which many at once cannot: call it by itself"
        )


def _check_alike(memory: Memory, first: Memory, number: int) -> None:
    """Refuse a memory that differs from the first in more than its contents and its seed."""
    pairs = [(name, getattr(memory, name), getattr(first, name)) for name in _OPTIONS]
    for name in ("shape", "dtype", "device"):
        pairs.append((name, getattr(memory.keys, name), getattr(first.keys, name)))
    for name, own, other in pairs:
        if own != other:
            raise ValueError(
                f"memory {number} has {name} {own}, and memory 0 has {other}: all must be alike"
            )
