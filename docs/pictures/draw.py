"""Draws the pictures of this folder, each from what the package itself computes.

    python docs/pictures/draw.py [folder]

The folder is that of this file unless another is named.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rarememory import AverageOrReplace, FirstInFirstOut, Memory, MemoryClassifier
from rarememory.backbones import omniglot_encoder
from rarememory.classifier import Calibration
from rarememory.data import draw_glyphs
from rarememory.readers import ask, train_on_stories

COLOURS = {"kea": "tab:blue", "kakapo": "tab:orange", "weka": "tab:green"}
QUERY = "black"


def main(folder: Path) -> None:
    """Write every picture, the same bytes from the same versions."""
    with matplotlib.rc_context({"svg.hashsalt": "rarememory", "font.size": 11}):
        for draw in (reading, loss, writing, blend, threshold, hops):
            torch.manual_seed(0)
            figure = draw()
            figure.savefig(folder / f"{draw.__name__}.svg", metadata={"Date": None})
            plt.close(figure)
        calibration().plot(folder / "calibration.svg", metadata={"Date": None})


def reading() -> Figure:
    """A query, its neighbours by cosine, and the weights of the softmax."""
    labels = ["kea", "kea", "kakapo", "kakapo", "weka"]
    memory = Memory(key_dim=2, memory_size=8, temperature=0.1, update=FirstInFirstOut())
    names = list(COLOURS)
    for angle, label in zip((20, 44, 88, 130, 200), labels, strict=True):
        memory.write(_unit(angle), torch.tensor(names.index(label)))
    query = _unit(58)
    recall = memory(query, k=3)

    figure, (left, right) = _panels()
    _circle(left, "the 3 nearest keys by cosine")
    for slot in range(len(memory)):
        value = names[int(memory.values[slot])]
        _arrow(left, memory.keys[slot], COLOURS[value], value)
    for slot in recall.slots.tolist():
        left.plot(*zip(query.tolist(), memory.keys[slot].tolist(), strict=True), "k:", lw=1)
    _arrow(left, query, QUERY, "query")
    found = [names[value] for value in recall.values.tolist()]
    places = range(len(found))
    right.barh(places, recall.weights.tolist(), color=[COLOURS[name] for name in found])
    right.set_yticks(
        places,
        [
            f"{name}\nscore {score:.2f}"
            for name, score in zip(found, recall.scores.tolist(), strict=True)
        ],
    )
    right.invert_yaxis()
    right.set(xlabel="weight: softmax(score / temperature)", xlim=(0, 1))
    right.set_title(f"prediction: {names[int(recall.prediction)]}", fontsize=11)
    return figure


def loss() -> Figure:
    """The memory loss while the query moves from its positive to its negative."""
    memory = Memory(key_dim=2, memory_size=8, margin=0.1)
    memory.write(torch.stack([_unit(30), _unit(110)]), torch.tensor([0, 1]))
    label = torch.tensor(0)
    angles = torch.linspace(30, 110, 161)
    losses = [float(memory(_unit(float(angle)), label).loss) for angle in angles]
    query = _unit(80)

    figure, (left, right) = _panels()
    _circle(left, "a query with the label kea")
    _arrow(left, memory.keys[0], COLOURS["kea"], "positive: kea")
    _arrow(left, memory.keys[1], COLOURS["kakapo"], "negative: kakapo")
    _arrow(left, query, QUERY, "query")
    away = _unit(64) * 0.75
    left.annotate(
        "",
        away.tolist(),
        (query * 0.75).tolist(),
        arrowprops={"arrowstyle": "->", "color": "crimson", "lw": 2},
    )
    right.plot(angles, losses, color="crimson")
    right.plot([80], [float(memory(query, label).loss)], "o", color=QUERY)
    right.axvline(70, color="grey", lw=1, ls=":")
    right.text(69, max(losses) * 0.8, "half way ", ha="right", color="grey")
    right.axhline(memory.margin, color="grey", lw=1, ls="--")
    right.text(31, memory.margin + 0.01, "margin", va="bottom", color="grey")
    right.set(xlabel="angle of the query, in degrees", ylabel="loss")
    right.set_title("0 where the positive leads by the margin", fontsize=11)
    return figure


def writing() -> Figure:
    """A hit moves a key; a miss replaces the oldest slot."""
    hit = Memory(key_dim=2, memory_size=3)
    hit.write(_unit(20), torch.tensor(0))
    before, query = hit.keys[0].clone(), _unit(70)
    hit.write(query, torch.tensor(0))

    # Without noise, so that the oldest slot goes for certain.
    miss = Memory(key_dim=2, memory_size=4, update=AverageOrReplace(age_noise=0.0))
    for place, label in enumerate((0, 1, 0, 1)):
        miss.write(_unit(90 * place), torch.tensor(label))
    ages = miss.ages.tolist()
    write = miss.write(_unit(60), torch.tensor(2))

    figure, (left, right) = _panels()
    _circle(left, "hit: the nearest key has the label")
    _arrow(left, before, "deepskyblue", "key before")
    _arrow(left, query, QUERY, "query")
    _arrow(left, hit.keys[0], COLOURS["kea"], "key after")
    names = list(COLOURS)
    slots = range(4)
    right.bar([slot - 0.2 for slot in slots], ages, width=0.38, color="lightgrey", label="before")
    colours = [COLOURS[names[value]] for value in miss.values.tolist()]
    # A bar of height 0 is a line.
    heights = [max(age, 0.04) for age in miss.ages.tolist()]
    right.bar([slot + 0.2 for slot in slots], heights, width=0.38, color=colours)
    right.set_xticks(
        slots, [f"slot {slot}\n{names[miss.values[slot]]}" for slot in slots], fontsize=10
    )
    slot = int(write.slots)
    right.annotate(
        "replaced: age 0",
        (slot + 0.2, 0.1),
        (slot + 0.1, 4.3),
        arrowprops={"arrowstyle": "->"},
        fontsize=10,
    )
    right.set(ylabel="age, before (grey) and after", ylim=(0, 5))
    right.set_title("miss: the oldest slot is replaced", fontsize=11)
    return figure


def blend() -> Figure:
    """The probabilities of old and new classes while an input moves to a learnt example."""
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(4 * torch.stack([_unit(0), _unit(180)]))
        model[1].bias.zero_()
    classifier = MemoryClassifier(
        model,
        classes=["kea", "kakapo"],
        memory=Memory(2, 8, temperature=0.05),
        host_score=0.8,
        reader="nearest",
    )
    classifier.learn(_unit(90), "weka")
    angles = torch.linspace(0, 180, 181)
    inputs = torch.stack([_unit(float(angle)) for angle in angles])
    answers = classifier.predict_proba(inputs)
    scores = classifier.memory(inputs, k=1).scores[:, 0]

    figure, (left, right) = _panels()
    _circle(left, "two old classes, one learnt example")
    _arrow(left, _unit(0), COLOURS["kea"], "kea (model)")
    _arrow(left, _unit(180), COLOURS["kakapo"], "kakapo (model)")
    _arrow(left, classifier.memory.keys[0], COLOURS["weka"], "weka (example)")
    left.annotate(
        "",
        (_unit(70) * 0.6).tolist(),
        (_unit(10) * 0.6).tolist(),
        arrowprops={"arrowstyle": "->", "connectionstyle": "arc3,rad=0.3"},
    )
    left.text(0.62, 0.42, "input", fontsize=10)
    for column, name in enumerate(answers.classes):
        right.plot(angles, answers.values[:, column], color=COLOURS[name], label=name)
    right.plot(angles, scores.clamp(min=0), color="grey", ls=":", label="cosine to weka")
    right.axhline(0.8, color="grey", lw=1, ls="--")
    right.text(2, 0.81, "host_score", color="grey", fontsize=9)
    right.set(xlabel="angle of the input, in degrees", ylabel="probability", ylim=(0, 1.05))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    right.set_title("the answer", fontsize=11)
    return figure


def threshold() -> Figure:
    """How familiar known and unknown glyphs are, and where the threshold lies."""
    glyphs = draw_glyphs(300, n_drawings=3).images.unsqueeze(2) / 255
    known, others, strangers = glyphs[:100], glyphs[100:200], glyphs[200:]
    classifier = MemoryClassifier(omniglot_encoder(), host=False, reader="nearest")
    classifier.learn(known[:, 0], list(range(100)))
    classifier.fit_threshold(unknown=others.flatten(0, 1), false_accept_rate=0.05)

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    bins = torch.linspace(0.2, 1, 41).tolist()
    for drawings, name, colour in (
        (known[:, 1:], "learnt classes", COLOURS["kea"]),
        (strangers, "unknown classes", COLOURS["kakapo"]),
    ):
        features = classifier.model(drawings.flatten(0, 1))
        familiarity = classifier.memory(features, k=1).scores[:, 0].detach()
        accepted = float((familiarity > classifier.threshold).float().mean())
        weights = torch.full_like(familiarity, 100 / len(familiarity)).tolist()
        axes.hist(
            familiarity.tolist(),
            bins,
            weights=weights,
            alpha=0.6,
            color=colour,
            label=f"{name}: {accepted:.0%} accepted",
        )
    axes.axvline(float(classifier.threshold), color="crimson")
    axes.text(
        float(classifier.threshold) + 0.005, axes.get_ylim()[1] * 0.93, "threshold", color="crimson"
    )
    axes.set(xlabel="familiarity: cosine of the nearest stored example", ylabel="drawings, in %")
    axes.legend(loc="upper left")
    return figure


def hops() -> Figure:
    """What each hop of a reader attends to, over the sentences of a story."""
    with _one_thread():
        reader, vocabulary, _ = train_on_stories(stories=1500, epochs=16, restarts=2)
    story = [
        "John went to the hallway.",
        "Mary took the apple.",
        "Sandra moved to the office.",
        "Mary went to the kitchen.",
        "John grabbed the milk.",
        "Sandra went to the garden.",
    ]
    answered = ask(reader, vocabulary, story, "Where is the apple?")
    weights = torch.tensor(answered.attention).T

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        weight = float(weights[row, column])
        colour = "white" if weight > 0.5 else "black"
        axes.text(column, row, f"{weight:.2f}", ha="center", va="center", color=colour)
    axes.set_yticks(range(len(story)), story)
    axes.set_xticks(range(weights.shape[1]), [f"hop {hop + 1}" for hop in range(weights.shape[1])])
    axes.tick_params(length=0)
    axes.set_title(
        f"Where is the apple?  {answered.answer} ({answered.probability:.0%})", fontsize=11
    )
    return figure


def calibration() -> Calibration:
    """Old glyphs that a model knows against new ones, learnt from one drawing each."""
    glyphs = draw_glyphs(120, n_drawings=10).images.unsqueeze(2) / 255
    labels = torch.arange(120).repeat_interleave(10).reshape(120, 10)
    encoder = omniglot_encoder()
    with torch.no_grad(), _one_thread():
        # The host knows 60 classes by the means of three drawings.
        features = encoder(glyphs[:60, :3].flatten(0, 1)).unflatten(0, (60, 3))
        head = torch.nn.Linear(features.shape[2], 60, bias=False)
        head.weight.copy_(10 * torch.nn.functional.normalize(features.mean(1)))
        classifier = MemoryClassifier(torch.nn.Sequential(encoder, head))
        classifier.learn(glyphs[60:, 3], labels[60:, 3].tolist())
        held_out = glyphs[:, 4:].flatten(0, 1), labels[:, 4:].flatten().tolist()
        return classifier.calibrate(*held_out)


@contextmanager
def _one_thread() -> Iterator[None]:
    """So that sums, and the bytes of a picture, do not depend on the number of processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _unit(degrees: float) -> Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def _panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    return figure, tuple(axes)


def _circle(axes: Axes, title: str) -> None:
    """The circle of vectors of length 1."""
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="lightgrey"))
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.25, 1.3), aspect="equal")
    axes.set_title(title, fontsize=11)
    axes.set_axis_off()


def _arrow(axes: Axes, to: Tensor, colour: str, text: str) -> None:
    x, y = to.tolist()
    axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
    side = "left" if x > 0.15 else "right" if x < -0.15 else "center"
    height = "bottom" if y > 0.15 else "top" if y < -0.15 else "center"
    axes.text(1.06 * x, 1.06 * y, text, color=colour, ha=side, va=height)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
