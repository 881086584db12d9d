"""Learning a batch: the memory, the names and the refs are written in step, or not at all."""

import torch
from torch import Tensor

from rarememory.classifier.answering import Answering
from rarememory.classifier.answers import Learnt
from rarememory.classifier.examples import Batch, check_dims, chunks, dims_of
from rarememory.classifier.labels import Label, check_nameable
from rarememory.state import EMPTY


def learnt(classifier: Answering, batch: Batch) -> Learnt:
    """Remember the examples of a batch.

    Raises:
        ValueError: the batch cannot be learnt; then nothing of it is.
    """
    check_dims(batch.inputs, classifier._example_dims)
    check_nameable(batch.labels, classifier.unknown)
    if not batch.labels:
        return Learnt.joined([])
    features, _ = classifier._seen(batch.inputs)
    _refuse_bad(features)
    ids = torch.tensor(classifier._names.ids(batch.labels), device=features.device)
    size = len(classifier.memory.values)
    pieces = zip(features.split(size), ids.split(size), chunks(batch.refs, size), strict=True)
    parts = [_written(classifier, *piece) for piece in pieces]
    classifier._names.add(batch.labels)
    classifier._example_dims = dims_of(batch.inputs)
    lost = [classifier._names.label(number) for _, _, gone in parts for number in gone]
    if lost:
        classifier._tidy()
    return Learnt(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), lost)


def _written(
    classifier: Answering, features: Tensor, ids: Tensor, refs: list[Label]
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
