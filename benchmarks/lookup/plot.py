"""Time by the number of slots, log-log, with the roofline below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.lookup.candidates import OURS
from benchmarks.lookup.outcome import HEADLINE, Outcome
from benchmarks.lookup.roofline import Ceilings, floor

Styles = dict[str, dict[str, Any]]


def draw(outcomes: Sequence[Outcome], device: str, ceilings: Ceilings, path: Path) -> Path:
    """A panel for every batch (columns) and k (rows), of the key width that most cells have."""
    matplotlib.use("Agg")
    label = HEADLINE[device]
    timed = [outcome for outcome in outcomes if outcome.passes.get(label)]
    widths = [outcome.cell.key_dim for outcome in timed]
    kind = max(set(widths), key=widths.count), timed[0].cell.data
    timed = [one for one in timed if (one.cell.key_dim, one.cell.data) == kind]
    batches = sorted({outcome.cell.batch for outcome in timed})
    ks = sorted({outcome.cell.k for outcome in timed})
    size = 2 + 2.6 * len(batches), 1 + 2.3 * len(ks)
    options: dict[str, Any] = {"sharex": True, "squeeze": False, "layout": "constrained"}
    figure, panels = plt.subplots(len(ks), len(batches), figsize=size, **options)
    lines = dict.fromkeys(_line(one, name) for one in timed for name in one.best_of_families(label))
    styles = {line: _style(line, place) for place, line in enumerate(lines)}
    for row, k in zip(panels, ks, strict=True):
        for axes, batch in zip(row, batches, strict=True):
            here = [one for one in timed if (one.cell.batch, one.cell.k) == (batch, k)]
            _panel(axes, sorted(here, key=lambda one: one.cell.slots), device, styles, ceilings)
            asked = f"{batch} {'query' if batch == 1 else 'queries'}"
            axes.set_title(f"{asked}, {f'k = {k}' if k else 'nearest pair'}", fontsize=9)
        row[0].set_ylabel("milliseconds")
    slots = sorted({outcome.cell.slots for outcome in timed})
    for axes in panels[-1]:
        axes.set_xlabel("slots")
        axes.set_xticks(slots, [f"{count:,}" for count in slots], fontsize=8)
        axes.minorticks_off()
    labelled = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels.flat]
    handles = {text: line for pairs in labelled for line, text in pairs}
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _style(line: str, place: int) -> dict[str, Any]:
    """Of a lookup of ours or a family, by its place among them; auto stands out."""
    ours, auto = line.startswith("ours: "), line == "ours: auto"
    return {
        "color": matplotlib.colormaps["tab20"](place % 20),
        "linestyle": "-" if ours else "--",
        "marker": "o" if ours else "x",
        "linewidth": 2.2 if auto else 1.0,
        "markersize": 4,
        "zorder": 3 if auto else 2,
    }


def _line(outcome: Outcome, name: str) -> str:
    if outcome.family(name) == OURS:
        return f"ours: {name}"
    return name if outcome.candidates[name]["product"] else outcome.family(name)


def _panel(
    axes: Axes, outcomes: Sequence[Outcome], device: str, styles: Styles, ceilings: Ceilings
) -> None:
    label = HEADLINE[device]
    points: dict[str, list[tuple[int, float]]] = {}
    for outcome in outcomes:
        ours = outcome.champion(device)
        reads = outcome.candidates[ours]["reads"] if ours else "float32"
        milliseconds = {
            _line(outcome, name): 1e3 * outcome.seconds(label, name).median
            for name in outcome.best_of_families(label)
        }
        milliseconds["roofline"] = 1e3 * floor(outcome.cell, reads, ceilings)
        for line, took in milliseconds.items():
            points.setdefault(line, []).append((outcome.cell.slots, took))
    roofline = points.pop("roofline")
    for line, found in points.items():
        axes.plot(*zip(*found, strict=True), label=line, **styles[line])
    axes.plot(*zip(*roofline, strict=True), color="black", linestyle=":", label="roofline")
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
