"""Curves of accuracy: by sighting, by ways, by keys stored, by sighting in a lifelong stream."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rarememory.evaluation import Accuracy

matplotlib.use("Agg")

PAPER = {5: {1: 98.4, 5: 99.6}, 20: {1: 95.0, 5: 98.6}}
"""Kaiser et al. 2017, table 1 (arXiv 1703.03129): accuracy in percent by ways and shots."""
PUBLISHED = "Adaptive Posterior Learning (published)"
"""Ramalho and Garnelo 2019, arXiv 1902.02527: other characters and another split."""
MANY_WAYS = {"1-shot": {423: 73.5, 1000: 68.9}, "5-shot": {423: 88.0, 1000: 78.9}}
STORED = (44, 98.5)
"""Keys stored at 20 ways, and the accuracy."""
COLORS = "tab:blue", "tab:green", "tab:red"
POLICIES = {"paper": "the paper's", "mean": "a mean a class", "fifo": "first in, first out"}
Result = dict[str, Any]


def draw_sightings(sightings: dict[int, list[Accuracy]], path: Path) -> Path:
    """Accuracy by how often a class was seen before, with the paper's figures beside ours."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for color, (way, accuracies) in zip(("tab:blue", "tab:orange"), sightings.items(), strict=True):
        # At its first sighting a class cannot be known: that point is left out.
        seen = range(1, len(accuracies))
        means, bars = (
            [100 * part for part in parts[1:]] for parts in zip(*accuracies, strict=True)
        )
        line: dict[str, Any] = {"color": color, "marker": "o", "capsize": 3, "label": f"{way}-way"}
        axes.errorbar(seen, means, yerr=bars, **line)
        crosses: dict[str, Any] = {"color": color, "marker": "x", "s": 60, "zorder": 3}
        label = f"{way}-way, Kaiser et al. 2017"
        axes.scatter(*zip(*PAPER[way].items(), strict=True), label=label, **crosses)
    axes.set(xlabel="times the class was seen before", ylabel="accuracy, %")
    axes.set_xticks(range(1, max(map(len, sightings.values()))))
    axes.grid(alpha=0.3)
    axes.legend()
    return _saved(figure, path, dpi=120)


def draw_evaluation(result: Result, path: Path) -> Path:
    """Three panels of the result of `python -m benchmarks.omniglot.evaluation`."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    _ways(axes[0], result["accuracy_by_ways"])
    _storage(axes[1], result["figures"])
    _lifelong(axes[2], result["lifelong_accuracy_by_sighting"])
    for one in axes:
        one.set_ylabel("accuracy, %")
        one.grid(alpha=0.3)
        one.legend(fontsize=8)
    return _saved(figure, path, dpi=110)


def _ways(axes: Axes, by_shots: dict[str, dict[str, float]]) -> None:
    for color, (shots, by_ways) in zip(("tab:blue", "tab:orange"), by_shots.items(), strict=True):
        ways = [int(way) for way in by_ways]
        shown = [100 * accuracy for accuracy in by_ways.values()]
        axes.plot(ways, shown, color=color, marker="o", label=shots)
        published = MANY_WAYS[shots]
        axes.scatter(*zip(*published.items(), strict=True), color=color, marker="x", zorder=3)
    axes.scatter([], [], color="gray", marker="x", label=PUBLISHED)
    axes.set(xscale="log", xlabel="classes to choose from", title="many ways")


def _storage(axes: Axes, figures: dict[str, float]) -> None:
    for color, name in zip(COLORS, POLICIES, strict=True):
        points = sorted(
            (keys, figures[f"{key.removesuffix('keys')}accuracy"])
            for key, keys in figures.items()
            if key.startswith(f"omniglot.storage.{name}.") and key.endswith(".keys")
        )
        axes.plot(*zip(*points, strict=True), color=color, marker="o", label=POLICIES[name])
    axes.scatter(*STORED, color="gray", marker="x", zorder=3, label=PUBLISHED)
    axes.set(xlabel="keys stored of 200 drawings", title="20 ways, 10 drawings of each")


def _lifelong(axes: Axes, by_stream: dict[str, list[float]]) -> None:
    for order, style in (("random", "-"), ("alphabet", "--")):
        for color, name in zip(COLORS, POLICIES, strict=True):
            shown = [100 * accuracy for accuracy in by_stream[f"{order}.eight.{name}"][1:]]
            label = f"{POLICIES[name]}, {order} order"
            axes.plot(range(2, len(shown) + 2), shown, style, color=color, label=label)
    axes.set(xlabel="sighting of a class", title="one memory, one stream of all drawings")
    axes.set_xticks(range(2, 21, 3))


def _saved(figure: Figure, path: Path, dpi: int) -> Path:
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    return path
