"""The interface of a search: it finds slots, or says why it cannot."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from rarememory.base.shapes import (
    Among,
    Keys,
    Labels,
    Neighbors,
    Occupied,
    Pair,
    Queries,
    SlotList,
    Values,
)
from rarememory.lookup.pair import nearest_pair


class Lookup(ABC):
    """A search over the keys. It returns slots only; the memory computes and sorts their scores.

    To add a search of your own, write `nearest` and pass the object as `Memory(lookup=...)`.

    Example:
        >>> import torch
        >>> from rarememory import Lookup, Memory
        >>> class NewestFirst(Lookup):
        ...     name = "newest first"
        ...     def nearest(self, queries, keys, occupied, k):
        ...         return occupied.nonzero().flip(0)[:k].T.expand(len(queries), -1)
        >>> memory = Memory(key_dim=2, memory_size=4, k=1, lookup=NewestFirst())
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 8]))
        >>> memory(torch.eye(2)).prediction
        tensor([8, 8])
    """

    name = "unnamed"
    """What errors and `repr` call it."""
    reads_half_keys = False
    """Whether both searches take a keyword `half_keys`, the keys in float16, to read instead."""
    reads_among = False
    """Whether `nearest` takes a keyword `among`: the occupied slots that may be found, [slots] for
    all queries or [batch, slots] for each. If not, they are passed as the `occupied` ones, and
    queries that may find others are asked after one another."""

    @abstractmethod
    def nearest(self, queries: Queries, keys: Keys, occupied: Occupied, k: int) -> Neighbors:
        """The k occupied slots nearest to each query, in any order.

        `queries` and `keys` have unit length, one dtype and no gradient. Among slots with equal
        scores the lower ones are chosen. At most k columns; EMPTY where there are fewer occupied
        slots, and in the whole row of a query that is not finite.
        """

    def nearest_pair(self, queries: Queries, keys: Keys, values: Values, labels: Labels) -> Pair:
        """The nearest slot with the label, and the nearest occupied slot with another."""
        return nearest_pair(queries, keys, values, labels)

    def before_write(self, keys: Keys) -> None:  # noqa: B027
        """Called before the memory writes. Only a search that keeps an index needs it."""

    def after_write(self, keys: Keys, slots: SlotList) -> None:  # noqa: B027
        """Called when the memory has changed these slots and no others; EMPTY stands for no slot.

        Other changes (a checkpoint, the end of a snapshot, an edit by hand) are not reported:
        `IndexedLookup` detects them.
        """

    def uncached(self) -> "Lookup":
        """The same search without a cache, for compiled programs.

        A program changes a tensor at another time than torch counts the change, so a cache could
        hold keys that are no longer there.
        """
        return self

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        """One sentence that says why this call is not supported, or None if it is."""
        return None


def with_their_marks(
    queries: Queries, marks: Among, at_once: int
) -> Iterator[tuple[Queries, Among]]:
    """Some queries at a time, with the marks of what they may find."""
    for first in range(0, max(1, len(queries)), at_once):
        rows = slice(first, first + at_once)
        yield queries[rows], marks[rows] if marks.dim() == 2 else marks
