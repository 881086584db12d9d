"""Acts: changes on their way into a store, what they are decided to do, and what they return."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rarememory.classifier.answers import Learnt
from rarememory.classifier.labels import label_from_json, label_to_json
from rarememory.classifier.learning import LabelledFeatures
from rarememory.memory.drafts import Search
from rarememory.memory.foreseeing import Foreseen
from rarememory.store.changes import Change, Rows


class Known(NamedTuple):
    """The change that a worker knows.

    Attributes:
        version: its number; 0 before the first.
        epoch: how often the memory has changed whole until then.
        text: its facts.
    """

    version: int = 0
    epoch: int = 0
    text: str = "{}"


class Decision(NamedTuple):
    """What a change would do to one version of the memory.

    Attributes:
        result: what it returns.
        change: what is others after it.
        version: that it was decided on.
        rows: what the buffers of the memory hold in the slots of the change.
        foreseen: what its write does, where it was not made to see that.
    """

    result: Any
    change: Change
    version: int
    rows: Rows
    foreseen: Foreseen | None = None


@dataclass
class Act:
    """A change that is on its way into the store, and may need several tries.

    Attributes:
        name: its id.
        change: changes the state, and returns something.
        whole: whether more than some slots, labels, refs and weights change.
        encoder: hash of the model that was asked for it.
        generations: 1 for a refresh.
        decision: the latest.
        examples: that are learnt, each in a row of its own, where that is all.
        search: the latest of its write.
        searched: what this worker knew then.
        sent: whether the decision may have been committed.
    """

    name: str
    change: Callable[[], Any]
    whole: bool
    encoder: str
    generations: int
    examples: LabelledFeatures | None = None
    decision: Decision | None = None
    search: Search | None = None
    searched: Known = Known()  # noqa: RUF009
    sent: bool = False


def answer_of(result: Any) -> str:
    """What a change has returned, in JSON, for those who do it again."""
    if isinstance(result, Learnt):
        lost = [label_to_json(label) for label in result.lost]
        return json.dumps([result.slots.tolist(), result.hits.tolist(), lost])
    return json.dumps(result if isinstance(result, int) else None)


def result_of(answer: str) -> Any:
    """What a change has returned, from its JSON."""
    stored = json.loads(answer)
    if isinstance(stored, list):
        slots, hits, lost = stored
        return Learnt(
            torch.tensor(slots, dtype=torch.int64),
            torch.tensor(hits, dtype=torch.bool),
            [label_from_json(label) for label in lost],
        )
    return stored
