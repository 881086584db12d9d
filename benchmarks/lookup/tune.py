"""The best tiles and bins of the triton lookup on this GPU, by trying them.

It replaces the two functions of the lookup's plan that choose them, cell by cell, and prints the
best choices. What was tried is stored in runs/, from which the same command resumes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.cache import CellCache
from benchmarks.lookup.candidates import Refused, ours
from benchmarks.lookup.cells import MILLION, Cell, Inputs, make_inputs
from benchmarks.lookup.clock import CudaClock
from benchmarks.runner import Run

PLAN = "rarememory.lookup.triton_plan"
ROWS, SLOTS, WARPS, STAGES = (16, 32, 64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)
SLOTS_FIRST = (False, True)
BINS = tuple(2**power for power in range(11, 16))
CELLS = [
    *(Cell(batch, MILLION, 128, 0) for batch in (16, 256)),
    *(Cell(16, MILLION, 128, k) for k in (1, 8, 256)),
    *(Cell(256, MILLION, 128, k) for k in (1, 8, 256)),
    Cell(4096, MILLION, 128, 256),
]


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
    cache = CellCache(Path(options.runs), "lookup_tune", results.device(), torch.__version__)
    best = {}

    def late() -> bool:
        return bool(options.minutes) and run.seconds > 60 * options.minutes

    for cell in CELLS:
        found = _swept(cell, plan, cache, late)
        best[cell.name] = sorted(found.items(), key=lambda one: one[1])[:5]
        for name, seconds in best[cell.name]:
            print(f"{cell.name:20} {1e6 * seconds:10.1f} us  {name}")
    fastest = {name: tried[0][1] for name, tried in best.items() if tried}
    figures = {f"lookup.gpu.tune.{name}.microseconds": 1e6 * s for name, s in fastest.items()}
    run.published = False
    run.write("lookup_tune", figures, best=best)


def _swept(cell: Cell, plan: Any, cache: CellCache, late: Callable[[], bool]) -> dict[str, float]:
    """Seconds by choice: the tiles first, then the bins with the fastest of those."""
    tried: dict[str, float] = cache.get(cell.name) or {}
    given: Inputs | None = None

    def attempt(name: str, tile: Any, bins: int | None) -> None:
        nonlocal given
        if name in tried or late():
            return
        given = make_inputs(cell, 0, "cuda") if given is None else given
        try:
            tried[name] = _seconds(cell, given, plan, tile, bins)
        except (RuntimeError, ValueError, Refused) as error:
            # Too many registers, or too much shared memory; 0 stands for no time at all.
            tqdm.write(f"{name}: {str(error).partition(chr(10))[0]}")
            tried[name] = 0.0
        cache.put(cell.name, tried)

    tiles = {f"{tile}": tile for tile in _tiles(cell, plan)}
    for name, tile in tqdm(tiles.items(), desc=cell.name, unit="tile"):
        attempt(name, tile, None)
    timed = [name for name in tiles if tried.get(name)]
    if timed:
        fastest = min(timed, key=tried.__getitem__)
        for bins in BINS:
            attempt(f"{fastest} with {bins} bins", tiles[fastest], bins)
    return {name: seconds for name, seconds in tried.items() if seconds > 0}


def _tiles(cell: Cell, plan: Any) -> list[Any]:
    """The present one, then others that are not much wider than the batch."""
    sizes = (cell.batch, cell.slots, cell.key_dim, cell.k or 1, torch.float16)
    default = plan.make_plan(*sizes, pair=cell.pair).tile
    widest = max(16, 2 ** math.ceil(math.log2(cell.batch)))
    fitting = [rows for rows in ROWS if rows <= widest]
    numbers = product(fitting, SLOTS, WARPS, STAGES, SLOTS_FIRST)
    names = ("rows", "slots", "warps", "stages", "slots_first")
    others = (default._replace(**dict(zip(names, some, strict=True))) for some in numbers)
    return [default, *(one for one in others if one != default)]


def _seconds(cell: Cell, given: Inputs, plan: Any, tile: Any, bins: int | None) -> float:
    triton = next(one for one in ours("cuda", cell.pair) if one.name == "triton")
    with _chosen(plan, tile, bins):
        return min(CudaClock().measure(triton.prepare(given, cell), "events"))


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
    for module in map(import_module, (PLAN, "rarememory.lookup.triton")):
        for thing in vars(module).values():
            getattr(thing, "cache_clear", int)()
