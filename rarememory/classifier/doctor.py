"""The doctor: finds what makes answers bad in a memory, and says what to do about it."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.beside_keys import remembered_certainty
from rarememory.classifier.blend import Classes, class_logits, unremembered_logits
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label
from rarememory.classifier.reader import LeftOutEvidence, Reader
from rarememory.memory import Memory

UNCENTRED = 0.7
UNLIKE_SCALES = 100.0
FEW_DIFFERENCES = 0.1
"""Of a dimension. With fewer, the covariance within classes is mostly its shrinkage."""


class Clash(NamedTuple):
    """Two slots with nearly the same key and different labels."""

    slot: int
    label: Label
    other_slot: int
    other_label: Label
    score: float


class Confusion(NamedTuple):
    """A class whose remembered examples, left out, are mostly answered by another one."""

    label: Label
    other_label: Label
    share: float


@dataclass(frozen=True)
class Report:
    """What `MemoryClassifier.doctor` found; it prints as a table.

    Attributes:
        slots: number of slots.
        occupied: number of occupied slots.
        classes: number of labels in occupied slots.
        few: labels with fewer slots than `few`, and how many they have.
        dead: occupied slots whose key is not of unit length, so that its cosines are wrong.
        clashes: nearly equal keys of different labels, the nearest first.
        idle: occupied slots that are nearest to none of the given inputs; None without inputs.
        unused: occupied slots that answered none of the recorded reads; None if the memory does not
            count its usage, or no read was recorded.
        nameless: number of occupied slots without a ref; `refresh` and `forget_refs` need refs.
        confusions: classes of which at least half of the examples, left out one at a time, are
            answered by one other class; only by the fitted reader.
        silent: classes learnt beside a host that answer none of the given inputs; without inputs
            those whose own examples, left out, the host would answer all (of a class with one
            example, which cannot be left out, that one); None where it is not known what those
            would be answered.
        direction: length of the mean of all keys; near 1 all features point one way.
        scales: the greatest root mean square of a feature over the median one.
        differences: occupied slots less classes: what the covariance within classes rests on.
        key_dim: of the memory.

    Example:
        >>> from rarememory import wrap
        >>> birds = wrap(torch.nn.Identity(), host=False, memory=Memory(2, memory_size=9))
        >>> learnt = birds.learn(torch.ones(2, 2), ["kea", "weka"], refs=["1.png", "2.png"])
        >>> report = birds.doctor(few=1)
        >>> print(report)
        2 of 9 slots, 2 classes
             1  nearly equal examples of different labels: 'kea' = 'weka' (1.000)
                -> look at both (explain() names refs), forget_refs() the wrong one
             2  features, and few examples to whiten them by: 0 beyond the first of each class
                -> learn() more examples of any classes, the host's too
        >>> report.well
        False
    """

    slots: int
    occupied: int
    classes: int
    few: list[tuple[Label, int]]
    dead: list[int]
    clashes: list[Clash]
    idle: list[int] | None
    nameless: int
    confusions: list[Confusion]
    silent: list[Label] | None
    direction: float
    scales: float
    reader: str = "fitted"
    unused: list[int] | None = None
    differences: int = 0
    key_dim: int = 0

    @property
    def well(self) -> bool:
        """Whether there are no dead slots and no clashes."""
        return not self.dead and not self.clashes

    def as_json(self) -> dict[str, Any]:
        """The report as lists and dicts for JSON."""
        return {"well": self.well, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.occupied} of {self.slots} slots, {self.classes} classes"]
        for count, finding, examples, advice in self._findings():
            if count:
                lines.append(f"{count:>6}  {finding}: {_some(examples)}")
                lines.append(f"{'':8}-> {advice}")
        return "\n".join([*lines, *(["nothing to mend"] if len(lines) == 1 else [])])

    def _findings(self) -> list[tuple[int, str, list[str], str]]:
        full = self.slots if self.occupied == self.slots else 0
        unwhitened = self.reader == "fitted" and self.classes > 1
        unwhitened &= self.differences < FEW_DIFFERENCES * self.key_dim
        asked = self.idle is not None
        return [
            (
                full,
                "slots, all of them full",
                ["whatever is learnt next replaces the oldest"],
                "resize() to more slots",
            ),
            (
                len(self.few),
                "classes with few slots",
                [f"{label!r} ({count})" for label, count in self.few],
                "learn() more examples of each, unlike those it has",
            ),
            (
                len(self.dead),
                "dead slots, whose keys are not of unit length",
                [str(slot) for slot in self.dead],
                "memory.forget(slots=...) and learn again; something wrote into the keys",
            ),
            (
                len(self.clashes),
                "nearly equal examples of different labels",
                [f"{c.label!r} = {c.other_label!r} ({c.score:.3f})" for c in self.clashes],
                "look at both (explain() names refs), forget_refs() the wrong one",
            ),
            (
                len(self.idle or []),
                "slots that answered none of the inputs",
                [str(slot) for slot in self.idle or []],
                "keep them if the inputs were few; otherwise they can be forgotten",
            ),
            (
                len(self.unused or []),
                "slots that answered none of the recorded reads",
                [str(slot) for slot in self.unused or []],
                "memory.forget(slots=...) if these reads were many",
            ),
            (
                self.nameless,
                "slots without a ref",
                ["they can be neither refreshed nor forgotten one by one"],
                "learn(..., refs=...) with a path or an id each",
            ),
            (
                len(self.confusions),
                "classes that another one answers for",
                [f"{c.label!r} by {c.other_label!r}" for c in self.confusions],
                "learn() more examples of both, or give them one label if they are one class",
            ),
            (
                len(self.silent or []),
                "new classes that answer none of the inputs"
                if asked
                else "new classes that would not even answer their own examples",
                [repr(label) for label in self.silent or []],
                f"{'if the inputs show them, ' if asked else ''}the host outweighs "
                "the memory: learn() the host's classes too, or calibrate()",
            ),
            (
                int(self.reader == "nearest" and self.direction > UNCENTRED),
                "mean for all features, so that all cosines are high",
                [f"its length is {self.direction:.2f}"],
                'wrap(..., reader="fitted") centres them',
            ),
            (
                unwhitened * self.key_dim,
                "features, and few examples to whiten them by",
                [f"{self.differences} beyond the first of each class"],
                "learn() more examples of any classes, the host's too",
            ),
            (
                int(self.scales > UNLIKE_SCALES),
                "feature or more that outweighs the others",
                [f"it is {self.scales:.0f} times as great as most"],
                "divide each column by its standard deviation before learn()",
            ),
        ]


@torch.no_grad()
def examine(
    memory: Memory,
    book: LabelBook,
    reader: Reader,
    ensembler: Ensembler,
    queries: Tensor | None,
    answers: list[Label] | None,
    few: int,
    near: float,
) -> Report:
    """Examine every slot of a memory.

    Args:
        memory: to examine.
        book: of the memory.
        reader: of the memory.
        ensembler: weighs the memory against a host.
        queries: features to find idle slots by.
        answers: of the classifier to them.
        few: classes with fewer slots than this are reported.
        near: keys of different labels with at least this cosine are reported.
    """
    slots, host_ids = memory.state.occupied.nonzero().squeeze(1), ensembler.host_ids
    lengths = memory.keys[slots].float().norm(dim=1)
    # A key in half precision is not quite of unit length. NaN is not either.
    alive = (lengths - 1).abs() < 0.05
    well = bool(alive.all())
    counts = Counter(memory.values[slots].tolist())
    fitted, left_out = reader.name == "fitted", None
    # The nearest reader would project keys again, which are projected already.
    if well and len(memory) and (fitted or memory.projection is None):
        left_out = reader.left_out(memory, host_ids)
    if answers is None:
        silent = _outweighed(memory, book, ensembler, left_out)
    else:
        silent = _silent(counts, book, host_ids, answers)
    return Report(
        slots=len(memory.values),
        occupied=len(slots),
        classes=len(counts),
        few=[(book.label(value), count) for value, count in sorted(counts.items()) if count < few],
        dead=slots[~alive].tolist(),
        clashes=_clashes(memory, book, slots[alive], near),
        idle=None if queries is None else _idle(memory, slots, queries),
        nameless=sum(not book.refs(slot) for slot in slots.tolist()),
        confusions=_confusions(book, left_out if fitted else None),
        silent=silent,
        direction=memory.keys[slots].float().mean(0).norm().item() if len(slots) else 0.0,
        scales=_scales(memory.keys[slots].float()),
        reader=reader.name,
        unused=_unused(memory, slots),
        differences=len(slots) - len(counts),
        key_dim=memory.keys.shape[1],
    )


def _unused(memory: Memory, slots: Tensor) -> list[int] | None:
    if memory.usage is None or not memory.usage.reads:
        return None
    unused: list[int] = slots[memory.usage.uses[slots] == 0].tolist()
    return unused


def _confusions(book: LabelBook, left_out: LeftOutEvidence | None) -> list[Confusion]:
    if left_out is None or left_out.with_own is None or not left_out.several.any():
        return []
    best = left_out.with_own.scores.argmax(1, keepdim=True)
    answers = left_out.with_own.values.gather(1, best).squeeze(1)[left_out.several]
    own_ids = left_out.own_ids[left_out.several]
    found = []
    for own in own_ids.unique().tolist():
        given = Counter(answers[own_ids == own].tolist())
        (other, count), total = given.most_common(1)[0], given.total()
        if other != own and total > 2 and 2 * count >= total:
            found.append(Confusion(book.label(own), book.label(other), count / total))
    return found


def _silent(
    counts: Counter[int], book: LabelBook, host_ids: Tensor, answers: list[Label]
) -> list[Label]:
    if not len(host_ids):
        return []
    new = set(counts) - set(host_ids.tolist())
    return [label for label in map(book.label, sorted(new)) if label not in answers]


def _outweighed(
    memory: Memory, book: LabelBook, ensembler: Ensembler, left_out: LeftOutEvidence | None
) -> list[Label] | None:
    """New classes none of whose examples outweighs the host where it was least sure of one."""
    host_ids = ensembler.host_ids
    if not len(host_ids) or left_out is None or (evidence := left_out.with_own) is None:
        return None
    weights = ensembler.blend_weights
    slots = memory.state.occupied.nonzero().squeeze(1)
    confidences = remembered_certainty(memory, slots)[left_out.samples, 0]
    # 1 stands for what is not known: a host of so many classes is at least so sure.
    confidences = confidences.masked_fill(confidences == 1, 1 / len(host_ids))
    host = unremembered_logits(evidence, weights, confidences.log())
    found, own_ids = [], left_out.own_ids.unique()
    z = class_logits(evidence, weights, Classes(own_ids, host_ids)).amax(1)
    for own in own_ids.tolist():
        some = left_out.own_ids == own
        if own not in host_ids and z[some].max() < host[some].min():
            found.append(book.label(own))
    return found


def _scales(keys: Tensor) -> float:
    if len(keys) < 2:
        return 1.0
    spread = keys.square().mean(0).sqrt()
    median = spread.median()
    return (spread.max() / median.clamp(min=1e-6)).item()


def _clashes(memory: Memory, book: LabelBook, slots: Tensor, near: float) -> list[Clash]:
    found: dict[tuple[int, int], Clash] = {}
    for some in slots.split(1024):
        labels = memory.values[some]
        recall = memory(memory.keys[some], labels)
        wrong = (recall.values != labels.unsqueeze(1)) & (recall.slots != EMPTY)
        for row, column in (wrong & (recall.scores >= near)).nonzero().tolist():
            slot, other = some[row].item(), recall.slots[row, column].item()
            clash = Clash(
                int(slot),
                book.label(int(labels[row])),
                int(other),
                book.label(int(recall.values[row, column])),
                recall.scores[row, column].item(),
            )
            found.setdefault((min(slot, other), max(slot, other)), clash)
    return sorted(found.values(), key=lambda clash: (-clash.score, clash.slot))


def _idle(memory: Memory, slots: Tensor, queries: Tensor) -> list[int]:
    answered = memory(queries, k=1).slots.unique()
    idle: list[int] = slots[~torch.isin(slots, answered)].tolist()
    return idle


def _some(examples: list[str], count: int = 5) -> str:
    more = f", and {len(examples) - count} more" if len(examples) > count else ""
    return ", ".join(examples[:count]) + more
