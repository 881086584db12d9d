"""A memory larger than one device: each process holds a range of its slots, and searches that.

`shard` makes one of a `Memory`, and says how it is used.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from rarememory.base.state import EMPTY, Recall, Write, wants_gradient
from rarememory.base.validation import check_count
from rarememory.distributed.agreement import Agreement, Verb, fingerprint
from rarememory.distributed.candidates import (
    Candidates,
    best_of_own,
    best_of_same,
    layout_of_candidates,
)
from rarememory.distributed.checkpoints import of_all_slots, parts_of
from rarememory.distributed.ranks import Ranks
from rarememory.distributed.refusals import refused
from rarememory.distributed.shards import Shard, layout_of_rows, packed, range_of, unpacked
from rarememory.distributed.stake import stake_of
from rarememory.distributed.winners import winners
from rarememory.memory import Memory
from rarememory.memory.checkpoints import keep_own, stored_parts
from rarememory.memory.filters import Among, Filter
from rarememory.memory.forgetting import Integers, meets
from rarememory.memory.half_precision import HalfPrecisionCopy
from rarememory.memory.queries import Rows, recalled
from rarememory.memory.slots import copy_into, not_half, numbers_of
from rarememory.memory.spans import Span
from rarememory.memory.stats import stats_of
from rarememory.memory.usage import answered, counted


class ShardedMemory(Memory):
    """A memory of which this process holds a range of slots: what `shard` makes of a `Memory`.

    Slots are those of the whole memory, in what is passed and in what is returned. `state`, `ages`
    and the buffers are those of this process, from slot `first` on.
    """

    first: int
    _size: int
    _ranks: Ranks
    _mesh: DeviceMesh | None

    # Reading

    def forward(
        self,
        queries: Float[Tensor, "*batch key_dim"],
        labels: Int[Tensor, "*batch"] | None = None,
        *,
        k: int | None = None,
        mask: Bool[Tensor, "*batch"] | None = None,
        among: Among | None = None,
        exclude: Int[Tensor, "*batch"] | None = None,
        exclude_labels: Int[Tensor, "*batch"] | None = None,
    ) -> Recall:
        """Find the neighbours of this process's queries in all shards; arguments as in `Memory`.

        Raises:
            ValueError: as in `Memory`, on every process; or a filter is given.
        """
        filters = {"among": among, "exclude": exclude, "exclude_labels": exclude_labels}
        with self.lock.reading():
            if self._ranks.size == 1:
                return super().forward(queries, labels, k=k, mask=mask, **filters)  # type: ignore[arg-type]
            asked = partial(self._asked, queries, labels, k, mask, filters)
            rows, every, counts, words = self._agreement.tell_rows(Verb.READ, asked, same=2)
            looked, pair, _ = every[0]
            best = self._best(words, counts, looked, bool(pair))
            asks = [bool(wants) for *_, wants in every]
            wanted = [count * wants for count, wants in zip(counts, asks, strict=True)]
            keys = None
            if any(asks):
                (keys,) = self._shard.fetched(best.slots, wanted, [self.keys])
            if keys is None or not asks[self._ranks.own]:
                return recalled(rows, best, self.temperature, None)
            found, numbers = winners(self, best, keys, looked)
            recall: Recall = found(queries, labels, k=k, mask=mask)
            there = recall.slots != EMPTY
            return recall._replace(slots=numbers[recall.slots].where(there, EMPTY))

    def _asked(
        self,
        queries: Tensor,
        labels: Tensor | None,
        k: int | None,
        mask: Tensor | None,
        filters: Mapping[str, object],
    ) -> tuple[Rows, list[int], Tensor]:
        """This process's rows; neighbours looked up, whether by labels, and whether by keys."""
        given = [name for name, part in filters.items() if part is not None]
        if given:
            raise ValueError(f"a sharded memory is read whole: leave out {' and '.join(given)}")
        if k is not None:
            check_count("k", k)
        rows = self._rows(queries, labels, mask)
        looked = (self.k if labels is None else 0) if k is None else k
        gradient = wants_gradient(rows.queries)
        told = [min(looked, self._size), labels is not None, labels is not None or gradient]
        return rows, told, packed(rows)

    @torch.no_grad()
    def _best(self, words: Tensor, counts: list[int], looked: int, pair: bool) -> Candidates:
        """What the rows of this process, which are among those of all, find in all shards."""
        everyone, _ = unpacked(words, layout_of_rows(self.keys), pair)
        layout = layout_of_candidates(self.keys, looked + 2 * pair)
        work = partial(self._candidates, everyone, looked, pair)
        return best_of_own(self._ranks, work, counts, layout, pair)

    def _candidates(self, rows: Rows, looked: int, pair: bool) -> Candidates:
        """What rows find in this shard."""
        slots = rows.queries.new_full((len(rows.queries), 0), EMPTY, dtype=torch.int64)
        if pair and len(self.keys):
            slots = self._pair(rows, None)
        if looked and len(self.keys):
            slots = torch.cat([slots, super()._nearest(rows, looked)], dim=1)
        missing = looked + 2 * pair - slots.shape[1]
        slots = nn.functional.pad(slots, (0, missing), value=EMPTY)
        return Candidates.of(rows.queries, self.keys, self.values, slots, self.first)

    # Writing

    @torch.no_grad()
    def write(
        self,
        queries: Float[Tensor, "*batch key_dim"] | Recall,
        labels: Int[Tensor, "*batch"],
        *,
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> Write:
        """Store the rows of all processes, as one set; say what was done with those of this one.

        Arguments and errors are those of `Memory.write`; all processes raise them.
        """
        with self.lock.writing():
            if self._ranks.size == 1:
                return super().write(queries, labels, mask=mask)
            offered = partial(self._offered, queries, labels, mask)
            shape, every, counts, words = self._agreement.tell_rows(Verb.WRITE, offered, same=1)
            everyone, nearest = unpacked(words, layout_of_rows(self.keys), True)
            if not every[0][0]:
                nearest = self._nearest(everyone, 1).squeeze(1)
            done = self.write_rows(everyone, nearest)
            first = sum(counts[: self._ranks.own])
            mine = slice(first, first + counts[self._ranks.own])
            return Write(*(field[mine].view(shape) for field in done))

    def _offered(
        self, queries: Tensor | Recall, labels: Tensor, mask: Tensor | None
    ) -> tuple[torch.Size, list[int], Tensor]:
        """The shape of this process's rows; whether their nearest slots are known."""
        rows, nearest = self.rows_to_write(queries, labels, mask), None
        if isinstance(queries, Recall):
            nearest = rows.masked(queries.slots[..., 0].reshape(-1).contiguous())
        return rows.shape, [nearest is not None], packed(rows, nearest)

    @torch.no_grad()
    def _nearest(self, rows: Rows, k: int, only: Filter | None = None) -> Tensor:
        if self._ranks.size == 1:
            return super()._nearest(rows, k, only)
        layout, work = layout_of_candidates(self.keys, k), partial(self._candidates, rows, k, False)
        return best_of_same(self._ranks, work, len(rows.queries), layout).slots

    def _write_once(self, rows: Rows, nearest: Tensor) -> tuple[Write, Tensor]:
        if self._ranks.size == 1 or len(nearest) == 0:
            return super()._write_once(rows, nearest)
        shard = self._shard
        stake = stake_of(shard, self.update, nearest)
        write, inserted = stake.write(self.update, rows, nearest)
        self._before_write()
        mine = stake.put_into(shard, write.slots)
        filled = shard.local(write.slots)
        self._fill(filled, inserted & (filled != EMPTY))
        self._after_write(mine)
        return write, inserted & (write.slots == EMPTY)

    @torch.no_grad()
    def record(self, recall: Recall) -> None:
        """Count as one read what the queries of all processes recalled; as `Memory.record`."""
        with self.lock.writing():
            if self._ranks.size == 1:
                super().record(recall)
                return
            slots, every = self._agreement.tell(
                Verb.RECORD, partial(self._answered, recall), same=0
            )
            counts = [count for count, *_ in every]
            every_slot = self._ranks.gather_rows(slots.unsqueeze(1), counts).view(-1)
            here, usage = self._shard.local(every_slot), counted(self.usage)
            usage.reads.add_(1)
            usage.count_answers(here[here != EMPTY])

    def _answered(self, recall: Recall) -> tuple[Tensor, list[int]]:
        self.require_writable("record")
        counted(self.usage)
        slots = answered(recall, self._size)
        return slots, [len(slots)]

    # Forgetting

    @torch.no_grad()
    def forget(
        self,
        *,
        labels: Integers | None = None,
        slots: Integers | None = None,
        older_than: int | None = None,
    ) -> int:
        """Empty the slots that meet every condition, in all shards; return how many there were.

        Arguments and errors are those of `Memory.forget`, and the same on all processes.
        """
        with self.lock.writing():
            work = partial(self._to_forget, labels, slots, older_than)
            gone, every = self._agreement.tell(Verb.FORGET, work, same=1)
            self._before_write()
            self._slot_buffers.empty(gone)
            self._after_write(gone.nonzero().squeeze(1))
            return sum(count for _, count, *_ in every)

    def _to_forget(
        self, labels: Integers | None, slots: Integers | None, older_than: int | None
    ) -> tuple[Tensor, list[int]]:
        self.require_writable("forget")
        labels, slots = (
            part if part is None or isinstance(part, int | Tensor) else list(part)
            for part in (labels, slots)
        )
        conditions = {"labels": labels, "slots": slots, "older_than": older_than}
        span = self._shard.span
        gone = meets(self.state, **conditions, span=span)  # type: ignore[arg-type]
        listed = [
            part.tolist() if isinstance(part, Tensor) else part for part in conditions.values()
        ]
        return gone, [fingerprint(repr(listed)), int(gone.sum())]

    def clear(self) -> None:
        """Forget everything, in all shards, as `Memory.clear`."""
        with self.lock.writing():
            self._agreement.tell(Verb.CLEAR, self._to_clear, same=0)
            super().clear()

    def _to_clear(self) -> tuple[None, list[int]]:
        self.require_writable("clear")
        return None, []

    # The state as a whole

    @property
    def memory_size(self) -> int:
        """Number of slots of the whole memory."""
        return self._size

    @property
    def _shard(self) -> Shard:
        return Shard(self.state, self.usage, Span(self._size, self.first), self._ranks)

    @property
    def _agreement(self) -> Agreement:
        return Agreement(self._ranks, layout_of_rows(self.keys).words)

    def __len__(self) -> int:
        """Number of occupied slots, of all shards."""
        with self.lock.reading():
            _, every = self._agreement.tell(
                Verb.COUNT, lambda: (None, [int(self.state.occupied.sum())]), same=0
            )
            return sum(count for count, *_ in every)

    def stats(self) -> dict[str, float]:
        """What is in memory in numbers, as `Memory.stats`; values and ages of all travel."""
        with self.lock.reading():
            self._agreement.tell(Verb.STATS, lambda: (None, []), same=0)
            whole = self._shard.whole()
            return stats_of(whole.state, whole.usage)

    @torch.no_grad()
    def resize(self, memory_size: int) -> Int64[Tensor, " memory_size"]:
        """Change the number of slots, as `Memory.resize`.

        Slots travel to where they belong now, and the values and ages of all to every process.
        """
        with self.lock.writing():
            work = partial(self._to_resize, memory_size)
            self._agreement.tell(Verb.RESIZE, work, same=1)
            shard, slots = self._shard, self._slot_buffers
            old_slots = self.kept_slots(shard.whole().state, memory_size)
            copy_into(slots.tensors, shard.resized(slots, old_slots))
            self._size = memory_size
            self.first = range_of(memory_size, self._ranks.size, self._ranks.own).start
            self._half_keys()
            return old_slots

    def _to_resize(self, memory_size: int) -> tuple[None, list[int]]:
        self.require_writable("resize")
        check_count("memory_size", memory_size)
        return None, [memory_size]

    def extra_repr(self) -> str:
        end = self.first + len(self.keys)
        return f"{super().extra_repr()}, slots {self.first} to {end - 1} here"

    def hold(self, mesh: DeviceMesh | None, device: torch.device, ranks: Ranks) -> None:
        """Keep of the whole memory the slots of this process; for `shard`."""
        self._ranks, self._mesh, self._size = ranks, mesh, len(self.keys)
        mine = range_of(self._size, ranks.size, ranks.own)
        self.first = mine.start
        for name, whole in self._slot_buffers.tensors.items():
            if whole.is_meta:
                shape = (len(mine), *whole.shape[1:])
                part = torch.full(shape, self._slot_fills[name], dtype=whole.dtype, device=device)
            else:
                part = whole[mine.start : mine.stop].clone()
            # DistributedDataParallel sends the buffers of one process to all: these are not among
            # them. Torch finds those whose entry is None as attributes all the same.
            self._buffers[name] = None
            self.__dict__[name] = part
        for name, number in numbers_of(self).items():
            self._buffers[name] = number.to(device)
        if self.projection is not None:
            self.projection.to(device)
        if self.half_precision_copy is not None:
            del self.half_precision_copy
            self.__dict__["half_precision_copy"] = HalfPrecisionCopy(self.keys)

    def _apply(self, function: Callable[[Tensor], Tensor], *args: Any) -> "ShardedMemory":
        with self.lock.writing():
            super()._apply(function, *args)
            for name, part in self._slot_buffers.tensors.items():
                now = function(part)
                self.__dict__[name] = not_half(part, now) if name in self._wide else now
            if self.half_precision_copy is not None:
                self.half_precision_copy._apply(function)
            self._ranks.device = self.keys.device
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, part in self._slot_buffers.tensors.items():
            destination[prefix + name] = of_all_slots(part, self._size, self._mesh)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        error_msgs: list[str] = args[-1]
        with self.lock.writing():
            try:
                parts, _ = self._agreement.tell(
                    Verb.LOAD, partial(self._parts_of, state_dict, prefix), same=0
                )
            except (RuntimeError, ValueError) as error:
                error_msgs.append(str(error))
                # Torch goes on to the projection: a memory is loaded whole or not at all.
                keep_own(state_dict, prefix, dict(self.named_parameters()))
                return
            slots = self._slot_buffers.tensors
            rest = {
                name: stored
                for name, stored in state_dict.items()
                if name.removeprefix(prefix) not in slots
            }
            nn.Module._load_from_state_dict(self, rest, prefix, *args, **kwargs)
            copy_into(slots, {name: parts[name] for name in slots if name in parts})
            self._half_keys()

    def _parts_of(
        self, state_dict: Mapping[str, Any], prefix: str
    ) -> tuple[dict[str, Tensor], list[int]]:
        """What the state_dict has for the slots of this process, checked."""
        self.require_writable("load")
        slots = self._slot_buffers.tensors
        stored = stored_parts(state_dict, prefix, [*slots, *numbers_of(self)])
        if stored:
            stored |= parts_of(stored, slots, self._shard.span)
            self.check_stored(stored)
        return stored, []

    # What a sharded memory does not do

    __getstate__ = refused("copied or pickled: save its state_dict by torch.distributed.checkpoint")
    merge = refused("merged: merge memories before they are sharded")
    draft = put_slots = put_state = refused("kept in a store")

    def register_slot_buffer(self, name: str, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        refused(f"given {name} for each slot: register it before the memory is sharded")()
