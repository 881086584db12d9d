"""The memory: a module that holds keys, values and ages, and reads and writes them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor, nn

from rarememory.base.deprecation import renamed_keywords
from rarememory.base.locks import ReadersWriterLock
from rarememory.base.state import EMPTY, MemoryState, Recall, Write
from rarememory.base.validation import (
    check_count,
    check_finite,
    check_key_dtype,
    check_seed,
    check_temperature,
)
from rarememory.lookup import AutoLookup, Lookup, NativeLookup, TritonLookup, choose_lookup
from rarememory.lookup.exact import in_order, ranked, score
from rarememory.memory import at_once, reading_on_gpu, updates, writing, writing_on_gpu
from rarememory.memory.budgets import layers_of
from rarememory.memory.checkpoints import fitted, keep_own, stored_parts
from rarememory.memory.drafts import Draft, Search
from rarememory.memory.filters import Among, Filter, among_tensor, filter_of
from rarememory.memory.forgetting import Integers, meets
from rarememory.memory.half_precision import HalfPrecisionCopy
from rarememory.memory.invariants import check_like, check_state
from rarememory.memory.losses import margin_loss
from rarememory.memory.merging import (
    align,
    check_alike,
    check_mergeable,
    put_values,
    take_over,
)
from rarememory.memory.placing import SEEN, seen_buffer
from rarememory.memory.queries import (
    Rows,
    nearest_slots,
    pair_of_slots,
    recalled,
    recalled_rows,
    rows_again,
    rows_of,
)
from rarememory.memory.reading_on_gpu import search_on_gpu
from rarememory.memory.resizing import check_room, kept_slots
from rarememory.memory.searching import FilteredSearch
from rarememory.memory.slots import (
    SLOT_BUFFERS,
    SlotBuffers,
    copy_into,
    not_half,
    numbers_of,
    put_back,
)
from rarememory.memory.stats import stats_of
from rarememory.memory.usage import Usage, counted

_FILLED_BY_WRITES = SLOT_BUFFERS.keys() | SEEN.keys()


class Memory(nn.Module):
    """A few-shot memory that any encoder can learn under, and any classifier can answer from.

    It holds K, V and A of "Learning to Remember Rare Events" (Kaiser et al. 2017, section 2): keys
    of unit length, their values, and the writes that have passed since each was written. Reading
    finds the nearest keys by cosine and changes nothing. Writing averages a query into the key that
    answered rightly, or replaces the oldest slot.

    Its whole state is buffers that are changed in place, so `state_dict`, `.to()`, deepcopy and
    safetensors carry it whole. A checkpoint of another `memory_size` loads too, as if resized.

    Any number of threads may use one memory at once: each read sees it before or after a write,
    never between. They share a readers-writer lock, `memory.lock`. Who looks at the buffers beside
    other threads, or calls a compiled program, does so inside `memory.lock.reading()`, and changes
    them inside `memory.lock.writing()`.

    Args:
        key_dim: width of queries and keys.
        memory_size: number of slots.
        k: neighbours that a read without labels looks up.
        margin: the alpha of the memory loss.
        temperature: divides the scores before the softmax (the paper's t = 40 is 0.025).
        update: the policy of writing; `AverageOrReplace`, the paper's, if None.
        lookup: "auto", "triton", "native", "faiss", "torch", or an object of one's own.
        key_dtype: of the keys as they are kept; float16 or bfloat16 take half the room, and put
            scores off by up to 2^-11 or 2^-8. Queries and scores stay in float32.
        half_precision_copy: keep a float16 copy of the keys too, for a GPU's searches to read in
            their place: twice as fast where reading is what takes the time, and as exact.
        projection: learn a linear map of the queries, as the authors' code does.
        subtract_margin: report `loss - margin`, as the authors' code does.
        validate: refuse rows that are zero, not finite or wrongly labelled. Asking makes the host
            wait for a GPU; with False they are left out in silence, as if masked.
        seed: of the memory's own generator.
        count_usage: keep what `record` is told: how often and when each slot answered, as buffers
            `uses`, `used` and `reads`. Policies by usage count it without being asked.
        device: of the buffers, torch's default if None; "meta" allocates no slot, for
            `rarememory.distributed.shard`.

    Raises:
        ValueError: the number that was wrong and the choice that is right.

    Example:
        >>> import torch
        >>> memory = Memory(key_dim=4, memory_size=8)
        >>> queries, labels = torch.eye(4)[:2], torch.tensor([3, 5])
        >>> memory.write(queries, labels).slots
        tensor([0, 1])
        >>> memory(queries + 0.1).prediction
        tensor([3, 5])
        >>> loss = memory(queries.requires_grad_(), labels).loss
        >>> loss.item(), loss.requires_grad
        (0.0, True)
    """

    keys: Tensor
    values: Tensor
    written: Tensor
    clock: Tensor
    seed: Tensor

    @renamed_keywords(shadow="half_precision_copy")
    # Tensors that are made in inference mode cannot be written outside of it.
    @torch.inference_mode(False)
    def __init__(
        self,
        key_dim: int,
        memory_size: int = 8192,
        *,
        k: int = 256,
        margin: float = 0.1,
        temperature: float = 0.025,
        update: updates.Update | None = None,
        lookup: str | Lookup = "auto",
        key_dtype: torch.dtype = torch.float32,
        half_precision_copy: bool = False,
        projection: bool = False,
        subtract_margin: bool = False,
        validate: bool = True,
        seed: int = 0,
        count_usage: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("key_dim", key_dim), ("memory_size", memory_size), ("k", k)):
            check_count(name, number)
        check_key_dtype(key_dtype)
        check_seed(seed)
        check_finite("margin", margin)
        check_temperature(temperature)
        if update is not None and not isinstance(update, updates.Update):
            raise ValueError(f"update must be a policy such as AverageOrReplace(), not {update!r}")
        self.k = k
        # Torch takes no integer of more than 64 bits.
        self.margin = float(margin)
        self.temperature = float(temperature)
        self.update = updates.AverageOrReplace() if update is None else update
        self.lookup = choose_lookup(lookup)
        self.subtract_margin = subtract_margin
        self.validate = validate
        # Slots may wait for their storage; a clock and a seed have to have their values.
        rest = "cpu" if device is not None and torch.device(device).type == "meta" else device
        self.projection = None
        if projection:
            self.projection = nn.Linear(key_dim, key_dim, bias=False, device=rest)
        if self.projection is not None:
            nn.init.trunc_normal_(self.projection.weight, std=0.01, a=-0.02, b=0.02)
        self.register_buffer(
            "keys", torch.zeros(memory_size, key_dim, dtype=key_dtype, device=device)
        )
        self.register_buffer("values", torch.full((memory_size,), EMPTY, device=device))
        written = torch.zeros(memory_size, dtype=torch.int64, device=device)
        self.register_buffer("written", written)
        self.register_buffer("clock", torch.tensor(0, device=rest))
        self.register_buffer("seed", torch.tensor(seed, device=rest))
        self._slot_fills, self._wide = dict(SLOT_BUFFERS), set[str]()
        layers = layers_of(self.update)
        if count_usage or isinstance(layers.rule, updates.ByUsage):
            self.register_slot_buffer("uses", dtype=torch.int64)
            self.register_slot_buffer("used", dtype=torch.int64)
            self.register_buffer("reads", torch.tensor(0, device=rest))
        if (seen := seen_buffer(layers)) is not None:
            shape = (key_dim,) if SEEN[seen].is_floating_point else ()
            self.register_slot_buffer(seen, shape, dtype=SEEN[seen])
        self.half_precision_copy = HalfPrecisionCopy(self.keys) if half_precision_copy else None
        self.lock = ReadersWriterLock()
        self._read_only_blocks = 0
        self._draft: Draft | None = None

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
        """Find the neighbours of the queries; with labels, the memory loss as well.

        Reading changes nothing: no slot, no age, no random state. Gradients reach the queries (and
        the projection), never the keys.

        Args:
            queries: any leading shape, any float type, any length but zero.
            labels: the right values, integers >= 0, one a query.
            k: neighbours to look up, at most as many as there are slots; without it `self.k` for a
                read without labels, and for one with labels only the nearest right and the nearest
                wrong slot.
            mask: rows to look at; the others find nothing and add nothing to the loss.
            among: find only these, as if there were no other slots: labels, in a list or a tensor
                [n], or a mask [slots]. For each query of its own: [*batch, n], with EMPTY in places
                left over, or [*batch, slots]. Exact on every lookup; an approximate one searches
                exactly.
            exclude: a slot that each query does not find, EMPTY for none: with `memory.keys` as the
                queries and their slots, every key is asked about as if it were not there.
            exclude_labels: a label that each query does not find, as if it had never been written.

        Raises:
            ValueError: the number that was wrong and the choice that is right.
        """
        with self.lock.reading():
            if among is not None:
                # Once, for it may be an iterator.
                among = among_tensor(among, self.values)
            whole = among is None and exclude is None and exclude_labels is None
            if mask is None and exclude is None and exclude_labels is None:
                recall = self._read_at_once(queries, labels, k, among)
                if recall is not None:
                    return recall
            rows, state = self._rows(queries, labels, mask), self.state
            only = None if whole else filter_of(among, exclude, exclude_labels, rows, state)
            loss = None
            if rows.labels is not None:
                slots = self._pair(rows, only)
                scores = score(rows.queries, state.keys, slots)
                loss = self._loss(scores, rows.mask)
            if rows.labels is None or k is not None:
                if k is not None:
                    check_count("k", k)
                slots = self._nearest(rows, self.k if k is None else k, only)
                found = ranked(rows.queries, state.keys, state.values, slots)
            else:
                found = in_order(slots, scores, state.values)
            return recalled(rows, found, self.temperature, loss, not whole)

    def _read_at_once(
        self, queries: Tensor, labels: Tensor | None, k: int | None, among: Tensor | None = None
    ) -> Recall | None:
        if self.projection is not None:
            return None
        if _may_be_on_gpu(self):
            if among is not None:
                return None
            margins = (self.margin, self.margin if self.subtract_margin else 0.0)
            how = reading_on_gpu.How(self.temperature, *margins, self._half_keys, self.validate)
            k = self.k if k is None and labels is None else k
            searched = (self.keys, self.values, self.lookup)
            return reading_on_gpu.read_at_once(queries, labels, *searched, k, how)
        if not isinstance(self.lookup, AutoLookup | NativeLookup):
            return None
        # By their names torch finds them last: both take as long as the lock.
        keys, values = self._buffers["keys"], self._buffers["values"]
        if keys is None or values is None:
            # A shard makes them of what all processes have.
            keys, values = self.keys, self.values
        searched = (keys, values, self.lookup)
        if labels is None:
            k = self.k if k is None else k
            return at_once.read_at_once(queries, *searched, k, self.temperature, among)
        if k is not None or among is not None:
            return None
        margins = (self.margin, self.margin if self.subtract_margin else 0.0)
        return at_once.read_pair_at_once(queries, labels, *searched, *margins, self.temperature)

    def _rows(self, queries: Tensor, labels: Tensor | None, mask: Tensor | None) -> Rows:
        return rows_of(queries, labels, mask, self.keys, self.projection, self.validate)

    def _loss(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        loss = margin_loss(scores[:, 0], scores[:, 1], self.margin, mask=mask)
        return loss - self.margin if self.subtract_margin else loss

    def _nearest(self, rows: Rows, k: int, only: Filter | None = None) -> Tensor:
        searched = (self.state, self._half_keys(), self.lookup)
        if only is not None:
            return FilteredSearch(only, *searched).nearest(rows, k)
        return nearest_slots(rows, *searched, k)

    def _pair(self, rows: Rows, only: Filter | None) -> Tensor:
        searched = (self.state, self._half_keys(), self.lookup)
        if only is not None:
            return FilteredSearch(only, *searched).pair(rows)
        return pair_of_slots(rows, *searched)

    def _half_keys(self) -> Tensor | None:
        return None if self.half_precision_copy is None else self.half_precision_copy.of(self.keys)

    # Usage

    @property
    def usage(self) -> Usage | None:
        """How often and when each slot answered; None if it is not counted."""
        if "uses" not in self._slot_fills:
            return None
        return Usage(*(self.get_buffer(name) for name in Usage._fields))

    @torch.no_grad()
    def record(self, recall: Recall) -> None:
        """Count that the nearest slot of each query of this read has answered.

        Reading itself counts nothing: it changes no memory. Queries that found nothing add nothing.

        Raises:
            ValueError: this memory does not count usage, or the recall is of another.
            RuntimeError: inside `read_only()`.
        """
        with self.lock.writing():
            self.require_writable("record")
            counted(self.usage).record(recall)

    # Writing

    @torch.no_grad()
    def write(
        self,
        queries: Float[Tensor, "*batch key_dim"] | Recall,
        labels: Int[Tensor, "*batch"],
        *,
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> Write:
        """Store the queries under their labels, as the policy has it.

        The rows are one set: their order does not matter. More rows than there are slots for are
        written as consecutive writes, and each row reports the one that wrote it.

        Args:
            queries: any leading shape; or what `memory(queries, ...)` has just recalled, which
                saves encoding and looking them up again (only encoding, if it was filtered). What
                that read left out is not written.
            labels: integers >= 0, one a query.
            mask: rows to write.

        Raises:
            ValueError: the number that was wrong and the choice that is right; nothing is written.
            RuntimeError: inside `read_only()`.
        """
        with self.lock.writing():
            if mask is None:
                done = self._write_at_once(queries, labels)
                if done is not None:
                    return done
            rows = self.rows_to_write(queries, labels, mask)
            if isinstance(queries, Recall) and not queries.filtered:
                nearest = rows.masked(queries.slots[..., 0].reshape(-1).contiguous())
            elif self._draft is not None:
                search = partial(self._nearest, k=1)
                nearest = self._draft.nearest(queries, rows, self.state, search)
            else:
                nearest = self._nearest(rows, 1).squeeze(1)
            return self.write_rows(rows, nearest)

    def rows_to_write(
        self,
        queries: Float[Tensor, "*batch key_dim"] | Recall,
        labels: Int[Tensor, "*batch"],
        mask: Bool[Tensor, "*batch"] | None,
    ) -> Rows:
        """The arguments of `write`, checked, flattened and normalised; for variants.

        Raises:
            ValueError: the number that was wrong and the choice that is right.
            RuntimeError: inside `read_only()`.
        """
        self.require_writable("write")
        if labels is None:
            raise ValueError("labels must be integers, one for each query, not None")
        if isinstance(queries, Recall):
            own = (self.keys, self.validate, self.memory_size)
            return recalled_rows(queries, labels, mask, *own)
        units = None if self._draft is None else self._draft.units(queries)
        if units is not None and mask is None:
            return rows_again(units, queries, labels)
        return self._rows(queries, labels, mask)

    def write_rows(self, rows: Rows, nearest: Int64[Tensor, " batch"]) -> Write:
        """Write rows that are checked, whose nearest slots are known; for variants."""
        given = (rows, nearest, self.memory_size)
        done = writing.all_written(*given, self._write_once, self._nearest)
        return Write(*(field.view(rows.shape) for field in done))

    def _write_once(self, rows: Rows, nearest: Tensor) -> tuple[Write, Tensor]:
        assert rows.labels is not None
        self._before_write()
        before = None if self._draft is None else self._draft.keep
        seen = next((self.get_buffer(name) for name in SEEN if name in self._slot_fills), None)
        known = None if self._draft is None else self._draft.oldest
        write, inserted = writing.write(
            *(self.state, self.update, rows.queries, rows.labels, nearest, rows.mask),
            *(before, self.usage, None, seen, known),
        )
        self._fill(write.slots, inserted & (write.slots != EMPTY))
        self._after_write(write.slots)
        return write, inserted & (write.slots == EMPTY)

    def _fill(self, slots: Tensor, inserted: Tensor | bool) -> None:
        """Reset own entries of the slots that rows have been put into."""
        own = self._slot_fills.keys() - _FILLED_BY_WRITES
        if not own:
            return
        filled: Tensor | int
        if len(slots) == 1 and slots.is_cpu:
            if not inserted:
                return
            # A number is an index that takes less time than a list of one.
            filled = int(slots)
        else:
            filled = slots if inserted is True else slots[inserted]
        for name in own:
            getattr(self, name)[filled] = self._slot_fills[name]
        if self.usage is not None:
            self.usage.fill(filled)

    def _write_at_once(self, queries: Tensor | Recall, labels: Tensor) -> Write | None:
        self.require_writable("write")
        if self._draft is not None:
            return None
        in_kernels = _may_be_on_gpu(self) and search_on_gpu(self.lookup, self.keys)
        if in_kernels:
            # Asked first, for a search that is not used would have been made for nothing.
            given = (self.update, queries, labels, self.validate)
            if not writing_on_gpu.can_write(self.state, *given):
                return None
        recall = queries if isinstance(queries, Recall) else self._read_at_once(queries, None, 1)
        if recall is None or recall.filtered:
            return None
        self._before_write()
        write = writing_on_gpu.write if in_kernels else at_once.write_at_once
        done = write(self.state, self.update, recall, labels)
        if done is None:
            return None
        written, averages = done
        slots = written.slots.reshape(-1)
        if len(self._slot_fills) > len(SLOT_BUFFERS):
            inserted = ~written.hits.reshape(-1) if averages else True
            if in_kernels:
                # Of these rows some may have been left out.
                inserted = (slots != EMPTY) & inserted
            self._fill(slots, inserted)
        self._after_write(slots)
        return written

    def _before_write(self) -> None:
        for cache in self._caches():
            cache.before_write(self.keys)

    def _after_write(self, slots: Tensor) -> None:
        for cache in self._caches():
            cache.after_write(self.keys, slots)

    def _caches(self) -> tuple[Lookup | HalfPrecisionCopy, ...]:
        copy = self.half_precision_copy
        return (self.lookup,) if copy is None else (self.lookup, copy)

    # Forgetting

    @torch.no_grad()
    def forget(
        self,
        *,
        labels: Integers | None = None,
        slots: Integers | None = None,
        older_than: int | None = None,
    ) -> int:
        """Empty the slots that meet every condition given; return how many there were.

        Args:
            labels: values to forget.
            slots: slots to forget.
            older_than: forget what has not been written for more than this many writes; 0 keeps
                what the latest write has written.

        Raises:
            ValueError: no condition is given, a slot does not exist, or `older_than` is negative.
        """
        with self.lock.writing():
            self.require_writable("forget")
            gone = meets(self.state, labels=labels, slots=slots, older_than=older_than)
            slots = gone.nonzero().squeeze(1)
            if self._draft is not None:
                self._draft.keep(slots)
            self._before_write()
            self._slot_buffers.empty(gone)
            self._after_write(slots)
            return len(slots)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget everything; the number of writes so far, and so the age noise to come, stays."""
        with self.lock.writing():
            self.require_writable("clear")
            self._slot_buffers.empty(torch.ones_like(self.values).bool())
            self._half_keys()

    # Merging

    @torch.no_grad()
    def merge(
        self, other: "Memory", *, values: Int64[Tensor, " slots"] | None = None
    ) -> Int64[Tensor, " slots"]:
        """Take over what another memory holds, with its ages; it is not changed.

        Both keep their slots while there is room. If there is not, the youngest of both are kept;
        of equal ages ours, then the lower slot. Nothing is averaged and nothing is drawn, so parts
        of a data set that were learnt apart are joined the same way each time. `other.merge(one)`
        keeps the same rows where both have as many slots and no ages are equal at the limit, in
        other slots; the policy, and the numbers to come of the generator, are those of this memory.

        Args:
            other: of the same key width and the same buffers, with keys of the same encoder.
            values: labels of its slots in place of its own, where a class has another number here.

        Returns:
            Of each of its slots the one that it went to; EMPTY for one that was empty or too old.

        Raises:
            ValueError: the memories do not fit; nothing is changed.
            RuntimeError: inside `read_only()`.

        Example:
            >>> one, other = Memory(key_dim=2, memory_size=4), Memory(key_dim=2, memory_size=4)
            >>> write = one.write(torch.eye(2)[0], torch.tensor(7))
            >>> write = other.write(torch.eye(2)[1], torch.tensor(9))
            >>> one.merge(other), one.values
            (tensor([ 1, -1, -1, -1]), tensor([ 7,  9, -1, -1]))
        """
        if not isinstance(other, Memory):
            raise ValueError(f"a memory is merged with a Memory, not with a {type(other).__name__}")
        if other is self:
            raise ValueError("a memory cannot be merged with itself")
        with other.lock.reading():
            theirs = {name: part.to(self.keys.device) for name, part in other.state_dict().items()}
            theirs = {name: part.clone() for name, part in theirs.items()}
        with self.lock.writing():
            self.require_writable("merge")
            ours = self._slot_buffers
            check_alike(ours.tensors, {name: theirs[name] for name in other._slot_fills})
            check_mergeable(self.update, self.projection, theirs)
            if values is not None:
                put_values(theirs, values)
                self.check_stored(theirs)
            self._before_write()
            if self._draft is not None:
                self._draft.keep(torch.arange(len(self.values), device=self.values.device))
            align({**ours.tensors, **numbers_of(self)}, theirs)
            holders = self.joined(theirs)
            layers = layers_of(self.update)
            slots, changed = take_over(ours, self.state, theirs, layers, holders)
            self._after_write(changed)
            return slots

    def joined(self, theirs: dict[str, Shaped[Tensor, "..."]]) -> Int64[Tensor, " slots"] | None:
        """Join rows of a merge that stand for one thing, in place; for variants.

        Args:
            theirs: the buffers of the other memory, with our clock. A row that has become part of
                another one has the value EMPTY afterwards.

        Returns:
            Of each of their rows the one that holds it: one of ours, or after these one of theirs.
            None if each holds itself.
        """
        return None

    def require_writable(self, verb: str) -> None:
        """Refuse this verb inside `read_only()`, by a RuntimeError; a draft is undone anyway."""
        if self._read_only_blocks and self._draft is None:
            raise RuntimeError(f"this memory is read-only here: {verb} outside of `read_only()`")

    # The state as a whole

    def sync(self) -> None:
        """Say that the buffers were changed in a way that torch does not count.

        Torch counts what its own operators change, and whatever is derived from the keys (codes,
        indexes, half-precision copies, a fitted reader) is made again when the count says so. It
        does not count what goes through `.data`, NumPy or a collective such as
        `torch.distributed.broadcast`. On a CPU such a change is found by samples, at once where
        most slots have changed; this finds every one, on any device.

        Example:
            >>> memory = Memory(key_dim=2, memory_size=2)
            >>> memory.values.numpy()[0] = 7
            >>> memory.sync()
        """
        with self.lock.writing():
            buffers = [*self._slot_buffers.tensors.values(), *self.buffers()]
            counted = [buffer for buffer in buffers if not buffer.is_inference()]
            torch.autograd.graph.increment_version(counted)
            self._half_keys()

    @property
    def state(self) -> MemoryState:
        """The buffers themselves."""
        return MemoryState(self.keys, self.values, self.written, self.clock, self.seed)

    @torch.inference_mode(False)
    def register_slot_buffer(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        *,
        fill: int | float = 0,
        dtype: torch.dtype = torch.float32,
        wide: bool = False,
    ) -> None:
        """Add a buffer with an entry for each slot, which follows the keys; for variants.

        The entry is `fill` where a slot is empty, and again when a write puts another row in place
        of what the slot held. Forgetting, resizing, snapshots and checkpoints treat it as they
        treat the keys.

        Args:
            name: of the buffer, which is `memory.get_buffer(name)` and in `state_dict`.
            shape: of an entry.
            fill: of an empty slot.
            dtype: of the buffer.
            wide: whether it stays float32 where the memory is converted to half precision.

        Raises:
            ValueError: the memory has something of this name already.

        Example:
            >>> memory = Memory(key_dim=2, memory_size=3)
            >>> memory.register_slot_buffer("prices")
            >>> slot = memory.write(torch.ones(2), torch.tensor(7)).slots
            >>> memory.prices[slot] = 9.5
            >>> memory.resize(2), memory.prices
            (tensor([ 0, -1]), tensor([9.5000, 0.0000]))
        """
        if hasattr(self, name):
            raise ValueError(f"this memory has {name} already: give the buffer another name")
        full = torch.full((len(self.keys), *shape), fill, dtype=dtype, device=self.keys.device)
        self.register_buffer(name, full)
        self._slot_fills[name] = fill
        (self._wide.add if wide else self._wide.discard)(name)

    def remove_slot_buffer(self, name: str) -> None:
        """Take away a buffer that `register_slot_buffer` has added."""
        del self._slot_fills[name]
        delattr(self, name)

    def empty_slots(self, count: int) -> dict[str, Shaped[Tensor, "..."]]:
        """What each per-slot buffer holds in so many empty slots."""
        return self._slot_buffers.of_empty(count)

    @property
    def _slot_buffers(self) -> SlotBuffers:
        tensors = {name: getattr(self, name) for name in self._slot_fills}
        return SlotBuffers(tensors, self._slot_fills)

    def stats(self) -> dict[str, float]:
        """What is in memory in numbers: a flat dict for any logger.

        Example:
            >>> memory = Memory(key_dim=2, memory_size=4)
            >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
            >>> stats = memory.stats()
            >>> stats["occupied"], stats["fill"], stats["classes"], stats["age_max"]
            (2.0, 0.5, 2.0, 0.0)
        """
        with self.lock.reading():
            return stats_of(self.state, self.usage)

    @property
    def memory_size(self) -> int:
        """Number of slots."""
        return len(self.keys)

    @property
    def ages(self) -> Int64[Tensor, " slots"]:
        """Writes since each slot was last written (the paper's A); EMPTY where empty."""
        with self.lock.reading():
            return self.state.ages

    def __len__(self) -> int:
        """Number of occupied slots."""
        with self.lock.reading():
            return int((self.values != EMPTY).sum())

    def __bool__(self) -> bool:
        # As any module is, though it be empty.
        return True

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuse inside the block whatever would change the memory, in every thread.

        Blocks of several threads may overlap: the last one that ends makes it writable again.
        """
        with self.lock.writing():
            self._read_only_blocks += 1
        try:
            yield
        finally:
            with self.lock.writing():
                self._read_only_blocks -= 1

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Undo at the end of the block whatever was written or forgotten in it, to the bit.

        Other threads wait until the block ends.
        """
        with self.lock.writing():
            before, fills = self._slot_buffers.tensors, dict(self._slot_fills)
            try:
                with put_back({**before, **numbers_of(self)}):
                    yield
            finally:
                for name in self._slot_fills.keys() - fills.keys():
                    self.remove_slot_buffer(name)
                for name in fills.keys() - self._slot_fills.keys():
                    self.register_buffer(name, before[name])
                self._slot_fills = fills
                self._half_keys()

    @contextmanager
    def draft(
        self,
        search: Search | None = None,
        changed: Int64[Tensor, " changed"] | None = None,
        only_search: bool = False,
    ) -> Iterator[Draft]:
        """Undo at the end of the block what was written or forgotten in it, and say what it was.

        It is a `snapshot` at the cost of the slots that change, for writes and `forget` only, and
        it may be made inside `read_only()`. Other threads wait until the block ends.

        Args:
            search: of a draft of the same write, on an older state: it is used again.
            changed: the slots that have changed since then.
            only_search: end the block by `Searched` once a write in it has searched.

        Example:
            >>> memory = Memory(key_dim=2, memory_size=3)
            >>> with memory.draft() as draft:
            ...     write = memory.write(torch.ones(2), torch.tensor(7))
            >>> len(memory), draft.slots, draft.rows["values"]
            (0, tensor([0]), tensor([7]))
        """
        with self.lock.writing():
            buffers = self._slot_buffers.tensors
            oldest = None
            if writing.is_by_age(self.update):
                oldest = partial(writing.eviction_order, self.state, self.update)
            draft = self._draft = Draft(buffers, search, changed, only_search, oldest)
            clock = int(self.clock)
            try:
                yield draft
                draft.close()
            finally:
                self._draft = None
                if draft.before:
                    self.put_slots(draft.slots, draft.before, clock)

    @torch.no_grad()
    def put_slots(
        self,
        slots: Int64[Tensor, " slots"],
        rows: Mapping[str, Shaped[Tensor, "..."]],
        clock: int,
    ) -> None:
        """Let these slots hold what those of another memory hold, and set the clock.

        Args:
            slots: each once.
            rows: for each per-slot buffer, by its name, an entry for each of the slots.
            clock: writes so far.
        """
        with self.lock.writing():
            self._before_write()
            for name, part in rows.items():
                getattr(self, name).index_copy_(0, slots, part)
            self._after_write(slots)
            self.clock.fill_(clock)

    @torch.no_grad()
    def put_state(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Hold what another memory holds, whatever its number of slots: its buffers, by name."""
        with self.lock.writing():
            own = self.state_dict(keep_vars=True)
            copy_into({name: own[name] for name in tensors}, tensors)
            self._half_keys()

    @torch.no_grad()
    def resize(self, memory_size: int) -> Int64[Tensor, " memory_size"]:
        """Change the number of slots; a smaller memory keeps the youngest.

        A larger memory leaves every slot where it is. A smaller one moves the youngest slots (of
        equal ages the lower) to its front, in their old order. It returns the old slot of every new
        one, EMPTY where there is none. Fewer than 1 are refused by a ValueError.
        """
        with self.lock.writing():
            self.require_writable("resize")
            check_count("memory_size", memory_size)
            old_slots = self.kept_slots(self.state, memory_size)
            check_room(self.values, memory_size, layers_of(self.update).protected)
            slots = self._slot_buffers
            copy_into(slots.tensors, slots.moved(old_slots))
            self._half_keys()
            return old_slots

    def kept_slots(self, state: MemoryState, memory_size: int) -> Int64[Tensor, " memory_size"]:
        """The old slot of every one that a memory in this state has after a `resize`.

        Raises:
            ValueError: it is a sample of a whole stream, which has one size.
        """
        return kept_slots(state, memory_size, layers_of(self.update))

    def check_stored(self, stored: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Refuse tensors, by their names in `state_dict`, that no such memory has; for variants.

        Whatever is loaded is checked by this before any of it is taken: `rarememory.memory`'s
        `check_state` has the rules.

        Raises:
            ValueError: what is wrong, and what it must be.
        """
        check_state(stored)
        check_like(self.state_dict(), stored, per_slot=self._slot_fills)

    def fit_checkpoint(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Resize, in a state_dict, the memory under `prefix` to as many slots as there are here.

        Raises:
            ValueError: it is no such memory, or one of another width.
            RuntimeError: inside `read_only()`.
        """
        self.require_writable("load")
        others = [*numbers_of(self), *(["projection.weight"] if self.projection else [])]
        stored = stored_parts(state_dict, prefix, [*self._slot_fills, *others])
        if stored:
            self.check_stored(stored)
            parts = fitted(stored, self._slot_buffers, self.kept_slots)
            state_dict.update({prefix + name: part for name, part in parts.items()})

    def __getstate__(self) -> dict[str, Any]:
        with self.lock.reading():
            # Copies, for another thread may write before they are looked at. What processes share
            # they go on sharing. A copy made inside `read_only()` is outside of it.
            buffers = {
                name: buffer if buffer is None or _is_of_processes(buffer) else buffer.clone()
                for name, buffer in self._buffers.items()
            }
            return {**self.__dict__, "_buffers": buffers, "_read_only_blocks": 0}

    def _apply(self, *args: Any, **kwargs: Any) -> "Memory":
        with self.lock.writing():
            # A memory that an earlier version pickled has no such names.
            wide = {name: self._buffers.get(name) for name in self.__dict__.get("_wide", ())}
            super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
            for name, before in wide.items():
                now = self._buffers.get(name)
                if before is not None and now is not None:
                    self._buffers[name] = not_half(before, now)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        error_msgs: list[str] = args[-1]
        with self.lock.writing():
            try:
                self.fit_checkpoint(state_dict, prefix)
            except (RuntimeError, ValueError) as error:
                error_msgs.append(str(error))
                # Torch goes on to the projection: a memory is loaded whole or not at all.
                keep_own(state_dict, prefix, dict(self.named_parameters()))
                return
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            self._half_keys()

    def extra_repr(self) -> str:
        shape = f"key_dim={self.keys.shape[1]}, memory_size={self.memory_size}"
        numbers = f"k={self.k}, margin={self.margin}, temperature={self.temperature}"
        return f"{shape}, {numbers}, update={self.update}, lookup={self.lookup.name!r}"


def _is_of_processes(buffer: Tensor) -> bool:
    return buffer.is_cpu and buffer.is_shared()


def _may_be_on_gpu(memory: Memory) -> bool:
    # Looked at in every call, so without `isinstance` and the look-up of a buffer by its name.
    keys = memory._buffers["keys"]
    return type(memory.lookup) is TritonLookup or (keys is not None and keys.is_cuda)
