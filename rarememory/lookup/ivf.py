"""Faiss's inverted file: keys in lists around centroids, of which a search scans only a few."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.validation import check_count, check_not_negative
from rarememory.lookup.exact import order, score
from rarememory.lookup.indexed import IndexedLookup
from rarememory.lookup.package import faiss_is_missing, faiss_package

# Faiss wants as many keys a centroid to train on, and warns if there are fewer.
_KEYS_PER_LIST = 39
# Neighbours fetched beyond k, so that near-equal scores at its edge can be told apart exactly.
_SLACK = 16


class FaissIVF(IndexedLookup):
    """Approximate search on a CPU: the lists of the `n_probe` centroids nearest to a query.

    Made for large memories and a k of at most about ten; measure the recall on keys of your own
    (`python -m benchmarks.approximate`), for it falls with k and where keys do not cluster. Passed
    as an object, it is never chosen by "auto". With `n_probe >= n_lists` it finds what the exact
    search finds, save for more than 16 equal scores at the edge of the k.

    Faiss can change keys of an inverted file in place (`update_vectors`) only if the slots in it
    are 0 ... n - 1 and none is ever removed. So here it keeps a hash table of slots, from which
    keys are removed and added at the cost of the batch, and empty slots are not in the lists, which
    hold a copy of the others' keys in float32.

    Args:
        n_lists: centroids, at most one for 39 keys; four times the root of their number if None.
        n_probe: lists scanned for each query; more find more, and take longer.
        rebuild_after: train anew when more than this share of the slots changed since last time.
        exact_below: with fewer occupied slots than this the search is exact.

    Raises:
        ImportError: Faiss is not installed.
        ValueError: the number that was wrong and the choice that is right.

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

    def build(self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, " stored"]) -> Any:
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

    def add(
        self,
        index: Any,
        keys: Float[Tensor, "slots key_dim"],
        slots: Int64[Tensor, " stored"],
    ) -> None:
        index.add_with_ids(keys[slots].float().numpy(), slots.numpy())

    def remove(self, index: Any, slots: Int64[Tensor, " stored"]) -> None:
        index.remove_ids(slots.numpy())

    def search(
        self,
        index: Any,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        k: int,
    ) -> Int64[Tensor, "batch found"]:
        faiss = faiss_package()
        probes = faiss.SearchParametersIVF(nprobe=min(self.n_probe, index.nlist))
        fetched = min(k + _SLACK, index.ntotal)
        _, found = index.search(queries.float().numpy(), fetched, params=probes)
        slots = torch.from_numpy(found)
        return slots.gather(1, order(score(queries, keys, slots), slots))[:, :k]
