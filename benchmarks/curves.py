"""Curves of results, drawn with matplotlib."""

from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from benchmarks.omniglot.tables import PAPER
from rarememory.evaluation import Accuracy


def draw_sightings(sightings: dict[int, list[Accuracy]], path: Path) -> Path:
    """Accuracy by how often a class was seen before, with the paper's figures beside ours."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for color, (way, accuracies) in zip(("tab:blue", "tab:orange"), sightings.items(), strict=True):
        # Before its first showing a class cannot be known: that point is left out.
        seen = range(1, len(accuracies))
        axes.errorbar(
            seen,
            [100 * accuracy.mean for accuracy in accuracies[1:]],
            yerr=[100 * accuracy.interval for accuracy in accuracies[1:]],
            color=color,
            marker="o",
            capsize=3,
            label=f"{way}-way",
        )
        shots = PAPER[way]
        axes.scatter(
            list(shots),
            list(shots.values()),
            color=color,
            marker="x",
            s=60,
            zorder=3,
            label=f"{way}-way, Kaiser et al. 2017",
        )
    axes.set(xlabel="times the class was seen before", ylabel="accuracy, %")
    axes.set_xticks(range(1, max(map(len, sightings.values()))))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
