"""Approximate search by Faiss's inverted file: keys in lists, of which a search scans a few."""

import math
from typing import Any

import torch
from torch import Tensor

from rarememory.base.shapes import Keys, Neighbors, Queries, SlotList
from rarememory.base.validation import check_count, check_not_negative
from rarememory.lookup.exact import order, score
from rarememory.lookup.indexed import IndexedLookup
from rarememory.lookup.package import faiss_is_missing, faiss_package

# Faiss warns if it trains a centroid on fewer keys.
_KEYS_PER_LIST = 39
# Neighbours fetched beyond k: exact scores decide between those that are nearly equal to the k-th.
_SLACK = 16


class FaissIVF(IndexedLookup):
    """Approximate search on a CPU: the lists of the `n_probe` centroids nearest to a query.

    For large memories and a k of at most about ten. The recall falls with k, and where keys form no
    clusters: measure it on your own keys (`python -m benchmarks.approximate`). "auto" never chooses
    this search; pass the object. With `n_probe >= n_lists` it finds what the exact search finds,
    except where more than 16 further scores equal the k-th.

    The lists hold a float32 copy of the keys of occupied slots, and a hash table of the slots, so
    that a write costs time in proportion to its batch. (`update_vectors` of Faiss would need slots
    0 ... n - 1, none of them ever removed.)

    Args:
        n_lists: centroids, at most one for 39 keys; if None, 4 sqrt(keys).
        n_probe: lists scanned for each query; more raise the recall and the time.
        rebuild_after: train again when more than this share of the slots changed since last time.
        exact_below: with fewer occupied slots than this the search is exact.

    Raises:
        ImportError: Faiss is not installed.
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from rarememory import Memory
        >>> from rarememory.lookup import FaissIVF
        >>> memory = Memory(key_dim=8, memory_size=2000, k=5, lookup=FaissIVF(n_probe=4))
        >>> write = memory.write(torch.randn(2000, 8), torch.arange(2000))
        >>> recall = memory(memory.keys[:3])
        >>> recall.prediction
        tensor([0, 1, 2])
    """

    name = "faiss ivf"

    def __init__(
        self,
        n_lists: int | None = None,
        n_probe: int = 8,
        *,
        rebuild_after: float = 0.5,
        exact_below: int = 512,
    ) -> None:
        if n_lists is not None:
            check_count("n_lists", n_lists)
        check_count("n_probe", n_probe)
        check_not_negative("rebuild_after", rebuild_after)
        check_not_negative("exact_below", exact_below)
        if reason := faiss_is_missing():
            raise ImportError(reason)
        self.n_lists = n_lists
        self.n_probe = n_probe
        self.rebuild_after = rebuild_after
        self.exact_below = exact_below

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        if keys.device.type != "cpu":
            return f"{self.name} searches on the cpu, and the keys are on {keys.device}"
        return faiss_is_missing()

    def build(self, keys: Keys, slots: SlotList) -> Any:
        faiss = faiss_package()
        lists = self.n_lists or int(4 * math.sqrt(len(slots)))
        lists = max(1, min(lists, len(slots) // _KEYS_PER_LIST))
        width = keys.shape[1]
        centroids = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(centroids, width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.spherical = True
        index.train(keys[slots].float().numpy())
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self.add(index, keys, slots)
        return index

    def add(self, index: Any, keys: Keys, slots: SlotList) -> None:
        index.add_with_ids(keys[slots].float().numpy(), slots.numpy())

    def remove(self, index: Any, slots: SlotList) -> None:
        index.remove_ids(slots.numpy())

    def search(self, index: Any, queries: Queries, keys: Keys, k: int) -> Neighbors:
        faiss = faiss_package()
        probes = faiss.SearchParametersIVF(nprobe=min(self.n_probe, index.nlist))
        fetched = min(k + _SLACK, index.ntotal)
        _, found = index.search(queries.float().numpy(), fetched, params=probes)
        slots = torch.from_numpy(found)
        return slots.gather(1, order(score(queries, keys, slots), slots))[:, :k]
