"""The curves of the four trainings, drawn with matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator


def draw_curves(curves: Mapping[tuple[str, bool], list[float]], ceiling: float, path: Path) -> Path:
    """Accuracy on held-out strings by epoch: a colour a network, dashed without the memory."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    colors = dict(zip(dict.fromkeys(name for name, _ in curves), ("C0", "C1"), strict=False))
    for (name, with_memory), curve in curves.items():
        label = f"{name}, {'with' if with_memory else 'without'} memory"
        percents = [100 * accuracy for accuracy in curve]
        style = "o-" if with_memory else "x--"
        axes.plot(range(1, len(curve) + 1), percents, style, color=colors[name], label=label)
    axes.axhline(100 * ceiling, color="gray", linestyle=":", label="numbers seen in training")
    axes.set(xlabel="epoch", ylabel="outputs entirely correct, %", ylim=(-3, 103))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
