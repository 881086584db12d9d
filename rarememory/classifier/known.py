"""Examples of known classes, as features and integers: what is fitted is fitted to these."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.answering import Answering
from rarememory.classifier.examples import batches_of, check_dims, is_loader


class Known(NamedTuple):
    """Examples whose classes are known: their features, the host's logits, and their integers."""

    features: Float[Tensor, "batch key_dim"]
    logits: Float[Tensor, "batch n_host"] | None
    ids: Int64[Tensor, " batch"]


def labelled(
    classifier: Answering, inputs: Any, labels: Any, progress: bool | None
) -> Iterator[Known]:
    """Labelled examples, batch by batch; arguments as in `MemoryClassifier.learn`.

    Raises:
        ValueError: numbers do not fit, or a label is not known.
    """
    for batch in batches_of(inputs, labels, None, progress):
        check_dims(batch.inputs, classifier._example_dims)
        features, logits = classifier._seen(batch.inputs)
        ids = torch.tensor(classifier._names.known(batch.labels), device=features.device)
        yield Known(features, classifier._own(logits), ids.long())


def taken_for_known(
    classifier: Answering, inputs: Any, labels: Any, progress: bool | None
) -> Iterator[Known]:
    """Known examples, batch by batch: labelled, as they are answered, or those remembered.

    Raises:
        ValueError: as `labelled`, or nobody kept what the host says of the remembered examples.
    """
    if labels is not None or is_loader(inputs):
        yield from labelled(classifier, inputs, labels, progress)
    elif inputs is not None:
        for features, logits in classifier._batches(inputs)[1]:
            evidence = classifier._evidence(features, logits)
            best = classifier._chances(evidence, classifier._weighed()).argmax(1)
            yield Known(features, logits, classifier._ids()[best])
    elif classifier.memory.projection is not None:
        raise ValueError(
            "the memory maps what it is asked, and its keys are mapped already: give inputs, or "
            "unknown="
        )
    elif classifier.host.answers:
        raise ValueError(
            "the model answers too, and what it says of the remembered examples is not kept: give "
            "inputs, or unknown="
        )
    else:
        memory = classifier.memory
        occupied = memory.state.occupied
        yield Known(memory.keys[occupied], None, memory.values[occupied])


def pooled(batches: Iterable[Known]) -> Known:
    """All batches as one.

    Raises:
        ValueError: there is none.
    """
    parts = list(batches)
    if not parts:
        raise ValueError("this needs labelled examples, and the loader yields none")
    logits = [part.logits for part in parts if part.logits is not None]
    return Known(
        torch.cat([part.features for part in parts]),
        torch.cat(logits) if logits else None,
        torch.cat([part.ids for part in parts]),
    )
