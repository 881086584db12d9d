"""Every lookup of the package and every rival: how fast, and how near to the machine's limits.

    python -m benchmarks.lookup                    the grid of this machine
    python -m benchmarks.lookup --batch 16 --slots 8192 --k 256

Every answer is checked against float64 first; a wrong candidate is named and not timed. The timing
is interleaved, so all share the machine's noise, and ratios are taken round by round. Finished
cells are stored in runs/: after Ctrl-C the same command resumes.

A processor of newer instructions stands in for an older one where all libraries are told to leave
them out, by the environment variables that the result names (`benchmarks.lookup.machine.MASKS`).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.cache import CellCache
from benchmarks.lookup import tables, tune
from benchmarks.lookup.cells import DATA, MILLION, Cell
from benchmarks.lookup.comparison import Comparison, remote_benches
from benchmarks.lookup.figures import figures
from benchmarks.lookup.machine import instruction_set, machine
from benchmarks.lookup.outcome import Outcome
from benchmarks.lookup.plot import draw
from benchmarks.lookup.remote import RemoteBench
from benchmarks.lookup.roofline import Ceilings, buffer_bytes
from benchmarks.runner import Benchmark, Run

QUIET = 0.06
"""The share of the machine that other programs may take before a figure is in doubt."""
MODES = {"cpu": {"shared": "wall"}, "cuda": {"events": "events", "graph": "graph"}}
_CPU = {
    "batch": [1, 16, 256],
    "slots": [8192, 131072, MILLION],
    "key_dim": [128],
    "k": [1, 10, 256],
}
_GPU = {
    "batch": [1, 16, 64, 256, 1024, 4096],
    "slots": [8192, 65536, 131072, MILLION, 4 * MILLION, 10 * MILLION],
    "key_dim": [64, 128, 256, 512, 1024],
    "k": [1, 8, 32, 256],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {**_CPU, "seconds": 5.0, "limit": 5.0},
    "cuda": {**_GPU, "seconds": 3.0, "limit": 30.0},
}
FIRST = {(16, 256), (256, 8), (256, 256), (4096, 256), (16, 0), (256, 0)}
"""Batch and k of the targets, at a million slots: in the long grid of a GPU those come first."""

BENCHMARK = Benchmark("benchmarks.lookup", __doc__)
add = BENCHMARK.add
text = "auto: cuda if there is one"
add("--device", decisive=False, choices=["auto", *DEFAULTS], default="auto", help=text)
add("--batch", type=int, nargs="+", help="queries (default: the grid of the device)")
add("--slots", type=int, nargs="+", help="keys")
add("--key-dim", type=int, nargs="+", help="width of a key")
add("--k", type=int, nargs="*", help="neighbours; none at all asks for pairs only")
add("--no-pairs", dest="pairs", action="store_false", help="leave the nearest pair out")
add("--data", choices=DATA, nargs="+", default=["random"], help="how the keys lie")
add("--seconds", type=float, help="to spend on a cell and pass, roughly")
add("--limit", type=float, help="seconds of one call: who takes longer is left out")
add("--without", nargs="+", default=[], metavar="NAME", help="who does not take part")
add("--no-alone", dest="alone", action="store_false", help="no process for each backend (cpu)")
text = "start no cell after so many; the next call resumes"
add("--minutes", decisive=False, type=float, help=text)
text = "sweep the tiles of the triton lookup instead (cuda)"
add("--tune", decisive=False, action="store_true", help=text)
add("--seed", type=int, default=0)
add("--runs", decisive=False, default="runs", help="folder for what is not published")


def resolve(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the defaults of the device filled in.

    Raises:
        ValueError: a size is below 1.
    """
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, default in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    for name in ("batch", "slots", "key_dim", "k"):
        for number in getattr(options, name):
            if number < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {number}: it has to be 1 or more")
    return options


def grid(options: argparse.Namespace) -> list[Cell]:
    """The cells in the order they are run: on a GPU those of the targets first."""
    ks = [*options.k, *([0] if options.pairs else [])]
    sizes = product(options.data, options.key_dim, options.slots, options.batch, ks)
    cells = [Cell(batch, slots, width, k, data) for data, width, slots, batch, k in sizes]

    def rank(cell: Cell) -> int:
        if options.device == "cpu":
            return 0
        named = cell.slots == MILLION and (cell.batch, cell.k) in FIRST
        return 2 if cell.key_dim != 128 else 0 if named else 1

    return sorted(cells, key=rank)


@BENCHMARK
def main(run: Run) -> None:
    """Run what is not yet done, then write the result."""
    options = resolve(run.options)
    run.command += f" --device {options.device}"
    if options.tune:
        tune.sweep(run)
        return
    cells, facts = grid(options), machine(options.device)
    cache = CellCache(
        Path(options.runs),
        f"lookup_{options.device}",
        results.device(),
        torch.__version__,
        # Which instructions rivals and ours may take.
        *(facts["packages"], facts.get("masks"), instruction_set()),
        *(options.seconds, options.limit, options.without, options.alone, options.seed),
    )
    shared, alone = RemoteBench(options.device, options.seed), None
    try:
        if options.device == "cpu" and options.alone:
            every = {**shared.call("candidates", False), **shared.call("candidates", True)}
            alone = remote_benches("cpu", options.seed, every)
        numbers = {name: getattr(options, name) for name in ("seconds", "limit", "without")}
        comparison = Comparison(shared, alone=alone, modes=MODES[options.device], **numbers)
        outcomes, ceilings = _outcomes(cells, comparison, cache, run)
    finally:
        for bench in [shared, *(alone or {}).values()]:
            bench.close()
    _report(outcomes, ceilings, cells, run)


def _outcomes(
    cells: Sequence[Cell], comparison: Comparison, cache: CellCache, run: Run
) -> tuple[list[Outcome], Ceilings]:
    """The outcomes of all cells that there was time for, and of those in the cache."""
    ceilings: Ceilings = cache.get("ceilings") or Ceilings(bandwidth={}, rate={})
    outcomes: list[Outcome] = []
    bar = tqdm(cells, unit="cell", disable=not sys.stderr.isatty())
    for cell in bar:
        bar.set_postfix_str(cell.name)
        stored = cache.get(cell.name)
        if stored is None:
            if run.options.minutes and run.seconds > 60 * run.options.minutes:
                continue
            _measure(ceilings, cell, comparison.shared)
            cache.put("ceilings", ceilings)
            stored = asdict(comparison.run(cell))
            cache.put(cell.name, stored)
        outcomes.append(Outcome.from_json(stored))
        for line in tables.block(outcomes[-1], run.options.device, ceilings):
            tqdm.write(line)
    return outcomes, ceilings


def _measure(ceilings: Ceilings, cell: Cell, bench: RemoteBench) -> None:
    """The ceilings that this cell needs and no cell before has needed."""
    size = buffer_bytes(cell)
    if str(size) not in ceilings["bandwidth"]:
        ceilings["bandwidth"][str(size)] = bench.call("bandwidth", size)
    for one in bench.call("candidates", cell.pair).values():
        if one["reads"] not in ceilings["rate"]:
            ceilings["rate"][one["reads"]] = bench.call("rate", one["reads"])


def _report(
    outcomes: Sequence[Outcome], ceilings: Ceilings, cells: Sequence[Cell], run: Run
) -> None:
    device = run.options.device
    for line in tables.summary(outcomes, device, ceilings):
        print(line)
    by_name = {outcome.cell.name: outcome for outcome in outcomes}
    noisy = [o for o in outcomes if max(filter(None, o.foreign.values()), default=0) > QUIET]
    if noisy:
        print(
            f"others took more than {QUIET:.0%} of the machine in {len(noisy)} of {len(outcomes)} "
            "cells: measure again when it is quiet"
        )
    waiting = [cell.name for cell in cells if cell.name not in by_name]
    if waiting:
        print(f"{len(waiting)} cells are still to run; the same command resumes")
    instructions = instruction_set() if device == "cpu" else None
    found = figures(outcomes, device, ceilings, whole=not waiting, instruction_set=instructions)
    if not found:
        raise RuntimeError("no cell was timed, so there is no result to write")
    for key in sorted(key for key in found if "worst" in key or "ratio_to_matmul" in key):
        print(f"{key:60} {found[key]:8.3f}")
    path = run.write(
        "_".join(filter(None, ("lookup", "gpu" if device == "cuda" else "cpu", instructions))),
        found,
        machine=machine(device),
        ceilings=ceilings,
        returns={n: c["returns"] for o in outcomes for n, c in o.candidates.items()},
        foreign={name: o.foreign for name, o in by_name.items()},
        dropped={name: o.dropped for name, o in by_name.items() if o.dropped is not None},
        refused={name: o.refused for name, o in by_name.items() if o.refused},
        cells={name: list(tables.block(o, device, ceilings)) for name, o in by_name.items()},
        not_run=waiting,
    )
    print(f"drew {draw(outcomes, device, ceilings, path.with_suffix('.png'))}")


if __name__ == "__main__":
    sys.exit(main())
