"""A memory of means: of each class one key, the mean of all its examples."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor

from rarememory.base.state import EMPTY, Recall, Write
from rarememory.memory import Memory
from rarememory.memory.queries import Rows


class MeanMemory(Memory):
    """A `Memory` that keeps of each class one key, the mean of all its examples at unit length.

    V[n] = v somewhere:  K[n] <- (L[n] K[n] + q) / |L[n] K[n] + q|,  L[n] <- |L[n] K[n] + q|
    otherwise, as in `Memory`:  K[n'] <- q,  V[n'] <- v,  L[n'] <- 1,  n' the oldest slot

    so L K is the sum of the examples, and K the class mean of nearest class means (Mensink et al.
    2013; with few examples the prototype of Snell et al. 2017). The paper's rule has half of the
    weight on the latest example, and gives one that was answered wrongly a slot of its own: that
    follows classes that change, and pictures of several kinds, but where classes are as they are
    and slots are few, means know more.

    Reading, forgetting, snapshots and checkpoints are those of `Memory`; a merge joins the means of
    a class, so parts of a data set that were learnt apart have the means of the whole. A write's
    `hits` say whether the class was in memory, whatever was nearest. A write looks at its labels:
    it does not compile in one piece.

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
        self.register_slot_buffer("lengths")

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
        with self.lock.writing():
            return self._written(self.rows_to_write(queries, labels, mask))

    def _written(self, rows: Rows) -> Write:
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

    def check_stored(self, stored: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """As in `Memory`; and every key stands for a sum of some length.

        Raises:
            ValueError: what is wrong, and what it must be.
        """
        super().check_stored(stored)
        lengths = stored["lengths"]
        if not lengths.is_meta and not ((lengths > 0) == (stored["values"] != EMPTY)).all():
            raise ValueError("lengths must be positive, and 0 where a slot is empty")

    def joined(self, theirs: dict[str, Shaped[Tensor, "..."]]) -> Int64[Tensor, " slots"] | None:
        """Of a class in both memories our slot takes their examples into its mean."""
        mine = {name: getattr(self, name) for name in theirs if theirs[name].dim()}
        both = {name: torch.cat([part, theirs[name].to(part)]) for name, part in mine.items()}
        rows, size = torch.arange(len(both["values"]), device=self.values.device), len(self.values)
        classes, place = both["values"].unique(return_inverse=True)
        first = torch.full_like(classes, len(rows)).scatter_reduce(0, place, rows, "amin")
        holders = first[place].where(both["values"] != EMPTY, rows)
        if bool((holders == rows).all()):
            return None
        sums = torch.zeros_like(both["keys"], dtype=torch.float64)
        sums.index_add_(0, holders, both["keys"].double() * both["lengths"].double().unsqueeze(1))
        lengths = torch.linalg.vector_norm(sums, dim=1)
        changed = holders[holders != rows].unique()
        some = changed[lengths[changed] > _SHORTEST]
        both["keys"][some] = (sums[some] / lengths[some].unsqueeze(1)).to(both["keys"].dtype)
        both["lengths"][changed] = lengths[changed].clamp(min=_SHORTEST).to(both["lengths"].dtype)
        for name, how in (("written", "amax"), ("used", "amax"), ("uses", "sum")):
            if name in both:
                both[name] = both[name].scatter_reduce(
                    0, holders, both[name], how, include_self=False
                )
        both["values"][holders != rows] = EMPTY
        for name, part in both.items():
            mine[name].copy_(part[:size])
            theirs[name] = part[size:]
        return holders[size:]

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
        write = self.write_rows(Rows(sums / scale, classes, None, classes.shape), own)
        self.lengths[write.slots] = lengths.clamp(min=_SHORTEST).to(self.lengths.dtype)
        return Write(*(field[place] for field in write))

    def _slots_of(self, classes: Int64[Tensor, " classes"]) -> Int64[Tensor, " classes"]:
        """The slot of each class, EMPTY for one that is not there; classes are in rising order."""
        place = torch.searchsorted(classes, self.values).clamp(max=len(classes) - 1)
        slots = (classes[place] == self.values).nonzero().squeeze(1)
        return torch.full_like(classes, EMPTY).index_copy_(0, place[slots], slots)


_SHORTEST = 1e-6
"""Examples that cancel to less than this have no mean: the next ones decide."""
