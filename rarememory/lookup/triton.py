"""Both searches in Triton: one pass over the keys, exact, and the host never waits for the GPU."""

import importlib.util
import sys
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

from rarememory.base.shapes import Among
from rarememory.lookup.base import Lookup, with_their_marks
from rarememory.lookup.triton_plan import (
    BLOCK_CANDIDATES,
    H200,
    MOST_NEIGHBOURS,
    WORKSPACE,
    Chip,
    Plan,
    make_plan,
    power_of_two,
)

_NOT_INSTALLED = 'triton is not installed; run: pip install "rarememory[triton]"'
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TritonLookup(Lookup):
    """Exact search on a GPU, which never stores a [batch, slots] matrix.

    One pass reads the keys, or a float16 copy of them, with rounded scores (float32 as tf32). All
    slots within rounding of the best are scored again in float64, in one order of summation: equal
    keys get equal scores, and the lower slot is found. Where these are more than the lists hold, a
    slower kernel scores all of them, without a decision of the host.

    `interpret` is for tests: it searches tensors on the CPU in Triton's interpreter. Set
    TRITON_INTERPRET=1 before triton is imported.

    Raises:
        ImportError: Triton is not installed.

    Example:
        >>> keys = torch.eye(3)
        >>> TritonLookup().why_not(keys, keys, k=1)
        'triton searches on a gpu, and the keys are on cpu'
    """

    name = "triton"
    reads_half_keys = True
    reads_among = True

    def __init__(self, *, interpret: bool = False) -> None:
        if not _installed():
            raise ImportError(_NOT_INSTALLED)
        self.interpret = interpret

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        # First, because it is the quickest check.
        if not (keys.is_cuda or self.interpret):
            # To make a text of a device takes as long as the rest.
            place = "cpu" if keys.is_cpu else keys.device
            return f"triton searches on a gpu, and the keys are on {place}"
        if not _installed():
            return _NOT_INSTALLED
        if keys.dtype not in _DTYPES:
            return f"triton searches float32, float16 or bfloat16 keys, and these are {keys.dtype}"
        if min(k, len(keys)) > MOST_NEIGHBOURS:
            return f"triton finds at most {MOST_NEIGHBOURS} neighbours, and k is {k}"
        if not keys.is_contiguous():
            return f"triton searches contiguous keys, and these have strides {keys.stride()}"
        return None

    def nearest(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        occupied: Bool[Tensor, " slots"],
        k: int,
        *,
        half_keys: Float16[Tensor, "slots key_dim"] | None = None,
        among: Among | None = None,
    ) -> Int64[Tensor, "batch found"]:
        """As `Lookup.nearest`; a float16 copy of the keys, if given, is streamed in their place.

        With `among` the keys of other slots are not read.
        """
        k = min(k, len(keys))
        queries = queries.contiguous()
        marks = (occupied if among is None else among).contiguous()
        plan = _plan(queries, keys, half_keys, k)
        search = partial(_first if k == 1 else _top, plan, keys, half_keys, few=among is not None)
        at_once = _rows_at_once(plan)
        parts = [
            search(some, some_marks)
            for some, some_marks in with_their_marks(queries, marks, at_once)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def nearest_pair(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        values: Int64[Tensor, " slots"],
        labels: Int64[Tensor, " batch"],
        *,
        half_keys: Float16[Tensor, "slots key_dim"] | None = None,
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """As `Lookup.nearest_pair`; a float16 copy of the keys is streamed in their place."""
        queries, values, labels = queries.contiguous(), values.contiguous(), labels.contiguous()
        plan = _plan(queries, keys, half_keys, 1, pair=True)
        at_once = _rows_at_once(plan)
        parts = [
            _first(plan, keys, half_keys, some, values, labels_of_some)
            for some, labels_of_some in zip(
                queries.split(at_once), labels.split(at_once), strict=True
            )
        ]
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        return found[:, 0], found[:, 1]


def _installed() -> bool:
    # Checked at every search: a memory may be unpickled where there is no Triton.
    return sys.modules.get("triton") is not None or importlib.util.find_spec("triton") is not None


def _plan(
    queries: Tensor, keys: Tensor, half_keys: Tensor | None, k: int, pair: bool = False
) -> Plan:
    assert keys.is_contiguous() and (half_keys is None or half_keys.is_contiguous())
    return make_plan(
        batch=len(queries),
        slots=len(keys),
        key_dim=keys.shape[1],
        k=k,
        streamed=keys.dtype if half_keys is None else half_keys.dtype,
        pair=pair,
        chip=_chip(keys.device),
    )


@cache
def _chip(device: torch.device) -> Chip:
    if device.type != "cuda":
        return H200._replace(processors=1)
    chip = torch.cuda.get_device_properties(device)
    return Chip(chip.multi_processor_count, chip.major)


def _rows_at_once(plan: Plan) -> int:
    return max(1, WORKSPACE // (2 * plan.bins))


def _first(
    plan: Plan,
    keys: Tensor,
    half_keys: Tensor | None,
    queries: Tensor,
    marks: Tensor,
    labels: Tensor | None = None,
    few: bool = False,
) -> Tensor:
    """The nearest slot of every query, [rows, 1]; with labels the nearest pair, [rows, 2]."""
    from rarememory.lookup.triton_kernels import best_of_bins

    planes = 1 if labels is None else 2
    found = torch.empty(len(queries), planes, dtype=torch.int64, device=keys.device)
    maxima = _maxima(plan, keys, half_keys, queries, marks, labels, few)
    _launch(
        best_of_bins,
        (len(queries), planes),
        queries,
        keys,
        marks,
        marks if labels is None else labels,
        maxima,
        torch.empty_like(maxima, dtype=torch.int32),
        found,
        len(queries),
        len(keys),
        plan.bins,
        plan.tiles,
        _stride(marks),
        plan.window,
        KEY_DIM=keys.shape[1],
        PAIR=labels is not None,
        BLOCK_BINS=plan.block_bins,
        BLOCK_CANDIDATES=BLOCK_CANDIDATES,
        BLOCK_DIMS=_dims(keys),
        num_warps=plan.row_warps,
    )
    return found


def _top(
    plan: Plan,
    keys: Tensor,
    half_keys: Tensor | None,
    queries: Tensor,
    marks: Tensor,
    few: bool = False,
) -> Tensor:
    """The k nearest slots of every query, [rows, k], k > 1."""
    from rarememory.lookup import triton_topk

    rows = len(queries)
    maxima = _maxima(plan, keys, half_keys, queries, marks, None, few)
    new = partial(torch.empty, dtype=torch.int32, device=keys.device)
    # A list of no elements would have no address.
    singles, wholes = new(rows, max(1, plan.singles)), new(rows, plan.wholes)
    counts, floors = new(rows, 2), new(rows, dtype=torch.float32)
    candidates = new(rows, plan.capacity, dtype=torch.int64)
    layout = (
        *(len(keys), plan.bins, plan.tiles, _stride(marks)),
        *(plan.singles, plan.wholes, plan.capacity),
    )
    of_keys = {"KEY_DIM": keys.shape[1], "BLOCK_DIMS": _dims(keys)}
    _launch(
        triton_topk.choose_candidates,
        (rows,),
        *(maxima, singles, wholes, counts, floors),
        *(rows, plan.bins, plan.window, plan.k, plan.low_bits, plan.singles, plan.wholes),
        SECOND=plan.second,
        ALL_BINS=power_of_two(plan.bins),
        BLOCK_BINS=plan.block_bins,
        num_warps=plan.row_warps,
    )
    _launch(
        triton_topk.score_candidates,
        (rows, -(-plan.capacity // BLOCK_CANDIDATES)),
        *(queries, keys, marks, singles, wholes, counts, candidates),
        *layout,
        BLOCK_CANDIDATES=BLOCK_CANDIDATES,
        **of_keys,
        num_warps=4,
    )
    if plan.may_overflow:
        _launch(
            triton_topk.rescore,
            (rows, plan.parts),
            *(queries, keys, marks, maxima, counts, floors, candidates),
            *layout,
            BLOCK_K=plan.block_k,
            KEY_DIM=keys.shape[1],
            BLOCK_DIMS=min(_dims(keys), 2**13 // plan.block_k),
            num_warps=8,
        )
    best = candidates.topk(plan.k, dim=1, sorted=False).values
    # The low half holds 2^32 - 2 - slot.
    return (2**32 - 2) - (best & (2**32 - 1))


def _maxima(
    plan: Plan,
    keys: Tensor,
    half_keys: Tensor | None,
    queries: Tensor,
    marks: Tensor,
    labels: Tensor | None,
    few: bool,
) -> Tensor:
    from rarememory.lookup.triton_kernels import bin_maxima

    rows, tile = len(queries), plan.tile
    planes = 1 if labels is None and not plan.second else 2
    maxima = torch.empty(planes, rows, plan.bins, dtype=torch.float32, device=keys.device)
    _launch(
        bin_maxima,
        (-(-rows // tile.rows), plan.bins // tile.slots),
        *(queries, keys if half_keys is None else half_keys),
        *(marks, marks if labels is None else labels, maxima),
        *(rows, len(keys), plan.bins, plan.tiles, plan.low_bits),
        KEY_DIM=keys.shape[1],
        PAIR=labels is not None,
        SECOND=plan.second,
        FEW=few,
        EACH=marks.dim() == 2,
        BLOCK_ROWS=tile.rows,
        BLOCK_SLOTS=tile.slots,
        BLOCK_DIMS=tile.dims,
        # What is marked takes registers too: twice as many threads have them.
        num_warps=2 * tile.warps if few else tile.warps,
        num_stages=tile.stages,
    )
    return maxima


def _stride(marks: Tensor) -> int:
    """From the marks of one query to those of the next; 0 where they share them."""
    return marks.shape[1] if marks.dim() == 2 else 0


def _dims(keys: Tensor) -> int:
    return min(128, power_of_two(keys.shape[1]))


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run the kernel on the device of its first tensor. Every kernel is launched here."""
    if all(grid):
        with torch.cuda.device_of(arguments[0]):
            # Every product is rounded before it is added, as torch does.
            kernel[grid](*arguments, **options, enable_fp_fusion=False)
