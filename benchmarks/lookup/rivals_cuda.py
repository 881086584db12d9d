"""The rivals on a GPU: torch in every precision, whole and in chunks; Faiss and cuVS.

Keys are rounded before the clock runs, queries while it does.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.lookup.candidates import SORTED, UNSORTED, Answer, Call, Candidate, Refused
from benchmarks.lookup.cells import Cell, Inputs
from benchmarks.lookup.clock import changed
from benchmarks.lookup.rivals import PAIR as PAIR
from benchmarks.lookup.rivals import chunked_topk, package, topk

Search = Callable[[Tensor, Tensor, int], Answer]


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
        precision = "tf32" if dtype == "tf32" else "ieee"
        with changed(torch.backends.cuda.matmul, "fp32_precision", precision):
            return call()

    return in_precision


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
    forms: dict[str, Callable[..., Answer]] = {"topk": topk, "chunked": chunked_topk}
    widened: dict[str, Search] = {
        f"{form}_float32": partial(search, product=_product_in_float32)
        for form, search in forms.items()
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
