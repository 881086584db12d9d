"""Writing examples: the memory and the label book change together, or neither does."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.answers import Learnt
from rarememory.classifier.beside_keys import BesideKeys, put_beside
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label
from rarememory.classifier.tuned_keys import untuned
from rarememory.memory import Memory
from rarememory.memory.budgets import layers_of
from rarememory.memory.queries import normalized
from rarememory.memory.selections import Selection

_USUAL = (1e-10, 1e10)
"""Rows with a length between these are finite and not zero."""

_SOME, _SPARSE = 1024, 64
"""Of more slots than the product, so many are looked at before all of them."""

_FEW = 16
"""So many lengths are looked at as fast as the least and the greatest are found."""


class LabelledFeatures(NamedTuple):
    """Features of examples, with one label and one ref each.

    Attributes:
        certainty: the host's, as `Ensembler.certainty` gives it; None without a host.
        example_dims: dimensions of an example.
    """

    features: Float[Tensor, "examples key_dim"]
    labels: list[Label]
    refs: list[Label]
    certainty: Float[Tensor, "examples 2"] | None = None
    example_dims: int | None = None

    @classmethod
    def joined(cls, batches: Iterable["LabelledFeatures"]) -> "LabelledFeatures":
        """All batches as one.

        Raises:
            ValueError: there is none.
        """
        parts = list(batches)
        if not parts:
            raise ValueError("this needs labelled examples, and the loader yields none")
        labels = [label for part in parts for label in part.labels]
        refs = [ref for part in parts for ref in part.refs]
        features = torch.cat([part.features for part in parts])
        known = [part.certainty for part in parts if part.certainty is not None]
        certainty = torch.cat(known) if len(known) == len(parts) else None
        return cls(features, labels, refs, certainty, parts[-1].example_dims)

    def some(self, rows: Int64[Tensor, " rows"]) -> "LabelledFeatures":
        """These examples."""
        labels, refs = ([of_each[row] for row in rows.tolist()] for of_each in self[1:3])
        known = None if self.certainty is None else self.certainty[rows]
        return LabelledFeatures(self.features[rows], labels, refs, known, self.example_dims)


def write_examples(
    memory: Memory,
    book: LabelBook,
    examples: LabelledFeatures,
    average: bool = False,
    select: Selection | None = None,
) -> Learnt:
    """Write examples into the memory, their labels and refs into the book.

    Args:
        memory: to write to.
        book: of the memory.
        examples: any number.
        average: write of each class one row, the mean direction of its examples.
        select: write of each class the examples that this chooses.

    Raises:
        ValueError: features are zero or not finite, or there are more examples than slots, of which
            some are protected; then nothing is written.
    """
    if not examples.labels:
        return Learnt.joined([])
    beside = checked_beside(examples)
    if select is not None:
        return _write_selected(memory, book, examples, average, select)
    size = len(memory.values)
    if len(examples.labels) > size and layers_of(memory.update).protected:
        raise ValueError(
            f"beside protected classes at most {size} examples, the slots of the memory, are "
            f"learnt at once, and these are {len(examples.labels)}"
        )
    numbers = book.ids(examples.labels)
    # By their integers, for to Python the labels 1 and True are equal.
    names: dict[int, Label] = {}
    for number, label in zip(numbers, examples.labels, strict=True):
        names.setdefault(number, label)
    # A row is written into one slot: one example, or all those of a class.
    rows = list(range(len(numbers)))
    if average:
        row_of = {number: row for row, number in enumerate(names)}
        rows, numbers = [row_of[number] for number in numbers], list(names)
    refs: list[list[Label]] = [[] for _ in numbers]
    for row, ref in zip(rows, examples.refs, strict=True):
        refs[row].append(ref)
    features, places = examples.features, None
    if average:
        places = torch.tensor(rows, device=features.device)
        features, beside = _mean_directions(features, places), beside.means(places)
    ids = torch.tensor(numbers, device=features.device)
    parts, whole = [], len(numbers) <= size
    for begin in range(0, len(numbers), size):
        some = slice(begin, begin + size)
        given = (features, beside, ids) if whole else (features[some], beside.at(some), ids[some])
        parts.append(_write(memory, book, *given, refs[some]))
    book.add(names.values())
    written = [Learnt(slots, hits, list(map(book.label, lost))) for slots, hits, lost in parts]
    learnt = Learnt.joined(written)
    if places is not None:
        learnt = learnt._replace(slots=learnt.slots[places], hits=learnt.hits[places])
    return learnt


def checked_beside(examples: LabelledFeatures) -> BesideKeys:
    """What is remembered of examples beside their keys.

    Raises:
        ValueError: features are zero or not finite.
    """
    beside = BesideKeys.of(examples.features, examples.certainty)
    _check_features(examples.features, beside.norms)
    return beside


def are_lost(
    numbers: list[int], values: Tensor, find_ids: Callable[[], Int64[Tensor, " classes"]]
) -> bool:
    """Whether no slot has one of the labels that were overwritten in some; most often all are used.

    Args:
        numbers: of these labels.
        values: of the memory.
        find_ids: gives the integers of all labels that are used, by a look at all slots.
    """
    step = len(values) // _SOME + 1
    if not numbers or (step > _SPARSE and {*numbers} <= {*values[::step].tolist()}):
        return False
    return not {*numbers} <= {*find_ids().tolist()}


def _write_selected(
    memory: Memory,
    book: LabelBook,
    examples: LabelledFeatures,
    average: bool,
    select: Selection,
) -> Learnt:
    numbers = torch.tensor(book.ids(examples.labels))
    rows = memory.rows_to_write(examples.features, numbers.to(examples.features.device), None)
    kept = torch.zeros_like(numbers, dtype=torch.bool)
    for number in numbers.unique():
        own = (numbers == number).nonzero().squeeze(1)
        kept[own[select(rows.queries[own]).to(own.device)]] = True
    chosen = kept.nonzero().squeeze(1)
    learnt = write_examples(memory, book, examples.some(chosen), average)
    slots = learnt.slots.new_full((len(numbers),), EMPTY)
    hits = learnt.hits.new_zeros(len(numbers))
    slots[chosen], hits[chosen] = learnt.slots, learnt.hits
    return Learnt(slots, hits, learnt.lost)


def _write(
    memory: Memory,
    book: LabelBook,
    features: Tensor,
    beside: BesideKeys,
    ids: Tensor,
    refs: list[list[Label]],
) -> tuple[Tensor, Tensor, list[int]]:
    """Write at most as many rows as there are slots: slots, hits, and overwritten integers."""
    # What was learnt before was tuned without these.
    with untuned(memory):
        write = memory.write(features, ids)
    averaged = memory.update.averages(write.hits).tolist()
    # Whatever a policy says, a row is averaged only into a key that it hit.
    averaged = [all(both) for both in zip(averaged, write.hits.tolist(), strict=True)]
    slots, stored = write.slots.tolist(), write.slots
    # A policy may keep not all of them.
    if EMPTY in slots:
        rows = [row for row, slot in enumerate(slots) if slot != EMPTY]
        stored, beside = stored[rows], beside.at(rows)
        slots, averaged, refs = ([part[row] for row in rows] for part in (slots, averaged, refs))
    # A number is an index that takes less time than a list of one.
    put_beside(memory, slots[0] if len(slots) == 1 else stored, beside)
    book.note_refs(slots, [not into for into in averaged], refs)
    lost = [number for number in write.overwritten.tolist() if number != EMPTY]
    return write.slots, write.hits, lost


def _mean_directions(features: Tensor, rows: Tensor) -> Tensor:
    """The mean of the unit vectors of each row."""
    units, _ = normalized(features, features.dtype)
    return units.new_zeros(int(rows.max()) + 1, units.shape[1]).index_add_(0, rows, units)


def _check_features(features: Tensor, norms: Tensor) -> None:
    # Checked for the whole batch, since its first part may be written before the memory sees all.
    few = len(norms) <= _FEW
    extremes = norms.tolist() if few else [float(one) for one in norms.aminmax()]
    if all(_USUAL[0] < length < _USUAL[1] for length in extremes):
        return
    bad = ~features.isfinite().all(1) | ~features.any(1)
    if bad.any():
        rows = bad.nonzero().squeeze(1).tolist()
        raise ValueError(
            f"the features of examples {rows[:8]} are zero or not finite: leave them out, or look "
            "for NaN in these inputs and in the model's weights"
        )
