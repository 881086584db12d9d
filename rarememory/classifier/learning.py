"""Learning a batch: the memory, the names and the refs are written in step, or not at all."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.answering import Answering
from rarememory.classifier.answers import Learnt
from rarememory.classifier.examples import Batch, check_dims, chunks, dims_of
from rarememory.classifier.labels import Label, check_nameable
from rarememory.memory.queries import normalized


class Encoded(NamedTuple):
    """Examples as the host sees them, with their labels, their refs, and dimensions before."""

    features: Float[Tensor, "examples key_dim"]
    labels: list[Label]
    refs: list[Label]
    dims: int | None

    @classmethod
    def joined(cls, batches: Iterable["Encoded"]) -> "Encoded":
        """All batches as one.

        Raises:
            ValueError: there is none.
        """
        parts = list(batches)
        if not parts:
            raise ValueError("this needs labelled examples, and the loader yields none")
        labels = [label for part in parts for label in part.labels]
        refs = [ref for part in parts for ref in part.refs]
        return cls(torch.cat([part.features for part in parts]), labels, refs, parts[-1].dims)


def encoded(classifier: Answering, batch: Batch) -> Encoded:
    """The examples of a batch as the host sees them.

    Raises:
        ValueError: they have other dimensions than those learnt, or a label cannot be one.
    """
    check_dims(batch.inputs, classifier._example_dims)
    check_nameable(batch.labels, classifier.unknown)
    if not batch.labels:
        nothing = classifier.memory.keys.new_zeros(0, classifier.memory.keys.shape[1])
        return Encoded(nothing, [], [], classifier._example_dims)
    features, _ = classifier._seen(batch.inputs)
    return Encoded(features, batch.labels, batch.refs, dims_of(batch.inputs))


def learnt(classifier: Answering, examples: Encoded, average: bool = False) -> Learnt:
    """Remember examples; with `average` of each class their mean, in one slot.

    Raises:
        ValueError: they cannot be learnt; then none of them is.
    """
    if not examples.labels:
        return Learnt.joined([])
    _refuse_bad(examples.features)
    # A row is what goes into one slot: an example, or all those of a class.
    names = list(dict.fromkeys(examples.labels)) if average else examples.labels
    row_of = {name: row for row, name in enumerate(names)}
    rows = [row_of[label] if average else row for row, label in enumerate(examples.labels)]
    refs: list[list[Label]] = [[] for _ in names]
    for row, ref in zip(rows, examples.refs, strict=True):
        refs[row].append(ref)
    places = torch.tensor(rows, device=examples.features.device)
    features = _means(examples.features, places) if average else examples.features
    done = _all_written(classifier, features, names, refs)
    classifier._example_dims = examples.dims
    return done._replace(slots=done.slots[places], hits=done.hits[places])


def _means(features: Tensor, rows: Tensor) -> Tensor:
    """The mean direction of the features of each row."""
    units, _ = normalized(features, features.dtype)
    return units.new_zeros(int(rows.max()) + 1, units.shape[1]).index_add_(0, rows, units)


def _all_written(
    classifier: Answering, features: Tensor, names: list[Label], refs: list[list[Label]]
) -> Learnt:
    ids = torch.tensor(classifier._names.ids(names), device=features.device)
    size = len(classifier.memory.values)
    pieces = zip(features.split(size), ids.split(size), chunks(refs, size), strict=True)
    parts = [_written(classifier, *piece) for piece in pieces]
    classifier._names.add(names)
    lost = [classifier._names.label(number) for _, _, gone in parts for number in gone]
    if lost:
        classifier._tidy()
    return Learnt(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), lost)


def _written(
    classifier: Answering, features: Tensor, ids: Tensor, refs: list[list[Label]]
) -> tuple[Tensor, Tensor, list[int]]:
    """Write at most as many rows as there are slots: slots, hits, and the values given up."""
    occupied = classifier.memory.state.occupied
    write = classifier.memory.write(features, ids)
    averaged = occupied[write.slots] & (write.overwritten == EMPTY)
    classifier._refs.note(write.slots.tolist(), averaged.logical_not().tolist(), refs)
    gone: list[int] = write.overwritten[write.overwritten != EMPTY].tolist()
    return write.slots, write.hits, gone


def _refuse_bad(features: Tensor) -> None:
    """Refuse features without a direction before any piece of the batch is written."""
    bad = ~features.isfinite().all(1) | ~features.any(1)
    if bad.any():
        rows = bad.nonzero().squeeze(1).tolist()
        raise ValueError(
            f"the model makes nothing of examples {rows[:8]}: their features are zero or not finite"
        )
