"""What each shard finds for a query, and the best of it all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.distributed.layout import Layout
from rarememory.distributed.ranks import Ranks
from rarememory.lookup.exact import order, score


class Candidates(NamedTuple):
    """Neighbours of each query: with labels its pair in the first two columns, then its nearest.

    Attributes:
        slots: of the whole memory; EMPTY where there is none.
        scores: exact, and so the same whichever process computes them.
        values: their labels.
    """

    slots: Int64[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]
    values: Int64[Tensor, "batch k"]

    @classmethod
    def of(
        cls, queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, first: int
    ) -> "Candidates":
        """These slots of a shard that begins with slot `first` of the memory."""
        if len(keys) == 0:
            return cls(slots, torch.full_like(slots, -torch.inf, dtype=queries.dtype), slots)
        there = slots != EMPTY
        values = values[slots].where(there, EMPTY)
        return cls((slots + first).where(there, EMPTY), score(queries, keys, slots), values)

    def of_all_shards(self, shards: int, pair: bool) -> "Candidates":
        """The best in each column of the pair, and the best of all the others, in the one order.

        Args:
            shards: whose candidates are the rows of this, one shard after the other.
            pair: whether there is one.
        """
        width = self.slots.shape[1]
        every = [part.view(shards, -1, width).transpose(0, 1) for part in self]
        groups = [slice(0, 1), slice(1, 2), slice(2, width)] if pair else [slice(0, width)]
        best = []
        for group in groups:
            some = Candidates(*(part[:, :, group].flatten(1) for part in every))
            places = order(some.scores, some.slots)[:, : some.slots.shape[1] // shards]
            best.append([part.gather(1, places) for part in some])
        return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*best, strict=True)))


def best_of_own(
    ranks: Ranks,
    work: Callable[[], Candidates],
    counts: list[int],
    layout: Layout,
    pair: bool,
) -> Candidates:
    """The best of all shards for the rows of this process.

    Args:
        ranks: the processes, each of which has a shard.
        work: finds what the rows of all processes have in this shard, one process after the other.
        counts: rows of each process.
        layout: of candidates.
        pair: whether they begin with one.
    """
    received = [counts[ranks.own]] * ranks.size
    words = ranks.exchange(lambda: layout.pack(*work()), counts, received, layout.words)
    return Candidates(*layout.unpack(words)).of_all_shards(ranks.size, pair)


def best_of_same(
    ranks: Ranks, work: Callable[[], Candidates], count: int, layout: Layout
) -> Candidates:
    """The best of all shards for so many rows that all processes have."""
    words = ranks.gather(lambda: layout.pack(*work()), count * layout.words)
    found = Candidates(*layout.unpack(words.reshape(-1, layout.words)))
    return found.of_all_shards(ranks.size, False)


def layout_of_candidates(keys: Float[Tensor, "slots key_dim"], width: int) -> Layout:
    """How so many candidates of a row travel."""
    of_scores = torch.promote_types(keys.dtype, torch.float32)
    shape = torch.Size([width])
    return Layout(tuple((dtype, shape) for dtype in (torch.int64, of_scores, torch.int64)))
