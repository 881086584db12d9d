"""Usage: how often each slot answered, and when it last did; counted only when asked for."""

from typing import NamedTuple

from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import EMPTY, Recall, host_may_read


class Usage(NamedTuple):
    """What a memory knows of its use; the buffers themselves.

    Attributes:
        uses: answers of each slot since it was filled; a slot answers if it is the nearest.
        used: the number of the read in which it last answered, or after which it was filled.
        reads: reads that were recorded.

    Example:
        >>> import torch
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=3, count_usage=True)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> memory.record(memory(torch.tensor([[3.0, 4.0], [0.0, 1.0]])))
        >>> memory.usage.uses, memory.usage.idle
        (tensor([0, 2, 0]), tensor([1, 0, 1]))
    """

    uses: Int64[Tensor, " slots"]
    used: Int64[Tensor, " slots"]
    reads: Int64[Tensor, ""]

    @property
    def idle(self) -> Int64[Tensor, " slots"]:
        """Recorded reads since each slot last answered, or was filled."""
        return self.reads - self.used

    def record(self, recall: Recall) -> None:
        """Count the nearest slot of each query, in place.

        Raises:
            ValueError: the recall names a slot that does not exist; nothing is counted.
        """
        slots = answered(recall, len(self.uses))
        self.reads.add_(1)
        self.count_answers(slots)

    def count_answers(self, slots: Int64[Tensor, " listed"]) -> None:
        """Count, in the read that was recorded last, that these slots have answered."""
        there, places = slots != EMPTY, slots.clamp(min=0)
        self.uses.index_add_(0, places, there.long())
        # A query that found nothing says that slot 0 was used before the first read, which is past.
        self.used.scatter_reduce_(0, places, self.reads * there, "amax")

    def fill(self, slots: Int64[Tensor, " listed"] | int) -> None:
        """These slots have just been filled: they count as used, for they had no chance to be."""
        self.used[slots] = self.reads


def counted(usage: Usage | None) -> Usage:
    """The usage of a memory that counts it.

    Raises:
        ValueError: it does not.
    """
    if usage is None:
        raise ValueError("this memory does not count usage: Memory(..., count_usage=True)")
    return usage


def answered(recall: Recall, memory_size: int) -> Int64[Tensor, " listed"]:
    """The slot nearest to each query.

    Raises:
        ValueError: the recall names one that a memory of this size has not.
    """
    slots = recall.slots[..., 0].reshape(-1)
    if host_may_read(slots) and slots.numel():
        highest = int(slots.max())
        if highest >= memory_size:
            raise ValueError(
                f"the recall names slot {highest}, and this memory has 0 to {memory_size - 1}: "
                "read again, then record"
            )
    return slots
