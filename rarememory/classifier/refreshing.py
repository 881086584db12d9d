"""Stale keys: after the encoder has changed, remembered examples are encoded again."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.beside_keys import UNKNOWN, BesideKeys, put_beside
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.examples import batches_with_refs
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, one_spelling
from rarememory.classifier.tuned_keys import learnt_keys, untune
from rarememory.memory import Memory
from rarememory.memory.queries import normalized


class Drift(NamedTuple):
    """How far the keys of remembered examples are from what the encoder gives for them now.

    Attributes:
        cosine: mean cosine between a key and its new encoding; 1 if the encoder did not change.
        lowest: the least of these cosines.
        slots: how many slots were compared.
        unmet: occupied slots of which the loader had no example.

    Example:
        >>> import rarememory
        >>> encoder = torch.nn.Linear(2, 2, bias=False)
        >>> encoder.weight.data = torch.eye(2)
        >>> birds = rarememory.wrap(encoder, host=False)
        >>> learnt = birds.learn(torch.eye(2), ["kea", "weka"], refs=["1.png", "2.png"])
        >>> encoder.weight.data = torch.tensor([[1.0, 0.75], [0.0, 1.0]])
        >>> drift = birds.refresh([(torch.eye(2), ["1.png", "2.png"])])
        >>> round(drift.cosine, 2), round(drift.lowest, 2), drift.slots, drift.unmet
        (0.9, 0.8, 2, 0)
    """

    cosine: float
    lowest: float
    slots: int
    unmet: int


class NewKeys(NamedTuple):
    """New keys, their slots, and what is remembered beside them."""

    slots: Int64[Tensor, " met"]
    keys: Float[Tensor, "met key_dim"]
    beside: BesideKeys


class EncodedRefs(NamedTuple):
    """A batch of examples after the model, with their refs.

    Attributes:
        certainty: the host's, as `Ensembler.certainty` gives it; None without a host.
    """

    features: Float[Tensor, "examples key_dim"]
    certainty: Float[Tensor, "examples 2"] | None
    refs: list[Label]


def encoded(
    extract: Callable[[Any], tuple[Tensor, Tensor | None]],
    ensembler: Ensembler,
    loader: Iterable[Any],
    progress: bool | None,
) -> list[EncodedRefs]:
    """All batches: the slots of the refs may change while the model runs."""
    batches = []
    for inputs, refs in batches_with_refs(loader, progress):
        features, outputs = extract(inputs)
        batches.append(EncodedRefs(features, ensembler.certainty(outputs), refs))
    return batches


@torch.no_grad()
def new_keys(
    memory: Memory,
    slots_by_ref: dict[Label, list[int]],
    batches: Iterable[EncodedRefs],
) -> NewKeys:
    """The new key of every slot that a batch has an example of.

    The key of a slot with several examples is the mean of those in the batches, at unit length.

    Args:
        memory: whose keys are compared.
        slots_by_ref: the slots of every ref, as the label book gives them.
        batches: of examples.

    Raises:
        ValueError: no slot has any of the refs.
    """
    sums = torch.zeros_like(memory.keys)
    counts, lengths = sums.new_zeros(2, len(sums))
    certainties, unknown = sums.new_zeros(len(sums), 2), sums.new_tensor(UNKNOWN)
    for features, certainty, refs in batches:
        projected = features if memory.projection is None else memory.projection(features)
        rows, _ = normalized(projected, sums.dtype)
        norms, known = BesideKeys.of(features, certainty)
        sure = unknown.expand(len(norms), 2) if known is None else known.to(sums.dtype)
        for row, norm, own, ref in zip(rows, norms, sure, refs, strict=True):
            slots = slots_by_ref.get(one_spelling(ref), [])
            sums[slots] += row
            lengths[slots] += norm
            certainties[slots] += own
            counts[slots] += 1
    found = counts.nonzero().squeeze(1)
    if not len(found):
        raise ValueError(
            "no remembered example has a ref of this loader: it must yield (inputs, refs), with "
            "the refs that were given to learn"
        )
    keys, _ = normalized(sums[found], sums.dtype)
    beside = BesideKeys(lengths / counts, certainties / counts.unsqueeze(1))
    return NewKeys(found, keys, beside.at(found))


def drift(memory: Memory, book: LabelBook, batches: Iterable[EncodedRefs]) -> Drift:
    """How far keys are from their new ones; arguments and errors are those of `new_keys`."""
    return _drift(memory, new_keys(memory, book.slots_by_ref(), batches))


def refresh(memory: Memory, book: LabelBook, batches: Iterable[EncodedRefs]) -> Drift:
    """Put new keys in place of the old ones; return how far they were from each other.

    Raises:
        ValueError: as in `new_keys`.
        RuntimeError: the memory is read-only.
    """
    memory.require_writable("refresh")
    new = new_keys(memory, book.slots_by_ref(), batches)
    found = _drift(memory, new)
    untune(memory)
    memory.keys[new.slots] = new.keys
    put_beside(memory, new.slots, new.beside)
    return found


def _drift(memory: Memory, new: NewKeys) -> Drift:
    cosines = (new.keys.float() * learnt_keys(memory)[new.slots].float()).sum(1)
    met = len(cosines)
    return Drift(cosines.mean().item(), cosines.min().item(), met, len(memory) - met)
