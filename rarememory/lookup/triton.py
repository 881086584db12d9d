"""Both searches in Triton: one pass over the keys, exact, and the host never waits for the GPU."""

import importlib.util
import sys
from functools import cache, lru_cache, partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

from rarememory.base.shapes import Among
from rarememory.lookup.base import Lookup
from rarememory.lookup.triton_launch import launch
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
        marks = (occupied if among is None else among).contiguous()
        found = Found.empty(len(queries), min(k, len(keys)), keys)
        self._search(queries, keys, marks, found, half_keys, few=among is not None)
        return found.slots

    def read(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        values: Int64[Tensor, " slots"],
        k: int,
        *,
        half_keys: Float16[Tensor, "slots key_dim"] | None = None,
    ) -> "Found":
        """The k nearest occupied slots in order, with their scores and values."""
        found = Found.empty(len(queries), min(k, len(keys)), keys, values)
        self._search(queries, keys, values.contiguous(), found, half_keys)
        return found

    def _search(
        self,
        queries: Tensor,
        keys: Tensor,
        marks: Tensor,
        found: "Found",
        half_keys: Tensor | None,
        few: bool = False,
    ) -> None:
        queries = queries.contiguous()
        k = found.slots.shape[1]
        plan = _plan(queries, keys, half_keys, k, few=few)
        search = _first if k == 1 else _top
        for rows in _parts(len(queries), plan):
            of_rows = marks[rows] if marks.dim() == 2 else marks
            given = (plan, keys, half_keys, queries[rows], of_rows)
            search(*given, found=found.some(rows), few=few)

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
        found = self.scored_pair(queries, keys, values, labels, half_keys=half_keys)
        return found.slots[:, 0], found.slots[:, 1]

    def scored_pair(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        values: Int64[Tensor, " slots"],
        labels: Int64[Tensor, " batch"],
        *,
        half_keys: Float16[Tensor, "slots key_dim"] | None = None,
    ) -> "Found":
        """The slots of `nearest_pair`, the positive one first, and their scores."""
        queries, values, labels = queries.contiguous(), values.contiguous(), labels.contiguous()
        found = Found.empty(len(queries), 2, keys)
        plan = _plan(queries, keys, half_keys, 1, pair=True)
        for rows in _parts(len(queries), plan):
            given = (plan, keys, half_keys, queries[rows], values)
            _first(*given, found=found.some(rows), labels=labels[rows])
        return found


class Found(NamedTuple):
    """What a search writes: slots, [rows, k], with their scores and, if it reads them, values."""

    slots: Tensor
    scores: Tensor
    values: Tensor | None
    of_slots: Tensor | None

    @classmethod
    def empty(cls, rows: int, k: int, keys: Tensor, of_slots: Tensor | None = None) -> "Found":
        """Room for the k nearest of so many rows; also for their values, if those are given."""
        slots = torch.empty(rows, k, dtype=torch.int64, device=keys.device)
        scores = torch.empty(rows, k, dtype=torch.float32, device=keys.device)
        return cls(slots, scores, None if of_slots is None else torch.empty_like(slots), of_slots)

    def some(self, rows: slice) -> "Found":
        """These rows alone."""
        values = None if self.values is None else self.values[rows]
        return self._replace(slots=self.slots[rows], scores=self.scores[rows], values=values)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, for a kernel, which needs an address in the place of what is not there."""
        values = self.slots if self.values is None else self.values
        of_slots = self.slots if self.of_slots is None else self.of_slots
        return self.slots, self.scores, values, of_slots


def _installed() -> bool:
    # Checked at every search: a memory may be unpickled where there is no Triton.
    return sys.modules.get("triton") is not None or importlib.util.find_spec("triton") is not None


def _plan(
    queries: Tensor,
    keys: Tensor,
    half_keys: Tensor | None,
    k: int,
    pair: bool = False,
    few: bool = False,
) -> Plan:
    assert keys.is_contiguous() and (half_keys is None or half_keys.is_contiguous())
    streamed = keys.dtype if half_keys is None else half_keys.dtype
    chip = _chip(keys.device)
    return _planned(len(queries), *keys.shape, k, streamed, pair=pair, few=few, chip=chip)


_planned = lru_cache(1024)(make_plan)


@cache
def _chip(device: torch.device) -> Chip:
    if device.type != "cuda":
        return H200._replace(processors=1)
    chip = torch.cuda.get_device_properties(device)
    return Chip(chip.multi_processor_count, chip.major)


def _parts(rows: int, plan: Plan) -> list[slice]:
    """The rows that are searched together."""
    at_once = max(1, WORKSPACE // (2 * plan.bins))
    return [slice(first, first + at_once) for first in range(0, rows, at_once)]


def _first(
    plan: Plan,
    keys: Tensor,
    half_keys: Tensor | None,
    queries: Tensor,
    marks: Tensor,
    *,
    found: Found,
    labels: Tensor | None = None,
    few: bool = False,
) -> None:
    """The nearest slot of every query, [rows, 1]; with labels the nearest pair, [rows, 2]."""
    from rarememory.lookup.triton_kernels import best_of_bins

    maxima = _maxima(plan, keys, half_keys, queries, marks, labels, few)
    launch(
        best_of_bins,
        found.slots.shape,
        queries,
        keys,
        marks,
        marks if labels is None else labels,
        maxima,
        torch.empty_like(maxima, dtype=torch.int32),
        *found.parts,
        len(queries),
        len(keys),
        plan.bins,
        plan.tiles,
        _stride(marks),
        plan.window,
        KEY_DIM=keys.shape[1],
        PAIR=labels is not None,
        READ=found.values is not None,
        BLOCK_BINS=min(2**12, power_of_two(plan.bins)),
        BLOCK_CANDIDATES=2 * BLOCK_CANDIDATES,
        BLOCK_DIMS=_dims(keys),
        num_warps=8,
    )


def _top(
    plan: Plan,
    keys: Tensor,
    half_keys: Tensor | None,
    queries: Tensor,
    marks: Tensor,
    *,
    found: Found,
    few: bool = False,
) -> None:
    """The k nearest slots of every query, [rows, k], k > 1, best first."""
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
    programs = plan.programs(rows, _chip(keys.device).processors)
    of_keys = {"KEY_DIM": keys.shape[1], "BLOCK_DIMS": _dims(keys)}
    launch(
        triton_topk.choose_candidates,
        (rows,),
        *(maxima, singles, wholes, counts, floors),
        *(rows, plan.bins, plan.window, plan.k, plan.low_bits, plan.singles, plan.wholes),
        SECOND=plan.second,
        ALL_BINS=power_of_two(plan.bins),
        BLOCK_BINS=plan.block_bins,
        GROUPS=plan.groups,
        num_warps=plan.row_warps,
    )
    launch(
        triton_topk.score_candidates,
        (rows, programs),
        *(queries, keys, marks, singles, wholes, counts, candidates),
        *layout,
        BLOCK_CANDIDATES=BLOCK_CANDIDATES,
        **of_keys,
        num_warps=4,
    )
    if plan.may_overflow:
        launch(
            triton_topk.rescore,
            (rows, plan.parts),
            *(queries, keys, marks, maxima, counts, floors, candidates),
            *layout,
            BLOCK_K=plan.block_k,
            KEY_DIM=keys.shape[1],
            BLOCK_DIMS=min(_dims(keys), 2**13 // plan.block_k),
            num_warps=8,
        )
    launch(
        triton_topk.sort_candidates,
        (rows, programs),
        *(candidates, counts, *found.parts),
        *(plan.tiles, plan.singles, plan.wholes, plan.parts * plan.block_k, plan.capacity, plan.k),
        READ=found.values is not None,
        BLOCK_CANDIDATES=BLOCK_CANDIDATES,
        OTHERS=4 * BLOCK_CANDIDATES,
        num_warps=4,
    )


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
    launch(
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
        SLOTS_FIRST=tile.slots_first,
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
