"""The best tiles and bins of the triton lookup on this GPU, by trying them.

It replaces the two functions of the lookup's plan that choose them, cell by cell, and prints the
best choices. What was tried is stored in runs/, from which the same command resumes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.lookup.cache import CellCache
from benchmarks.lookup.candidates import Candidate, Refused, ours
from benchmarks.lookup.cells import MILLION, Cell, Inputs, make_inputs
from benchmarks.lookup.clock import CudaClock
from benchmarks.runner import Run

PLAN = "rarememory.lookup.triton_plan"
ROWS, SLOTS, WARPS, STAGES = (16, 32, 64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)
BINS = tuple(2**power for power in range(11, 16))
CELLS = [
    *(Cell(batch, MILLION, 128, 0) for batch in (16, 256)),
    *(Cell(16, MILLION, 128, k) for k in (1, 8, 256)),
    *(Cell(256, MILLION, 128, k) for k in (1, 8, 256)),
    Cell(4096, MILLION, 128, 256),
]
Try = Callable[[], float]


def sweep(run: Run) -> None:
    """Sweep, print the best of every cell, write runs/lookup_tune.json.

    Raises:
        RuntimeError: there are no tiles to sweep.
    """
    options = run.options
    if options.device != "cuda":
        raise RuntimeError("--tune needs a gpu: there are no tiles to choose on the cpu")
    try:
        plan = import_module(PLAN)
        _ = plan.Tile, plan._tile, plan._bins_wanted
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"the triton lookup has no tiles to sweep: not run ({error})") from None
    cache = CellCache(Path(options.runs), "tune", results.device(), torch.__version__)
    best = {}
    for cell in CELLS:
        found = _swept(
            cell, plan, cache, lambda: bool(options.minutes) and run.seconds > 60 * options.minutes
        )
        best[cell.name] = sorted(found.items(), key=lambda one: one[1])[:5]
        for name, seconds in best[cell.name]:
            print(f"{cell.name:20} {1e6 * seconds:10.1f} us  {name}")
    figures = {
        f"lookup.gpu.tune.{name}.microseconds": 1e6 * tried[0][1]
        for name, tried in best.items()
        if tried
    }
    run.published = False
    run.write("lookup_tune", figures, best=best)


def _swept(cell: Cell, plan: Any, cache: CellCache, late: Callable[[], bool]) -> dict[str, float]:
    """Seconds by choice: the tiles first, then the bins with the best of those."""
    tried: dict[str, float] = cache.get(cell.name) or {}
    if late():
        return _timed_only(tried)
    given = make_inputs(cell, 0, "cuda")
    default = plan._tile(cell.batch, cell.key_dim, torch.float16)
    for tile in tqdm(_tiles(cell, plan.Tile, default), desc=cell.name, unit="tile"):
        _try(tried, f"{tile}", partial(_seconds, cell, given, plan, tile, None), late)
        cache.put(cell.name, tried)
    done = _timed_only(tried)
    if done:
        fastest = min(done, key=lambda name: done[name])
        tiles = {f"{tile}": tile for tile in _tiles(cell, plan.Tile, default)}
        for bins in BINS:
            name = f"{fastest.partition(' with ')[0]} with {bins} bins"
            tile = tiles[name.partition(" with ")[0]]
            _try(tried, name, partial(_seconds, cell, given, plan, tile, bins), late)
            cache.put(cell.name, tried)
    return _timed_only(tried)


def _timed_only(tried: dict[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in tried.items() if seconds > 0}


def _try(tried: dict[str, float], name: str, time_it: Try, late: Callable[[], bool]) -> None:
    if name in tried or late():
        return
    try:
        tried[name] = time_it()
    except (RuntimeError, ValueError, Refused) as error:
        # Too many registers, or too much shared memory; 0 stands for no time at all.
        tqdm.write(f"{name}: {str(error).partition(chr(10))[0]}")
        tried[name] = 0.0


def _tiles(cell: Cell, tile: Any, default: Any) -> Iterator[Any]:
    """The present one, then others that are not much wider than the batch."""
    yield default
    for rows in ROWS:
        if rows > max(16, 2 ** math.ceil(math.log2(cell.batch))):
            continue
        for slots in SLOTS:
            for warps in WARPS:
                for stages in STAGES:
                    one = default._replace(rows=rows, slots=slots, warps=warps, stages=stages)
                    if one != default:
                        yield one


def _seconds(cell: Cell, given: Inputs, plan: Any, tile: Any, bins: int | None) -> float:
    with _chosen(plan, tile, bins):
        call = _triton(cell).prepare(given, cell)
        return min(CudaClock().measure(call, "events"))


@contextmanager
def _chosen(plan: Any, tile: Any, bins: int | None) -> Iterator[None]:
    """The plan with this tile and so many bins, whatever the search."""
    wanted = plan._bins_wanted if bins is None else lambda k: bins
    _forget_plans()
    with (
        patch.object(plan, "_tile", lambda *asked: tile),
        patch.object(plan, "_bins_wanted", wanted),
    ):
        yield
    _forget_plans()


def _forget_plans() -> None:
    """Plans made before are in the caches of functions."""
    for name in (PLAN, "rarememory.lookup.triton"):
        for thing in vars(import_module(name)).values():
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()


def _triton(cell: Cell) -> Candidate:
    return next(one for one in ours("cuda", cell.pair) if one.name == "triton")
