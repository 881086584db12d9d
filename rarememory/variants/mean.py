"""A memory of means: of each class one key, the mean of all its examples."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState, Recall, Write
from rarememory.memory import Memory
from rarememory.memory.queries import Rows, recalled_rows
from rarememory.memory.resizing import resized


class MeanMemory(Memory):
    """A `Memory` that keeps of each class one key, the mean of all its examples at unit length.

    V[n] = v somewhere:  K[n] <- (L[n] K[n] + q) / |L[n] K[n] + q|,  L[n] <- |L[n] K[n] + q|
    otherwise, as in `Memory`:  K[n'] <- q,  V[n'] <- v,  L[n'] <- 1,  n' the oldest slot

    so L K is the sum of the examples, and K the class mean of nearest class means (Mensink et al.
    2013; with few examples the prototype of Snell et al. 2017). The paper's rule has half of the
    weight on the latest example, and gives one that was answered wrongly a slot of its own: that
    follows classes that change, and pictures of several kinds, but where classes are as they are
    and slots are few, means know more.

    Reading, forgetting, snapshots and checkpoints are those of `Memory`. A write's `hits` say
    whether the class was in memory, whatever was nearest. A write looks at its labels: it does not
    compile in one piece.

    Args:
        args: as in `Memory`.
        options: as in `Memory`; `update` chooses the class that is given up.

    Raises:
        ValueError: as in `Memory`, or `update` does not average.

    Example:
        >>> import torch
        >>> memory = MeanMemory(key_dim=2, memory_size=4)
        >>> for row in torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]):
        ...     write = memory.write(row, torch.tensor(7))
        >>> len(memory), memory.keys[0]
        (1, tensor([0.8944, 0.4472]))
    """

    lengths: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.update.averages(torch.ones(1, dtype=torch.bool)).all():
            raise ValueError(f"means take a policy that averages, and {self.update} does not")
        self.register_buffer("lengths", torch.zeros(len(self.values)))

    @torch.no_grad()
    def write(
        self,
        queries: Float[Tensor, "*batch key_dim"] | Recall,
        labels: Int[Tensor, "*batch"],
        *,
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> Write:
        """Average the queries into the keys of their classes; new classes take a slot each.

        Arguments are as in `Memory.write`. Of more classes than there are slots, parts are written
        one after the other.

        Raises:
            ValueError: the number that was wrong and the choice that is right; nothing is written.
            RuntimeError: inside `read_only()`.
        """
        self._refuse_if_read_only("write")
        if isinstance(queries, Recall):
            rows = recalled_rows(queries, labels, mask, self.keys, self.validate)
        else:
            rows = self._rows(queries, labels, mask)
        assert rows.labels is not None
        done = Write(
            torch.full_like(rows.labels, EMPTY),
            torch.zeros_like(rows.labels, dtype=torch.bool),
            torch.full_like(rows.labels, EMPTY),
        )
        counted = torch.ones_like(done.hits) if rows.mask is None else rows.mask
        numbers = counted.nonzero().squeeze(1)
        for first in range(0, len(numbers), len(self.keys)):
            part = numbers[first : first + len(self.keys)]
            write = self._averaged(rows.queries[part], rows.labels[part])
            for field, new in zip(done, write, strict=True):
                field[part] = new
        return Write(*(field.view(rows.shape) for field in done))

    def _averaged(self, units: Tensor, labels: Tensor) -> Write:
        """Write rows of at most as many classes as there are slots."""
        classes, place = labels.unique(return_inverse=True)
        own = self._slots_of(classes)
        before = self.lengths[own].where(own != EMPTY, 0.0).unsqueeze(1)
        sums = units.new_zeros(len(classes), units.shape[1]).index_add_(0, place, units)
        lengths = torch.linalg.vector_norm(before * self.keys[own] + sums, dim=1)
        # New rows that cancel have no mean: one of them stands for all.
        some = torch.empty_like(sums).index_copy_(0, place, units)
        sums = sums.where((before.squeeze(1) + lengths > _SHORTEST).unsqueeze(1), some * _SHORTEST)
        # A row is added to a key of unit length, so it is shorter by the sum the key stands for.
        scale = before.where(before > 0, lengths.unsqueeze(1)).clamp(min=_SHORTEST)
        write, _ = self._written_once(Rows(sums / scale, classes, None, classes.shape), own)
        self.lengths[write.slots] = lengths.clamp(min=_SHORTEST)
        return Write(*(field[place] for field in write))

    def _slots_of(self, classes: Int64[Tensor, " classes"]) -> Int64[Tensor, " classes"]:
        """The slot of each class, EMPTY for one that is not there; classes are in rising order."""
        place = torch.searchsorted(classes, self.values).clamp(max=len(classes) - 1)
        slots = (classes[place] == self.values).nonzero().squeeze(1)
        return torch.full_like(classes, EMPTY).index_copy_(0, place[slots], slots)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Undo at the end of the block whatever was written or forgotten in it, to the bit."""
        before = self.lengths.clone()
        try:
            with super().snapshot():
                yield
        finally:
            self._keep_lengths(before)

    @torch.no_grad()
    def resize(self, memory_size: int) -> Int64[Tensor, " memory_size"]:
        """Change the number of slots; a smaller memory keeps the youngest. As in `Memory`.

        Fewer than 1 are refused by a ValueError.
        """
        old_slots = super().resize(memory_size)
        self._keep_lengths(self.lengths[old_slots])
        return old_slots

    def _keep_lengths(self, lengths: Tensor) -> None:
        if lengths.shape != self.lengths.shape:
            self.lengths.data = torch.empty_like(lengths)
        self.lengths.copy_(lengths)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        names, mine = [prefix + name for name in MemoryState._fields], f"{prefix}lengths"
        if names[0] in state_dict and mine not in state_dict:
            error_msgs: list[str] = args[-1]
            error_msgs.append(
                "the checkpoint is of a Memory: it does not say what its keys average"
            )
            return
        if all(name in state_dict for name in names):
            theirs = MemoryState(*(state_dict[name] for name in names))
            if len(theirs.values) != len(self.lengths):
                _, old_slots = resized(theirs, len(self.lengths))
                state_dict[mine] = state_dict[mine][old_slots]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


_SHORTEST = 1e-6
"""Examples that cancel to less than this have no mean: the next ones decide."""
