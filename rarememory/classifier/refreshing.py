"""Stale keys: after the encoder has moved, remembered examples are encoded again."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.answering import Answering
from rarememory.classifier.examples import gathered, with_bar
from rarememory.classifier.labels import Label
from rarememory.classifier.refs import plain_ref
from rarememory.memory import Memory
from rarememory.memory.queries import normalized


class Drift(NamedTuple):
    """How far the keys of remembered examples lie from what the encoder makes of them today.

    Attributes:
        cosine: mean cosine between a key and its new encoding; 1 if nothing moved.
        lowest: that of the slot that moved farthest.
        slots: how many slots were met.
        unmet: occupied slots of which no example was met.

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


class Encoded(NamedTuple):
    """New keys, and the slots that they belong to."""

    slots: Int64[Tensor, " met"]
    keys: Float[Tensor, "met key_dim"]


@torch.no_grad()
def encoded_again(classifier: Answering, loader: Iterable[Any], progress: bool | None) -> Encoded:
    """The new key of every slot of which an example is met.

    A slot that several examples were averaged into gets the mean of those that are met, of unit
    length.

    Args:
        classifier: whose host encodes, and whose slots are met.
        loader: yields (inputs, refs) or (inputs, labels, refs).
        progress: as in `MemoryClassifier.learn`.

    Raises:
        ValueError: no ref of the loader is remembered.
    """
    keys = classifier.memory.keys
    sums = torch.zeros_like(keys)
    met = torch.zeros_like(classifier.memory.values, dtype=torch.bool)
    slots_of = classifier._refs.by_ref()
    for batch in with_bar(loader, progress):
        inputs, refs = _inputs_and_refs(batch)
        rows, _ = normalized(_mapped(classifier._seen(inputs)[0], classifier.memory), keys.dtype)
        for row, ref in zip(rows, refs, strict=True):
            there = slots_of.get(ref, [])
            sums[there] += row
            met[there] = True
    slots = met.nonzero().squeeze(1)
    if not len(slots):
        raise ValueError(
            "no remembered example has a ref of this loader: it must yield (inputs, refs), with "
            "the refs that were given to learn"
        )
    return Encoded(slots, normalized(sums[slots], keys.dtype)[0])


def _mapped(features: Tensor, memory: Memory) -> Tensor:
    if memory.projection is None:
        return features
    mapped: Tensor = memory.projection(features)
    return mapped


def drift_of(encoded: Encoded, memory: Memory) -> Drift:
    """How far the keys are from their new encodings."""
    cosines = (encoded.keys.float() * memory.keys[encoded.slots].float()).sum(1)
    met = len(cosines)
    return Drift(cosines.mean().item(), cosines.min().item(), met, len(memory) - met)


def _inputs_and_refs(batch: Any) -> tuple[Any, list[Label]]:
    if not isinstance(batch, list | tuple) or len(batch) not in (2, 3):
        raise ValueError("a loader must yield (inputs, refs) or (inputs, labels, refs)")
    return gathered(batch[0]), [plain_ref(ref) for ref in batch[-1]]
