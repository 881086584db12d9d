"""A demonstration on drawn glyphs: train under a memory, then learn new glyphs from one example."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

from rarememory.backbones import Conv4
from rarememory.base.progress import progress_bar
from rarememory.data import Characters, draw_glyphs
from rarememory.evaluation import Accuracy, embed, sighting_accuracy
from rarememory.memory import Memory
from rarememory.training import Recipe, Step, Training, train

KEY_DIM = 64
N_WAY = 20
N_SIGHTINGS = 6


def demo(
    folder: Path = Path("runs"), steps: int = 400, episodes: int = 200, classes: int = 400
) -> Path:
    """Train a small CNN under a memory on drawn glyphs; print its accuracy, plot some answers.

    A quarter of the glyphs is held out of the training, and used for testing.

    Returns:
        The path of the plot.
    """
    torch.manual_seed(0)
    glyphs = draw_glyphs(classes)
    held_out = 3 * classes // 4
    known, new = glyphs.select(glyphs.names[:held_out]), glyphs.select(glyphs.names[held_out:])
    print(f"{len(known)} drawn glyphs for training, {len(new)} new ones for testing")

    training = _training(known, steps)
    before = _by_sighting(training.encoder, new, episodes, "testing, untrained")
    _train(training)
    encoder = training.averaged.module
    after = _by_sighting(encoder, new, episodes, "testing, trained")

    print(f"\naccuracy in %, {N_WAY} new glyphs at a time, by how often each was seen before:\n")
    print("          " + "".join(f"{seen:>15}" for seen in range(N_SIGHTINGS)))
    for name, accuracies in (("untrained", before), ("trained", after)):
        print(f"{name:10}" + "".join(f"{accuracy!s:>15}" for accuracy in accuracies))
    plot = _plot(encoder, new, folder / "demo.png")
    print(f"\nqueries and the remembered examples nearest to them: {plot}")
    return plot


def _training(characters: Characters, steps: int) -> Training:
    recipe = Recipe(steps=steps, n_way=64)
    memory = Memory(KEY_DIM, recipe.n_way * recipe.n_sightings, temperature=0.1)
    return Training(Conv4(KEY_DIM), memory, characters.images, recipe)


def _train(training: Training) -> None:
    with progress_bar(total=training.recipe.steps, description="training", unit="step") as bar:

        def watch(step: Step) -> None:
            bar.set_postfix(loss=f"{step.loss:.3f}", accuracy=f"{100 * step.accuracy:.0f}")
            bar.update()

        train(training, watch=watch)


def _by_sighting(
    encoder: nn.Module, characters: Characters, episodes: int, name: str
) -> list[Accuracy]:
    return sighting_accuracy(
        Memory(KEY_DIM, N_WAY * N_SIGHTINGS),
        embed(encoder, characters.images),
        n_way=N_WAY,
        n_sightings=N_SIGHTINGS,
        n_episodes=episodes,
        bar=partial(progress_bar, description=name, unit="episode"),
    )


def _plot(encoder: nn.Module, characters: Characters, path: Path) -> Path:
    """Plot eight queries, each with its three nearest of all new glyphs, remembered once each."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    images, keys = characters.images, embed(encoder, characters.images)
    memory = Memory(KEY_DIM, len(characters), temperature=0.1)
    labels = torch.arange(len(characters))
    memory.write(keys[:, 0], labels)
    shown = labels[:: len(labels) // 8][:8]
    recall = memory(keys[shown, 1], k=3)

    figure, axes = plt.subplots(4, len(shown), figsize=(len(shown) * 1.3, 6.4))
    rows = ["query", "1st answer", "2nd answer", "3rd answer"]
    for column, label in enumerate(shown):
        _show(axes[0, column], images[label, 1], "", "black")
        for rank in range(3):
            value, weight = recall.values[column, rank], recall.weights[column, rank].item()
            color = "tab:green" if value == label else "tab:red"
            _show(axes[rank + 1, column], images[value, 0], f"{100 * weight:.0f} %", color)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(name)
    figure.suptitle(
        f"queries and the nearest of {len(characters)} new glyphs, remembered from one drawing each"
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _show(axis: Any, image: Tensor, title: str, color: str) -> None:
    axis.imshow(255 - image.numpy(), cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, color=color, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color(color)
