"""Explanations: the remembered examples that an answer is based on."""

from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.answers import Remembered
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.reader import Carriers
from rarememory.memory import Memory


def explanations(
    carriers: Carriers, weights: Tensor, memory: Memory, book: LabelBook, k: int
) -> list[list[Remembered]]:
    """The k remembered examples with the greatest weight in every answer, the greatest first.

    Args:
        carriers: examples behind each answer.
        weights: the share of each score of their evidence in the answer.
        memory: that holds them.
        book: of the memory.
        k: examples to list.
    """
    weights = weights.gather(1, carriers.columns) * carriers.shares
    # A stable order, so that of equal weights the nearest comes first.
    best = weights.sort(dim=1, descending=True, stable=True).indices[:, :k]
    slots, weights, cosines = (
        part.gather(1, best) for part in (carriers.slots, weights, carriers.cosines)
    )
    parts = (slots, memory.values[slots], cosines, weights, memory.ages[slots])
    return [
        [
            Remembered(book.label(value), score, weight, book.refs(slot), slot, age)
            for slot, value, score, weight, age in zip(*row, strict=True)
            if slot != EMPTY
        ]
        for row in zip(*(part.tolist() for part in parts), strict=True)
    ]
