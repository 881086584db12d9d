"""Explanations: the remembered examples that an answer is based on."""

from torch import Tensor

from rarememory.base.state import EMPTY, Recall
from rarememory.classifier.answers import Remembered
from rarememory.classifier.label_book import LabelBook


def explanations(
    recall: Recall, weights: Tensor, ages: Tensor, book: LabelBook, k: int
) -> list[list[Remembered]]:
    """The k nearest remembered examples of every row of a recall, nearest first.

    Args:
        recall: at least k neighbours of each input.
        weights: their shares of the answer.
        ages: of all slots.
        book: of the memory.
        k: examples to list.
    """
    parts = (recall.slots, recall.values, recall.scores, weights, ages[recall.slots])
    return [
        [
            Remembered(book.label(value), score, weight, book.refs(slot), slot, age)
            for slot, value, score, weight, age in zip(*row, strict=True)
            if slot != EMPTY
        ]
        for row in zip(*(part[:, :k].tolist() for part in parts), strict=True)
    ]
