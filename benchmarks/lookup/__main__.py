"""Every lookup of the package beside every rival: how fast, and how near to the machine's limits.

    python -m benchmarks.lookup                    the grid of this machine
    python -m benchmarks.lookup --batch 16 --slots 8192 --k 256

Every answer is checked against float64 first; who is wrong is named and not timed. Everyone takes
turns, so all share the machine's noise, and ratios are taken turn by turn. Finished cells are kept
in runs/: interrupt it with Ctrl-C, and the same command goes on from there. The result file and the
plot land in benchmarks/results, or in runs/ if any deciding option differs from its default.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.lookup import kept, tables, tune
from benchmarks.lookup.bench import Badge
from benchmarks.lookup.cells import Cell
from benchmarks.lookup.contest import Asked, Contest, Outcome, remotes
from benchmarks.lookup.figures import figures
from benchmarks.lookup.machine import machine
from benchmarks.lookup.options import grid, options_of, told
from benchmarks.lookup.plot import draw
from benchmarks.lookup.remote import Remote
from benchmarks.lookup.roofline import Ceilings, buffer_bytes

QUIET = 0.06
"""The share of the machine that others may take before a figure is in doubt."""
MODES = {"cpu": {"shared": "wall"}, "cuda": {"events": "events", "graph": "graph"}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not yet done, then write the result; return the exit status."""
    try:
        options = options_of(arguments, __doc__)
        if options.tune:
            return tune.main(options)
        _run(options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last cell", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    cells = grid(options)
    store = kept.Kept(
        Path(options.runs),
        options.device,
        results.device(),
        torch.__version__,
        machine(options.device)["packages"],
        options.seconds,
        options.limit,
        options.without,
        options.alone,
        options.seed,
    )
    shared = Remote(options.device, options.seed)
    alone: dict[str, Asked] | None = None
    try:
        if options.device == "cpu" and options.alone:
            alone = remotes("cpu", options.seed, _everyone(shared))
        contest = Contest(
            shared,
            alone=alone,
            modes=MODES[options.device],
            seconds=options.seconds,
            limit=options.limit,
            without=options.without,
        )
        outcomes, ceilings = play_all(cells, contest, store, options, begin)
    finally:
        for bench in [shared, *(alone or {}).values()]:
            bench.close()
    _report(outcomes, ceilings, options, cells, time.perf_counter() - begin)


def play_all(
    cells: Sequence[Cell],
    contest: Contest,
    store: kept.Kept,
    options: argparse.Namespace,
    begin: float,
) -> tuple[list[Outcome], Ceilings]:
    """The outcomes of all cells that there was time for, those kept before among them."""
    ceilings: Ceilings = store.get("ceilings") or Ceilings(bandwidth={}, rate={})
    outcomes: list[Outcome] = []
    bar = tqdm(cells, unit="cell", disable=not sys.stderr.isatty())
    for cell in bar:
        bar.set_postfix_str(cell.name)
        outcome: Outcome | None = store.get(cell.name)
        if outcome is None:
            late = options.minutes and time.perf_counter() - begin > 60 * options.minutes
            if late:
                continue
            _measure(ceilings, cell, contest.shared)
            store.put("ceilings", ceilings)
            outcome = contest.play(cell)
            store.put(cell.name, outcome)
        outcomes.append(outcome)
        for line in tables.block(outcome, options.device, ceilings):
            tqdm.write(line)
    return outcomes, ceilings


def _measure(ceilings: Ceilings, cell: Cell, bench: Asked) -> None:
    """The ceilings that this cell needs and no cell before has needed."""
    size = buffer_bytes(cell)
    if str(size) not in ceilings["bandwidth"]:
        ceilings["bandwidth"][str(size)] = bench.ask("bandwidth", size)
    for badge in bench.ask("contestants", cell.pair).values():
        if badge["reads"] not in ceilings["rate"]:
            ceilings["rate"][badge["reads"]] = bench.ask("rate", badge["reads"])


def _everyone(shared: Remote) -> dict[str, Badge]:
    return {**shared.ask("contestants", False), **shared.ask("contestants", True)}


def _report(
    outcomes: Sequence[Outcome],
    ceilings: Ceilings,
    options: argparse.Namespace,
    cells: Sequence[Cell],
    wall_seconds: float,
) -> None:
    for line in tables.summary(outcomes, options.device, ceilings):
        print(line)
    noisy = [
        o["name"] for o in outcomes if max(filter(None, o["foreign"].values()), default=0) > QUIET
    ]
    if noisy:
        print(
            f"others took more than {QUIET:.0%} of the machine in {len(noisy)} of {len(outcomes)} "
            "cells: measure again when it is quiet"
        )
    done = {outcome["name"] for outcome in outcomes}
    waiting = [cell.name for cell in cells if cell.name not in done]
    if waiting:
        print(f"{len(waiting)} cells are still to run; the same command goes on with them")
    found = figures(outcomes, options.device, ceilings, whole=not waiting)
    if not found:
        raise RuntimeError("no cell was timed, so there is no result to write")
    for key in sorted(key for key in found if "worst" in key or "ratio_to_matmul" in key):
        print(f"{key:60} {found[key]:8.3f}")
    # A quick try is no result to publish: it does not replace one.
    folder = results.RESULTS if options.published else Path(options.runs)
    name = f"lookup_{'gpu' if options.device == 'cuda' else 'cpu'}"
    results.write_result(
        name,
        found,
        folder=folder,
        command=" ".join(["python -m benchmarks.lookup", *told(options)]),
        seed=options.seed,
        machine=machine(options.device),
        ceilings=ceilings,
        **_details(outcomes, options.device, ceilings),
        not_run=waiting,
        wall_seconds=round(wall_seconds),
    )
    print(f"drew {draw(outcomes, options.device, ceilings, folder / f'{name}.png')}")


def _details(
    outcomes: Sequence[Outcome], device: str, ceilings: Ceilings
) -> dict[str, dict[str, object]]:
    """What every call returns, who was left out and why, every cell as the terminal shows it."""
    return {
        "returns": {
            name: badge["returns"] for outcome in outcomes for name, badge in outcome["who"].items()
        },
        "foreign": {o["name"]: o["foreign"] for o in outcomes},
        "dropped": {o["name"]: o["dropped"] for o in outcomes if o["dropped"] is not None},
        "refused": {o["name"]: o["refused"] for o in outcomes if o["refused"]},
        "cells": {o["name"]: list(tables.block(o, device, ceilings)) for o in outcomes},
    }


if __name__ == "__main__":
    sys.exit(main())
