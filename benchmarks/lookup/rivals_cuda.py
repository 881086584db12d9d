"""The rivals on a GPU: torch in every precision, whole and in chunks; Faiss and cuVS.

Keys are rounded before the clock runs, queries while it does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.lookup.candidates import Answer, Call, Candidate, Refused
from benchmarks.lookup.cells import Cell, Inputs
from benchmarks.lookup.rivals import PAIR as PAIR
from benchmarks.lookup.rivals import SORTED, UNSORTED, best_of, chunked_topk, package

Search = Callable[[Tensor, Tensor, int], Answer]


def _whole(queries: Tensor, keys: Tensor, k: int) -> Answer:
    return best_of(queries @ keys.T, k)


def _whole_in_float32(queries: Tensor, keys: Tensor, k: int) -> Answer:
    return best_of(_product_in_float32(queries, keys.T), k)


def _chunked_in_float32(queries: Tensor, keys: Tensor, k: int) -> Answer:
    return chunked_topk(queries, keys, k, _product_in_float32)


def _product_in_float32(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.mm(queries, keys, out_dtype=torch.float32)


def _torch(dtype: str, search: Search, compiled: bool, inputs: Inputs, cell: Cell) -> Call:
    half = {"float16": "half_keys", "bfloat16": "bfloat16"}
    keys: Tensor = getattr(inputs, half.get(dtype, "keys"))
    searching = torch.compile(search, dynamic=True) if compiled else search

    def call() -> Answer:
        return searching(inputs.queries.to(keys.dtype), keys, cell.k)

    if keys.dtype != torch.float32:
        return call

    def in_precision() -> Answer:
        with _precision("tf32" if dtype == "tf32" else "ieee"):
            return call()

    return in_precision


@contextmanager
def _precision(name: str) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, name
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _faiss(inputs: Inputs, cell: Cell) -> Call:
    faiss = package("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        raise Refused("the faiss installed here has no GPU search")
    # It makes Faiss take tensors.
    import_module("faiss.contrib.torch_utils")

    resources = faiss.StandardGpuResources()
    resources.setDefaultNullStreamAllDevices()

    def knn() -> Answer:
        scores, slots = faiss.knn_gpu(
            resources, inputs.queries, inputs.keys, cell.k, metric=faiss.METRIC_INNER_PRODUCT
        )
        return slots, scores

    return knn


def _cuvs(inputs: Inputs, cell: Cell) -> Call:
    package("cuvs")
    brute_force = import_module("cuvs.neighbors.brute_force")

    index = brute_force.build(inputs.keys, metric="inner_product")

    def search() -> Answer:
        scores, slots = brute_force.search(index, inputs.queries, cell.k)
        return torch.as_tensor(slots, device="cuda"), torch.as_tensor(scores, device="cuda")

    return search


def _of_torch() -> Iterator[Candidate]:
    forms: dict[str, Search] = {"topk": _whole, "chunked": chunked_topk}
    widened: dict[str, Search] = {
        "topk_float32": _whole_in_float32,
        "chunked_float32": _chunked_in_float32,
    }
    for dtype in ("float16", "bfloat16", "tf32", "float32"):
        rounded = dtype in ("float16", "bfloat16")
        for form, search in {**forms, **(widened if rounded else {})}.items():
            # A chunked search would be compiled with its loop unrolled, for minutes.
            for compiled in (False, True) if form == "topk" else (False,):
                yield Candidate(
                    f"torch.{dtype}.{form}{'.compiled' if compiled else ''}",
                    "torch",
                    UNSORTED,
                    partial(_torch, dtype, search, compiled),
                    exact=dtype == "float32",
                    reads=dtype,
                )


NEAREST = [
    *_of_torch(),
    Candidate("faiss.gpu", "faiss", SORTED, _faiss, in_order=True),
    Candidate("cuvs.gpu", "cuvs", SORTED, _cuvs, in_order=True),
]
