"""Time by the number of slots, log-log, with the roofline drawn below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.lookup.cells import Cell
from benchmarks.lookup.contest import Outcome
from benchmarks.lookup.contestants import OURS
from benchmarks.lookup.figures import HEADLINE, best_of_families, champion, seconds
from benchmarks.lookup.roofline import Ceilings, floor


def draw(outcomes: Sequence[Outcome], device: str, ceilings: Ceilings, path: Path) -> Path:
    """A panel for every batch (columns) and k (rows) of the width most cells have."""
    matplotlib.use("Agg")
    label = HEADLINE[device]
    timed = [outcome for outcome in outcomes if outcome["passes"].get(label)]
    widths = [outcome["cell"]["key_dim"] for outcome in timed]
    width = max(set(widths), key=widths.count)
    timed = [
        outcome
        for outcome in timed
        if outcome["cell"]["key_dim"] == width
        and outcome["cell"]["data"] == timed[0]["cell"]["data"]
    ]
    batches = sorted({outcome["cell"]["batch"] for outcome in timed})
    ks = sorted({outcome["cell"]["k"] for outcome in timed})
    figure, panels = plt.subplots(
        len(ks),
        len(batches),
        figsize=(2 + 2.6 * len(batches), 1 + 2.3 * len(ks)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    styles = _styles(timed, label)
    for row, k in zip(panels, ks, strict=True):
        for axes, batch in zip(row, batches, strict=True):
            here = [o for o in timed if (o["cell"]["batch"], o["cell"]["k"]) == (batch, k)]
            _panel(axes, sorted(here, key=lambda o: o["cell"]["slots"]), label, styles, ceilings)
            asked = f"{batch} {'query' if batch == 1 else 'queries'}"
            axes.set_title(f"{asked}, {f'k = {k}' if k else 'nearest pair'}", fontsize=9)
        row[0].set_ylabel("milliseconds")
    slots = sorted({outcome["cell"]["slots"] for outcome in timed})
    for axes in panels[-1]:
        axes.set_xlabel("slots")
        axes.set_xticks(slots, [f"{count:,}" for count in slots], fontsize=8)
        axes.minorticks_off()
    handles = {
        text: line
        for axes in panels.flat
        for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _styles(outcomes: Sequence[Outcome], label: str) -> dict[str, dict[str, Any]]:
    """A colour for every lookup of ours and for every family; auto stands out."""
    shown: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for name in best_of_families(outcome, label):
            line = _line(outcome, name)
            ours = outcome["who"][name]["family"] == OURS
            if line not in shown:
                shown[line] = {
                    "color": matplotlib.colormaps["tab20"](len(shown) % 20),
                    "linestyle": "-" if ours else "--",
                    "marker": "o" if ours else "x",
                    "linewidth": 2.2 if line == "ours: auto" else 1.0,
                    "markersize": 4,
                    "zorder": 3 if line == "ours: auto" else 2,
                }
    return shown


def _line(outcome: Outcome, name: str) -> str:
    badge = outcome["who"][name]
    if badge["family"] == OURS:
        return f"ours: {name}"
    return name if badge["product"] else badge["family"]


def _panel(
    axes: Axes,
    outcomes: Sequence[Outcome],
    label: str,
    styles: dict[str, dict[str, Any]],
    ceilings: Ceilings,
) -> None:
    points: dict[str, list[tuple[int, float]]] = {}
    for outcome in outcomes:
        for name in best_of_families(outcome, label):
            point = outcome["cell"]["slots"], 1e3 * seconds(outcome, label, name).median
            points.setdefault(_line(outcome, name), []).append(point)
    for line, found in points.items():
        axes.plot(*zip(*found, strict=True), label=line, **styles[line])
    device = next(device for device, headline in HEADLINE.items() if headline == label)
    ours = [champion(outcome, device) for outcome in outcomes]
    reads = [
        o["who"][name]["reads"] if name else "float32"
        for o, name in zip(outcomes, ours, strict=True)
    ]
    axes.plot(
        [outcome["cell"]["slots"] for outcome in outcomes],
        [
            1e3 * floor(Cell(**outcome["cell"]), read, ceilings)
            for outcome, read in zip(outcomes, reads, strict=True)
        ],
        color="black",
        linestyle=":",
        label="roofline",
    )
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
