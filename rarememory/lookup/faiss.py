"""Exact search by `faiss.knn`, which reads the keys where they are: there is no index to keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rarememory.base.shapes import Keys, Neighbors, Occupied, Queries
from rarememory.base.state import EMPTY
from rarememory.lookup.base import Lookup
from rarememory.lookup.exact import order, score, tolerance
from rarememory.lookup.package import faiss_is_missing, faiss_package
from rarememory.lookup.torch import TorchLookup

# Neighbours fetched beyond k: exact scores decide between those that are nearly equal to the k-th.
_SLACK = 16


class FaissLookup(Lookup):
    """Exact search by Faiss on a CPU, in float32, without a copy of the keys.

    While an empty slot lies before an occupied one, as after forgetting, every search copies the
    occupied keys. The memory fills such slots first. The nearest pair is found by torch.

    Raises:
        ImportError: Faiss is not installed.

    Example:
        >>> keys, occupied = torch.eye(3), torch.tensor([True, True, False])
        >>> FaissLookup().nearest(torch.tensor([[0.0, 0.6, 0.8]]), keys, occupied, k=1)
        tensor([[1]])
        >>> FaissLookup().why_not(keys.half(), keys.half(), k=1)
        'faiss searches float32 keys, and these are torch.float16'
    """

    name = "faiss"

    def __init__(self) -> None:
        if reason := faiss_is_missing():
            raise ImportError(reason)

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        if keys.device.type != "cpu":
            return f"faiss searches on the cpu, and the keys are on {keys.device}"
        if keys.dtype != torch.float32:
            return f"faiss searches float32 keys, and these are {keys.dtype}"
        return faiss_is_missing()

    def nearest(self, queries: Queries, keys: Keys, occupied: Occupied, k: int) -> Neighbors:
        stored, slots_of_stored = _without_holes(keys, occupied)
        fetched = min(k + _SLACK, len(stored))
        if fetched == 0:
            return queries.new_full((len(queries), 0), EMPTY, dtype=torch.int64)
        scores, found = _knn(queries, stored, fetched)
        slots = found if slots_of_stored is None else slots_of_stored[found]
        slots = slots.masked_fill(~queries.isfinite().all(1, keepdim=True), EMPTY)
        if fetched <= k:
            return slots
        return _k_best(queries, keys, occupied, scores, slots, k)


def _without_holes(keys: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor | None]:
    """The keys of the occupied slots, and these slots, or None if they are 0, 1, 2, ..."""
    count = int(occupied.sum())
    if bool(occupied[:count].all()):
        return keys[:count], None
    slots = occupied.nonzero().squeeze(1)
    return keys[slots], slots


def _k_best(
    queries: Tensor, keys: Tensor, occupied: Tensor, scores: Tensor, slots: Tensor, k: int
) -> Tensor:
    """The k best of the fetched neighbours, by exact scores where rounding could decide.

    Where all fetched neighbours are nearly equal to the k-th, `TorchLookup` searches again.
    """
    last = scores[:, k - 1] - tolerance(keys)
    chosen = slots[:, :k].clone()
    unsure = scores[:, k] >= last
    if unsure.any():
        exact = score(queries[unsure], keys, slots[unsure])
        chosen[unsure] = slots[unsure].gather(1, order(exact, slots[unsure])[:, :k])
    if slots.shape[1] < int(occupied.sum()):
        unsure = scores[:, -1] >= last
        if unsure.any():
            chosen[unsure] = TorchLookup().nearest(queries[unsure], keys, occupied, k)
    return chosen


def _knn(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    faiss = faiss_package()
    with _blas_from(faiss, 800 * torch.get_num_threads()):
        scores, slots = faiss.knn(
            queries.contiguous().numpy(), keys.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT
        )
    return torch.from_numpy(scores), torch.from_numpy(slots)


@contextmanager
def _blas_from(faiss: Any, threshold: int) -> Iterator[None]:
    """Make Faiss use BLAS from `threshold` numbers on; its default is far too high."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = threshold
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
