"""The rivals on a CPU: what one would write with other packages, each at its best.

Indexes are built, and keys rounded, before the clock runs. Who is not installed is refused then.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lookup.candidates import (
    PAIR_SLOTS,
    SORTED,
    UNSORTED,
    Answer,
    Call,
    Candidate,
    Refused,
)
from benchmarks.lookup.cells import Cell, Inputs
from benchmarks.lookup.clock import changed

KEYS_AT_ONCE = 2**16


def _topk_sorted(queries: Tensor, keys: Tensor, k: int) -> Answer:
    scores, slots = (queries @ keys.T).topk(min(k, len(keys)), dim=1)
    return slots, scores


def _bfloat16(inputs: Inputs, cell: Cell) -> Call:
    keys = inputs.bfloat16
    return lambda: best_of(inputs.queries.bfloat16() @ keys.T, cell.k)


def best_of(scores: Tensor, k: int) -> Answer:
    """torch.topk, slots first."""
    scores, slots = scores.topk(min(k, scores.shape[1]), dim=1, sorted=False)
    return slots, scores


def topk(
    queries: Tensor, keys: Tensor, k: int, product: Callable[[Tensor, Tensor], Tensor] = torch.mm
) -> Answer:
    """The best of all scores at once."""
    return best_of(product(queries, keys.T), k)


def chunked_topk(
    queries: Tensor, keys: Tensor, k: int, product: Callable[[Tensor, Tensor], Tensor] = torch.mm
) -> Answer:
    """65,536 keys at a time, the best so far merged with the best of each chunk."""
    slots, scores = best_of(product(queries, keys[:KEYS_AT_ONCE].T), k)
    for start in range(KEYS_AT_ONCE, len(keys), KEYS_AT_ONCE):
        new, new_scores = best_of(product(queries, keys[start : start + KEYS_AT_ONCE].T), k)
        slots, scores = torch.cat([slots, new + start], 1), torch.cat([scores, new_scores], 1)
        places, scores = best_of(scores, k)
        slots = slots.gather(1, places)
    return slots, scores


def _argpartition(inputs: Inputs, cell: Cell) -> Call:
    queries, keys = inputs.queries.numpy(), inputs.keys.numpy()
    if cell.k == 1:
        return lambda: ((queries @ keys.T).argmax(1)[:, None], None)
    if cell.k > cell.slots:
        raise Refused(f"numpy finds no {cell.k} neighbours among {cell.slots}")
    return lambda: (np.argpartition(queries @ keys.T, -cell.k, axis=1)[:, -cell.k :], None)


def _faiss_knn(blas_threshold: int | None) -> Callable[[Inputs, Cell], Call]:
    def prepare(inputs: Inputs, cell: Cell) -> Call:
        faiss = package("faiss")
        queries, keys = inputs.queries.numpy(), inputs.keys.numpy()

        def knn() -> Answer:
            scores, slots = faiss.knn(queries, keys, cell.k, metric=faiss.METRIC_INNER_PRODUCT)
            return slots, scores

        def with_blas() -> Answer:
            with changed(faiss.cvar, "distance_compute_blas_threshold", blas_threshold):
                return knn()

        return knn if blas_threshold is None else with_blas

    return prepare


def _faiss_index(inputs: Inputs, cell: Cell) -> Call:
    faiss = package("faiss")
    index = faiss.IndexFlatIP(cell.key_dim)
    index.add(inputs.keys.numpy())
    queries = inputs.queries.numpy()
    return lambda: index.search(queries, cell.k)[::-1]


def _sklearn(metric: str) -> Callable[[Inputs, Cell], Call]:
    def prepare(inputs: Inputs, cell: Cell) -> Call:
        package("sklearn")
        from sklearn.neighbors import NearestNeighbors

        if cell.k > cell.slots:
            raise Refused(f"scikit-learn finds no {cell.k} neighbours among {cell.slots}")
        index = NearestNeighbors(n_neighbors=cell.k, algorithm="brute", metric=metric)
        index.fit(inputs.keys.numpy())
        queries = inputs.queries.numpy()
        return lambda: (index.kneighbors(queries, return_distance=True)[1], None)

    return prepare


def _usearch(inputs: Inputs, cell: Cell) -> Call:
    package("usearch")
    index = import_module("usearch.index")
    queries, keys = inputs.queries.numpy(), inputs.keys.numpy()

    def exact() -> Answer:
        found = index.search(keys, queries, cell.k, index.MetricKind.IP, exact=True)
        return found.keys.reshape(cell.batch, -1).astype(np.int64), None

    return exact


def package(name: str) -> Any:
    """The package; a rival without it takes no part."""
    if find_spec(name) is None:
        raise Refused(f"{name} is not installed")
    # After torch, so that it and Faiss share one OpenMP runtime.
    return import_module(name)


def matmul(inputs: Inputs, cell: Cell) -> Call:
    """The bare product of the nearest pair's scores, without an answer."""
    return lambda: (inputs.queries @ inputs.keys.T, None)


def masked_max(inputs: Inputs, cell: Cell) -> Call:
    """The nearest pair as one writes it: two masks, two maxima."""

    def pair() -> Answer:
        scores = inputs.queries @ inputs.keys.T
        same = inputs.values == inputs.labels.unsqueeze(1)
        positive, positives = scores.masked_fill(~same, -torch.inf).max(1)
        negatives = scores.masked_fill_(same, -torch.inf).argmax(1)
        return positives.masked_fill_(positive == -torch.inf, -1), negatives

    return pair


PAIR = [
    Candidate("torch.matmul", "torch", "a matrix, and no slots", matmul, product=True),
    Candidate("torch.masked_max", "torch", PAIR_SLOTS, masked_max),
]


def _torch(search: Callable[[Tensor, Tensor, int], Answer]) -> Callable[[Inputs, Cell], Call]:
    return lambda inputs, cell: lambda: search(inputs.queries, inputs.keys, cell.k)


NEAREST = [
    Candidate("torch.topk", "torch", UNSORTED, _torch(topk)),
    Candidate("torch.topk.sorted", "torch", SORTED, _torch(_topk_sorted), in_order=True),
    Candidate("torch.chunked", "torch", UNSORTED, _torch(chunked_topk)),
    Candidate("numpy", "numpy", "k slots, unsorted", _argpartition),
    Candidate("faiss.knn", "faiss", SORTED, _faiss_knn(None), in_order=True),
    Candidate("faiss.blas", "faiss", SORTED, _faiss_knn(1), in_order=True),
    Candidate("faiss.index", "faiss", SORTED, _faiss_index, in_order=True),
    *(
        Candidate(f"sklearn.{metric}", "sklearn", "k sorted slots and distances", _sklearn(metric))
        for metric in ("cosine", "euclidean")
    ),
    Candidate("usearch", "usearch", "k sorted slots and distances", _usearch),
    Candidate("torch.bfloat16", "bfloat16", UNSORTED, _bfloat16, exact=False, reads="bfloat16"),
]
"""Faiss with its threshold at 1 always multiplies matrices; as it comes it does so far too late."""
