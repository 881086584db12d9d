"""Curves past the paper: accuracy by ways, by keys stored, by sighting in a lifelong stream."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PUBLISHED = "Adaptive Posterior Learning (published)"
"""Ramalho and Garnelo 2019, arXiv 1902.02527: other characters and another split."""
MANY_WAYS = {"1-shot": {423: 73.5, 1000: 68.9}, "5-shot": {423: 88.0, 1000: 78.9}}
STORED = (44, 98.5)
"""Keys stored at 20 ways, and the accuracy."""

POLICIES = {"paper": "the paper's", "mean": "a mean a class", "fifo": "first in, first out"}

Result = dict[str, Any]


def draw_evaluation(result: Result, path: Path) -> Path:
    """Three panels of the result of `python -m benchmarks.omniglot.evaluation`."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    _ways(axes[0], result["accuracy_by_ways"])
    _storage(axes[1], result["figures"])
    _lifelong(axes[2], result["lifelong_accuracy_by_sighting"])
    for one in axes:
        one.set_ylabel("accuracy, %")
        one.grid(alpha=0.3)
        one.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


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
    stem = "omniglot.storage"
    for color, name in zip(("tab:blue", "tab:green", "tab:red"), POLICIES, strict=True):
        sizes = [
            int(key.split(".")[3])
            for key in figures
            if key.startswith(f"{stem}.{name}.") and key.endswith(".keys")
        ]
        points = sorted(
            (figures[f"{stem}.{name}.{size}.keys"], figures[f"{stem}.{name}.{size}.accuracy"])
            for size in sizes
        )
        axes.plot(*zip(*points, strict=True), color=color, marker="o", label=POLICIES[name])
    axes.scatter(*STORED, color="gray", marker="x", zorder=3, label=PUBLISHED)
    axes.set(xlabel="keys stored of 200 drawings", title="20 ways, 10 drawings of each")


def _lifelong(axes: Axes, by_stream: dict[str, list[float]]) -> None:
    for order, style in (("random", "-"), ("alphabet", "--")):
        for color, name in zip(("tab:blue", "tab:green", "tab:red"), POLICIES, strict=True):
            # The first time a class is shown it cannot be known: that point is left out.
            shown = [100 * accuracy for accuracy in by_stream[f"{order}.eight.{name}"][1:]]
            label = f"{POLICIES[name]}, {order} order"
            axes.plot(range(2, len(shown) + 2), shown, style, color=color, label=label)
    axes.set(xlabel="sighting of a class", title="one memory, one stream of all drawings")
    axes.set_xticks(range(2, 21, 3))
