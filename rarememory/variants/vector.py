"""A memory whose values are vectors: soft labels, several labels at once, targets, embeddings."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from rarememory.base.state import MemoryState, Recall, Write
from rarememory.base.validation import check_count
from rarememory.memory import Memory
from rarememory.memory.forgetting import Integers


class VectorRecall(NamedTuple):
    """What the queries found.

    Attributes:
        vectors: of the neighbours, weighed; zero where nothing was found. With gradient to the
            queries, through the weights.
        recall: the neighbours themselves.

    Example:
        >>> from rarememory import FirstInFirstOut
        >>> tags = VectorMemory(Memory(2, 8, update=FirstInFirstOut(), temperature=0.5), width=3)
        >>> write = tags.write(torch.eye(2), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
        >>> found = tags(torch.tensor([0.8, 0.6]))
        >>> found.vectors, found.recall.scores[:2]
        (tensor([0.5987, 1.0000, 0.4013]), tensor([0.8000, 0.6000]))
    """

    vectors: Float[Tensor, "*batch width"]
    recall: Recall


class VectorMemory(nn.Module):
    """A `Memory`, and for every slot a vector that reading returns.

    o = sum_i p_i V[n_i],  p = softmax(q.K[n_1] / T, ..., q.K[n_k] / T)

    over the k nearest slots (Kaiser et al. 2017, section 2, where the answer is embedded again; as
    in End-To-End Memory Networks, Sukhbaatar et al. 2015, equation 3). A row that is averaged into
    a key is averaged into its vector: V[n] is the mean of all the rows that are in it.

    Args:
        memory: an empty memory of any kind, which gets the buffers `vectors` and `counts`. A slot
            that is written through it, and not through this module, has a vector of zeros.
        width: of the vectors.

    Raises:
        ValueError: the memory holds something already, whose vectors are not known, or is that of
            another `VectorMemory`.

    Example:
        >>> import torch
        >>> from rarememory import FirstInFirstOut, Memory
        >>> prices = VectorMemory(Memory(2, 10, update=FirstInFirstOut()), width=1)
        >>> prices.write(torch.eye(2), torch.tensor([[10.0], [30.0]])).hits
        tensor([False, False])
        >>> prices(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).vectors
        tensor([[10.],
                [20.]])
    """

    def __init__(self, memory: Memory, width: int) -> None:
        super().__init__()
        check_count("width", width)
        if len(memory):
            raise ValueError(f"the memory holds {len(memory)} slots already: give an empty one")
        self.memory = memory
        memory.register_slot_buffer("vectors", (width,))
        memory.register_slot_buffer("counts", dtype=torch.int64)

    @property
    def vectors(self) -> Float[Tensor, "slots width"]:
        """V, a vector for each slot; zero where empty."""
        return self.memory.get_buffer("vectors")

    @property
    def counts(self) -> Int64[Tensor, " slots"]:
        """The number of rows that each vector is the mean of."""
        return self.memory.get_buffer("counts")

    def forward(
        self,
        queries: Float[Tensor, "*batch key_dim"],
        *,
        k: int | None = None,
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> VectorRecall:
        """The weighed vectors of the k nearest slots; arguments as in `Memory`."""
        with self.memory.lock.reading():
            recall = self.memory(queries, k=self.memory.k if k is None else k, mask=mask)
            there = self.vectors[recall.slots].to(recall.weights.dtype)
        # Nothing is at slot EMPTY, the last slot of all: it has weight 0.
        return VectorRecall((recall.weights.unsqueeze(-1) * there).sum(-2), recall)

    @torch.no_grad()
    def write(
        self,
        queries: Float[Tensor, "batch key_dim"],
        vectors: Float[Tensor, "batch width"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Write:
        """Store each row and its vector, as the memory's policy has it.

        Args:
            queries: rows.
            vectors: one a row, finite.
            labels: rows of one label may be averaged; without labels every row has a slot of its
                own, which takes a policy such as `FirstInFirstOut`.

        Raises:
            ValueError: the number that was wrong and the choice that is right; nothing is written.
        """
        self._check(queries, vectors, labels)
        if labels is None:
            labels = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        with self.memory.lock.writing():
            # At most as many rows as there are slots, so that each is in one place only.
            some = [part.split(len(self.vectors)) for part in (queries, vectors, labels)]
            parts = [self._written(*rows) for rows in zip(*some, strict=True)]
        return Write(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def _written(self, queries: Tensor, vectors: Tensor, labels: Tensor) -> Write:
        write = self.memory.write(queries, labels)
        slots, place, more = write.slots.unique(return_inverse=True, return_counts=True)
        sums = self.vectors[slots] * self.counts[slots].unsqueeze(1)
        sums.index_add_(0, place, vectors.to(sums))
        self.counts[slots] += more
        self.vectors[slots] = sums / self.counts[slots].unsqueeze(1)
        return write

    def _check(self, queries: Tensor, vectors: Tensor, labels: Tensor | None) -> None:
        width = self.vectors.shape[1]
        if vectors.shape != (len(queries), width):
            raise ValueError(
                f"vectors of shape {list(vectors.shape)} for {len(queries)} queries and a width of "
                f"{width}: give [{len(queries)}, {width}]"
            )
        bad = (~vectors.isfinite().all(1)).nonzero().squeeze(1).tolist()
        if bad:
            raise ValueError(f"vectors must be finite, and these rows are not: {bad[:8]}")
        directions = queries.isfinite().all(1) & queries.any(1)
        if not directions.all():
            bad = (~directions).nonzero().squeeze(1).tolist()
            raise ValueError(f"queries must be finite and not zero; these rows are not: {bad[:8]}")
        hits = torch.ones(1, dtype=torch.bool)
        if labels is None and self.memory.update.averages(hits).any():
            raise ValueError(
                f"without labels every row needs a slot of its own, and {self.memory.update} "
                "averages: give labels, or Memory(..., update=FirstInFirstOut())"
            )

    def forget(
        self,
        *,
        labels: Integers | None = None,
        slots: Integers | None = None,
        older_than: int | None = None,
    ) -> int:
        """Empty the slots that meet every condition given, vectors and all; as in `Memory`."""
        return self.memory.forget(labels=labels, slots=slots, older_than=older_than)

    def clear(self) -> None:
        """Forget everything."""
        self.memory.clear()

    def resize(self, memory_size: int) -> Int64[Tensor, " memory_size"]:
        """Change the number of slots, as `Memory.resize`; vectors move with their keys."""
        return self.memory.resize(memory_size)

    def snapshot(self) -> AbstractContextManager[None]:
        """Undo at the end of the block whatever was written or forgotten in it, to the bit."""
        return self.memory.snapshot()

    def read_only(self) -> AbstractContextManager[None]:
        """Refuse inside the block whatever would change the memory."""
        return self.memory.read_only()

    @property
    def state(self) -> MemoryState:
        """The buffers of the memory; vectors and counts are beside it."""
        return self.memory.state

    def __len__(self) -> int:
        """Number of occupied slots."""
        return len(self.memory)

    def __bool__(self) -> bool:
        # As any module is, even if it is empty.
        return True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of version 0.1 have the vectors beside the memory.
        for name in ("vectors", "counts"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}memory.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)
