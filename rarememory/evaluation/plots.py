"""Pictures of a memory and of its answers, by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.memory import Memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 20
"""Classes that a picture names; more names would hide it."""


def plot_embedding(
    memory: Memory, names: Mapping[int, Any] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Every key as a point in the plane of the two main components, a colour for each class.

    Args:
        memory: of any kind.
        names: of the values; one without a name stands for itself.
        ax: to draw into; a new figure if None.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: fewer than two slots are occupied.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> ax = plot_embedding(memory, {7: "kea", 9: "weka"})
        >>> len(ax.collections)
        2
    """
    occupied = memory.state.occupied
    keys, values = memory.keys[occupied].double(), memory.values[occupied]
    if len(keys) < 2:
        raise ValueError(f"a picture of keys needs 2 of them at least, and there are {len(keys)}")
    centred = keys - keys.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    points = torch.nn.functional.pad(centred @ axes.T, (0, max(0, 2 - len(axes)))).cpu()
    ax = _axes(ax)
    classes, names = values.unique().tolist(), names or {}
    for value, colour in zip(classes, _colours(len(classes)), strict=True):
        own = points[(values == value).cpu()]
        label = str(names.get(value, value))
        ax.scatter(own[:, 0].numpy(), own[:, 1].numpy(), s=12, color=colour, label=label)
    if len(classes) <= _MOST_NAMES:
        ax.legend(fontsize="small")
    ax.set(xlabel="first component", ylabel="second component")
    return ax


def plot_ages(memory: Memory, bins: int = 30, ax: "Axes | None" = None) -> "Axes":
    """How many slots are how old, in writes.

    Args:
        memory: of any kind.
        bins: bars at most, each of as many ages.
        ax: to draw into; a new figure if None.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> int(sum(bar.get_height() for bar in plot_ages(memory).patches))
        2
    """
    ax = _axes(ax)
    ages = memory.ages[memory.state.occupied].cpu()
    oldest = int(ages.max()) if len(ages) else 0
    # Bars of unlike numbers of ages would rise and fall where the ages do not.
    width = oldest // bins + 1
    ax.hist(ages.numpy(), bins=[n * width - 0.5 for n in range(oldest // width + 2)])
    ax.set(xlabel="writes since the slot was written", ylabel="slots")
    return ax


def plot_confusions(
    answers: Sequence[Any], labels: Sequence[Any], ax: "Axes | None" = None
) -> "Axes":
    """For each class the shares of its examples that got each answer, darker for more.

    Args:
        answers: of `predict`; "unknown" is one of them.
        labels: the right ones.
        ax: to draw into; a new figure if None.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are not as many answers as labels.

    Example:
        >>> ax = plot_confusions(["kea", "kea"], ["kea", "weka"])
        >>> ax.images[0].get_array().tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    if len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers for {len(labels)} labels: give one of each")
    # To Python 1 and True are equal, and to a classifier they are two labels.
    pairs = [[(type(label), label) for label in part] for part in (answers, labels)]
    number = {pair: n for n, pair in enumerate(dict.fromkeys([*pairs[1], *pairs[0]]))}
    names = [label for _, label in number]
    shares = confusion_counts(*([number[pair] for pair in part] for part in pairs))
    shares = shares.double() / shares.sum(1, keepdim=True).clamp(min=1)
    ax = _axes(ax)
    if names:
        ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MOST_NAMES:
        ax.set_xticks(range(len(names)), [str(name) for name in names], rotation=90)
        ax.set_yticks(range(len(names)), [str(name) for name in names])
    ax.set(xlabel="answer", ylabel="class")
    return ax


def confusion_counts(answers: Sequence[int], labels: Sequence[int]) -> Int64[Tensor, "n n"]:
    """How often each class (row) got each answer (column), of classes 0, 1, ..."""
    count = 1 + max([-1, *answers, *labels])
    pairs = torch.tensor(labels, dtype=torch.int64) * count + torch.tensor(
        answers, dtype=torch.int64
    )
    return pairs.bincount(minlength=count * count).view(count, count)


def _colours(count: int) -> list[Any]:
    """As many colours, all different, and as unlike as so many can be."""
    from matplotlib import colormaps

    if count <= _MOST_NAMES:
        # These number their colours; `turbo` has one for each part of a range.
        return list(colormaps["tab10" if count <= 10 else "tab20"](range(count)))
    return list(colormaps["turbo"].resampled(count)(range(count)))


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib; run: pip install matplotlib") from None
    # Not by pyplot, which would keep every figure until it is closed.
    made: Axes = Figure(layout="constrained").add_subplot()
    return made
