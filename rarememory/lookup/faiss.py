"""Faiss over the memory's own keys: `faiss.knn` reads the tensor, so there is no index to keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.lookup.base import Lookup
from rarememory.lookup.exact import order, score, tolerance
from rarememory.lookup.package import faiss_is_missing, faiss_package
from rarememory.lookup.torch import TorchLookup

# Neighbours fetched beyond k, so that near-equal scores at its edge can be told apart exactly.
_SLACK = 16


class FaissLookup(Lookup):
    """Exact search by Faiss on a CPU, in float32, on the tensor's own memory.

    After forgetting in the middle it copies the occupied keys for every search, until the holes
    are written again, as they are before any other slot. The nearest pair is found in plain torch.

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

    def nearest(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        occupied: Bool[Tensor, " slots"],
        k: int,
    ) -> Int64[Tensor, "batch found"]:
        stored, slots_of_stored = _without_holes(keys, occupied)
        fetched = min(k + _SLACK, len(stored))
        if fetched == 0:
            return queries.new_full((len(queries), 0), EMPTY, dtype=torch.int64)
        scores, found = _knn(queries, stored, fetched)
        slots = found if slots_of_stored is None else slots_of_stored[found]
        slots = slots.masked_fill(~queries.isfinite().all(1, keepdim=True), EMPTY)
        if fetched <= k:
            return slots
        return _cut(queries, keys, occupied, scores, slots, k)


def _without_holes(keys: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor | None]:
    """The keys of occupied slots and, unless those are the first ones, their slots."""
    count = int(occupied.sum())
    if bool(occupied[:count].all()):
        return keys[:count], None
    slots = occupied.nonzero().squeeze(1)
    return keys[slots], slots


def _cut(
    queries: Tensor, keys: Tensor, occupied: Tensor, scores: Tensor, slots: Tensor, k: int
) -> Tensor:
    """The k best of the fetched neighbours; where even those leave a doubt, the definition's."""
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
    """Let Faiss use its matrix product from `threshold` numbers on: its default is far too late."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = threshold
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
