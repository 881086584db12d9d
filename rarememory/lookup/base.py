"""What a lookup is: something that finds slots, and can say why it cannot."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.lookup.pair import nearest_pair


class Lookup(ABC):
    """A search over the keys. It returns slots and nothing else; the memory scores and orders them.

    To bring a search of one's own, write `nearest` and pass the object as `Memory(lookup=...)`.

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

    name: str
    reads_shadow = False
    """Whether the searches take a keyword `shadow`, the keys in float16, to read in their place."""

    @abstractmethod
    def nearest(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        occupied: Bool[Tensor, " slots"],
        k: int,
    ) -> Int64[Tensor, "batch found"]:
        """The k occupied slots nearest to each query, in any order.

        `queries` and `keys` have unit length, one dtype and no gradient. At the edge of the k, of
        equal scores the lower slot is in. At most k columns; EMPTY where there is none, or where a
        query is not finite.
        """

    def nearest_pair(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        values: Int64[Tensor, " slots"],
        labels: Int64[Tensor, " batch"],
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """The nearest slot with the label, and the nearest occupied slot with another."""
        return nearest_pair(queries, keys, values, labels)

    def before_write(self, keys: Float[Tensor, "slots key_dim"]) -> None:  # noqa: B027
        """The memory is about to write; only a search that keeps an index has to listen."""

    def after_write(  # noqa: B027
        self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, " rows"]
    ) -> None:
        """The memory has changed these slots, and no other, since `before_write`; EMPTY is none.

        Other changes (a checkpoint, a snapshot undone, an edit by hand) are not told: see
        `IndexedLookup` for an index that follows them all the same.
        """

    def uncached(self) -> "Lookup":
        """The same search, keeping nothing of the keys from one call to the next.

        For compiled programs: they change a tensor when its count of changes has moved already, so
        that a cache made inside one would be taken for one of the keys that come after.
        """
        return self

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        """One sentence that says why this call cannot be served, or None if it can."""
        return None
