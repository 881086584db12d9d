"""Data types: what learning did, what an answer is, and which examples it is based on."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.validation import check_count
from rarememory.classifier.labels import Label


class Learnt(NamedTuple):
    """What learning did with every example.

    Attributes:
        slots: the slot that it was written to.
        hits: whether the nearest remembered example had the same label.
        lost: labels of the slots that were overwritten, one each.

    Example:
        >>> from rarememory import Memory, wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(4, memory_size=1))
        >>> birds.learn(torch.eye(4)[0], "kea").hits
        tensor([False])
        >>> birds.learn(torch.eye(4)[1], "weka").lost
        ['kea']
    """

    slots: Int64[Tensor, " batch"]
    hits: Bool[Tensor, " batch"]
    lost: list[Label]

    @classmethod
    def joined(cls, parts: Iterable["Learnt"]) -> "Learnt":
        """What learning batch after batch did."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), [])
        lost = [label for part in parts for label in part.lost]
        return cls(torch.cat([p.slots for p in parts]), torch.cat([p.hits for p in parts]), lost)


class Probabilities(NamedTuple):
    """The probability of each class, from memory and host together.

    Attributes:
        classes: their labels.
        values: one row for each example; one dimension for a single example.

    Example:
        >>> birds = Probabilities(["kea", "kakapo"], torch.tensor([0.25, 0.75]))
        >>> birds.top(1), birds.confidence.item(), birds.margin.item()
        ([('kakapo', 0.75)], 0.75, 0.5)
    """

    classes: list[Label]
    values: Float[Tensor, "*batch classes"]

    @property
    def confidence(self) -> Float[Tensor, "*batch"]:
        """Probability of the likeliest class; 0 where there is no class."""
        return torch.nn.functional.pad(self.values, (0, 1)).amax(-1)

    @property
    def margin(self) -> Float[Tensor, "*batch"]:
        """Probability of the likeliest class minus that of the next."""
        best = torch.nn.functional.pad(self.values, (0, 2)).topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]

    def top(self, n: int = 5) -> list[tuple[Label, float]] | list[list[tuple[Label, float]]]:
        """The n likeliest classes, best first; a list of such lists for a batch.

        Raises:
            ValueError: n is no integer of at least 1.
        """
        check_count("n", n)
        best = self.values.topk(min(n, len(self.classes)), dim=-1)
        if self.values.dim() == 1:
            return self._named(best.values.tolist(), best.indices.tolist())
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [self._named(values, places) for values, places in rows]

    def _named(self, values: list[float], places: list[int]) -> list[tuple[Label, float]]:
        return [(self.classes[place], value) for value, place in zip(values, places, strict=True)]


class Remembered(NamedTuple):
    """A remembered example that contributed to an answer.

    Attributes:
        label: its class.
        score: its cosine with the input.
        weight: its share of the answer, in [0, 1]; the rest is that of the host and of neighbours
            farther away.
        refs: of the examples averaged into it, the latest last.
        slot: its index in the memory.
        age: writes since it was last written.

    Example:
        >>> from rarememory import Memory, wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(2))
        >>> learnt = birds.learn(torch.eye(2), ["kea", "weka"], refs=["1.png", "2.png"])
        >>> nearest, farther = birds.explain(torch.tensor([0.8, 0.6]))
        >>> nearest.label, nearest.ref, round(nearest.score, 2), nearest.age
        ('kea', '1.png', 0.8, 0)
    """

    label: Label
    score: float
    weight: float
    refs: tuple[Label, ...]
    slot: int
    age: int

    @property
    def ref(self) -> Label:
        """The latest of its refs, None if it has none."""
        return self.refs[-1] if self.refs else None


class StoredExample(NamedTuple):
    """What an occupied slot of a classifier's memory holds.

    Attributes:
        slot: its index in the memory.
        label: its class.
        refs: of the examples averaged into it, the latest last.

    Example:
        >>> from rarememory import Memory, wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(2))
        >>> learnt = birds.learn(torch.eye(2), ["kea", "weka"], refs=["1.png", None])
        >>> birds.examples()[0]
        StoredExample(slot=0, label='kea', refs=('1.png',))
    """

    slot: int
    label: Label
    refs: tuple[Label, ...]


class Forgotten(NamedTuple):
    """What forgetting by refs did.

    Attributes:
        slots: how many were emptied.
        beside: refs of other examples that had been averaged into them; learn those again.

    Example:
        >>> from rarememory import Memory, wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(2))
        >>> for ref, image in (("1.png", [1.0, 0.0]), ("2.png", [0.8, 0.6])):
        ...     learnt = birds.learn(torch.tensor(image), "kea", ref)
        >>> birds.forget_refs("1.png")
        Forgotten(slots=1, beside=['2.png'])
    """

    slots: int
    beside: list[Label]
