"""The options of the command, and which of them decide what is published."""

import argparse
from collections.abc import Sequence

import torch

from benchmarks.lookup.cells import DATA, MILLION, Cell

GRIDS = {
    "cpu": {
        "batch": [1, 16, 256],
        "slots": [8192, 131072, MILLION],
        "key_dim": [128],
        "k": [1, 10, 256],
    },
    "cuda": {
        "batch": [1, 16, 64, 256, 1024, 4096],
        "slots": [8192, 65536, 131072, MILLION, 4 * MILLION, 10 * MILLION],
        "key_dim": [64, 128, 256, 512, 1024],
        "k": [1, 8, 32, 256],
    },
}
LIMITS = {"cpu": 5.0, "cuda": 30.0}
SECONDS = {"cpu": 5.0, "cuda": 3.0}
FIRST = {(16, MILLION, 256), (256, MILLION, 8), (256, MILLION, 256), (4096, MILLION, 256)}
"""Batch, slots and k that the targets name: in a long grid those come first."""
DECISIVE = (
    *("batch", "slots", "key_dim", "k", "pairs", "data"),
    *("seconds", "limit", "without", "alone", "seed"),
)
"""Options that decide the figures: a result with all of them at their defaults is published."""


def options_of(arguments: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """The options, with the defaults of the device filled in, and whether they are published."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lookup",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=["auto", *GRIDS], default="auto", help="auto: cuda if there is one")
    add("--batch", type=int, nargs="+", help="queries (default: the grid of the device)")
    add("--slots", type=int, nargs="+", help="keys")
    add("--key-dim", type=int, nargs="+", help="width of a key")
    add("--k", type=int, nargs="*", help="neighbours; none at all asks for pairs only")
    add("--no-pairs", dest="pairs", action="store_false", help="leave the nearest pair out")
    add("--data", choices=DATA, nargs="+", default=["random"], help="how the keys lie")
    add("--seconds", type=float, help="to spend on a cell and pass, roughly")
    add("--limit", type=float, help="seconds of one call: whoever takes longer is left out")
    add("--without", nargs="+", default=[], metavar="NAME", help="who does not take part")
    add("--no-alone", dest="alone", action="store_false", help="no process for each backend (cpu)")
    add("--minutes", type=float, help="start no cell after so many; the next call goes on")
    add("--tune", action="store_true", help="sweep the tiles of the triton lookup instead (cuda)")
    add("--seed", type=int, default=0)
    add("--runs", default="runs", help="folder for what is not published (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    defaults = GRIDS[options.device] | {
        "seconds": SECONDS[options.device],
        "limit": LIMITS[options.device],
    }
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    usual = {name: defaults.get(name, parser.get_default(name)) for name in DECISIVE}
    options.published = all(getattr(options, name) == usual[name] for name in DECISIVE)
    _refuse_what_is_below_one(options)
    return options


def grid(options: argparse.Namespace) -> list[Cell]:
    """The cells in the order they are run: those of the targets, then the smaller ones."""
    cells = [
        Cell(batch, slots, key_dim, k, data)
        for data in options.data
        for key_dim in options.key_dim
        for slots in options.slots
        for batch in options.batch
        for k in [*options.k, *([0] if options.pairs else [])]
    ]
    return sorted(cells, key=lambda cell: _rank(cell, options.device))


def told(options: argparse.Namespace) -> list[str]:
    """The deciding options that are not at their defaults, as they are written."""
    if options.published:
        return ["--device", options.device]
    words = ["--device", options.device]
    for name in DECISIVE:
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [] if value else [f"--no-{name}"]
        elif isinstance(value, list):
            words += [option, *map(str, value)] if value or name == "k" else []
        else:
            words += [option, f"{value:g}"]
    return words


def _rank(cell: Cell, device: str) -> int:
    if device == "cpu":
        return 0
    named = cell.pair and cell.slots == MILLION and cell.batch in (16, 256)
    if cell.key_dim == 128 and (named or (cell.batch, cell.slots, cell.k) in FIRST):
        return 0
    return 1 if cell.key_dim == 128 else 2


def _refuse_what_is_below_one(options: argparse.Namespace) -> None:
    for name in ("batch", "slots", "key_dim", "k"):
        for number in getattr(options, name):
            if number < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {number}: it has to be 1 or more")
