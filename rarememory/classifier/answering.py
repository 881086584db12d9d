"""Answering: what a memory and a host say together of features that the model has made."""

import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.answers import Remembered
from rarememory.classifier.beside_keys import remembered_certainty
from rarememory.classifier.blend import Evidence
from rarememory.classifier.calibration import Calibration
from rarememory.classifier.ensembler import SUREST, Ensembler
from rarememory.classifier.explaining import explanations
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labelled import LabelledOutputs
from rarememory.classifier.reader import Reader
from rarememory.classifier.readers import reader_of
from rarememory.classifier.tuning import best_reader
from rarememory.memory import Memory


class Familiarities(NamedTuple):
    """Familiarities of examples with and without their own class.

    Attributes:
        with_own: NaN where it is not known.
        without_own: as if the class had never been learnt.
        own_ids: the integers of the classes.
    """

    with_own: Float[Tensor, " examples"]
    without_own: Float[Tensor, " examples"]
    own_ids: Int64[Tensor, " examples"]

    @classmethod
    def joined(cls, parts: Iterable["Familiarities"], like: Tensor) -> "Familiarities":
        """Those of all parts as one; `like` is of the dtype and the device where there are none."""
        none = cls(like.new_zeros(0), like.new_zeros(0), like.new_zeros(0, dtype=torch.int64))
        return cls(*(torch.cat(part) for part in zip(none, *parts, strict=True)))

    def known(self) -> Float[Tensor, " known"]:
        """Familiarities of the examples as they are, where they are known."""
        return self.with_own[~self.with_own.isnan()]


class Answerer(NamedTuple):
    """A memory, how it is asked, and what weighs its evidence against that of a host.

    It holds the parts themselves and no copies: make one inside the lock, and use it there.

    Attributes:
        memory: to ask.
        reader: asks it.
        ensembler: weighs the evidence.
        ids: the integers of all classes, ascending.
    """

    memory: Memory
    reader: Reader
    ensembler: Ensembler
    ids: Int64[Tensor, " classes"]

    def evidence(
        self, features: Tensor, outputs: Tensor | None, among: Tensor | None = None
    ) -> Evidence:
        """What memory and host say of every row, perhaps only of some classes."""
        return self.reader.read(self.memory, self.ensembler, features, outputs, among)

    def probabilities(
        self, features: Tensor, outputs: Tensor | None, among: Tensor | None = None
    ) -> Float[Tensor, "batch classes"]:
        """The probability of every class, or of every one of some classes."""
        evidence = self.evidence(features, outputs, among)
        return self.ensembler.probabilities(evidence, self.ids if among is None else among)

    def familiarity(self, features: Tensor, outputs: Tensor | None) -> Float[Tensor, " batch"]:
        """The evidence for the best class."""
        return self.ensembler.familiarity(self.evidence(features, outputs), self.ids)

    def explanations(
        self, features: Tensor, outputs: Tensor | None, book: LabelBook, k: int
    ) -> list[list[Remembered]]:
        """The k remembered examples that each answer is based on."""
        logits, host_ids = self.ensembler.host_logits(outputs), self.ensembler.host_ids
        found = self.reader.carriers(self.memory, host_ids, features, logits, k)
        weights = self.ensembler.example_weights(found.evidence, self.ids)
        return explanations(found, weights, self.memory, book, k)

    def without_own_class(
        self, features: Tensor, outputs: Tensor | None, own_ids: Tensor | None = None
    ) -> Familiarities:
        """Familiarities of examples of these classes, or else of the likeliest ones."""
        found = self.evidence(features, outputs)
        if own_ids is None:
            own_ids = self.ids[self.ensembler.probabilities(found, self.ids).argmax(1)]
        logits, host_ids = self.ensembler.host_logits(outputs), self.ensembler.host_ids
        without = self.reader.without_own_class(self.memory, host_ids, features, logits, own_ids)
        known, unknown = (self.ensembler.familiarity(part, self.ids) for part in (found, without))
        return Familiarities(known, unknown, own_ids)

    def remembered_without_own_class(self, rate: float) -> Familiarities:
        """Familiarities of the remembered examples, each without itself.

        Args:
            rate: of false accepts, which they are for.

        Raises:
            ValueError: there is a host, and too little is known of its answers to them.
        """
        if (reason := self.why_not_left_out(rate)) is not None:
            raise ValueError(f"{reason}: give inputs, or unknown=")
        host_ids, familiarity = self.ensembler.host_ids, self.ensembler.familiarity
        left_out = self.reader.left_out(self.memory, host_ids)
        if (host_ids != EMPTY).any():
            familiarity = partial(
                self.ensembler.familiarity_by_confidence,
                confidences=self._confidences()[left_out.samples].clamp(max=SUREST),
            )
        without_own = familiarity(left_out.without_own, ids=self.ids)
        with_own = without_own.new_full((len(left_out.own_ids),), torch.nan)
        if left_out.with_own is not None:
            with_own = familiarity(left_out.with_own, ids=self.ids)
            with_own = with_own.masked_fill(~left_out.several, torch.nan)
        return Familiarities(with_own, without_own, left_out.own_ids)

    def why_not_left_out(self, rate: float) -> str | None:
        """Why remembered examples cannot be judged without their own class; None if they can be.

        Of a host's answers to them no probability is remembered but the highest, and that not
        beyond `SUREST`: the rate must leave out more of them than are as sure.
        """
        host_ids, values = self.ensembler.host_ids, self.memory.values
        if (host_ids == EMPTY).all():
            return None
        if (host_ids == EMPTY).any():
            return "classes of the model were forgotten, and were part of how sure it was"
        occupied = self.memory.state.occupied
        if (torch.isin(values, host_ids) & occupied).any():
            return (
                "examples of the model's own classes are remembered, and its logits for them are "
                "not stored"
            )
        if not occupied.any():
            return "the model has logits too, and the memory is empty"
        beyond = (self._confidences() >= SUREST).double().mean().item()
        if beyond > rate:
            return (
                f"the model has logits too, and how sure it was of {100 * beyond:.0f} % of the "
                "remembered examples is not known, or more than can be told"
            )
        return None

    def _confidences(self) -> Float[Tensor, " remembered"]:
        """How sure the host was of every remembered example, in the order of the slots."""
        slots = self.memory.state.occupied.nonzero().squeeze(1)
        return remembered_certainty(self.memory, slots)[:, 0]

    def calibrated(
        self,
        examples: LabelledOutputs,
        objective: str,
        max_loss: float | None,
    ) -> tuple[Reader, Float[Tensor, " weights"], Calibration]:
        """The reader and the weights that suit held-out examples best, and how well they do.

        The present reader, where another does not reach as much of the objective.

        Args:
            examples: held out.
            objective: one of `calibration.OBJECTIVES`.
            max_loss: as in `Ensembler.calibrated`.
        """
        logits, host_ids = self.ensembler.host_logits(examples.logits), self.ensembler.host_ids

        def evidence(reader: Reader) -> Evidence:
            return reader.evidence(self.memory, host_ids, examples.features, logits)

        def merit(reader: Reader) -> float:
            return self.ensembler.merit(evidence(reader), examples.ids, self.ids, objective)

        def error(merit: float) -> float:
            """About the standard error of a share of right answers; 0 of a likelihood."""
            share = min(max(merit, 0.0), 1.0)
            if objective == "likelihood":
                return 0.0
            return math.sqrt(share * (1 - share) / max(1, len(examples.ids)))

        asked = examples.ids, self.ids, objective
        before = self.ensembler.quality(evidence(self.reader), *asked)
        least = before.reached if max_loss is None else -math.inf
        reader = best_reader(reader_of(self.reader.name), merit, error)
        found = evidence(reader)
        weights, report = self.ensembler.calibrated(found, *asked, least, max_loss)
        if self.ensembler.quality(found, *asked, weights).reached < least:
            reader = self.reader
            weights, report = self.ensembler.calibrated(evidence(reader), *asked, least)
        report = report._replace(error_before=before.error, loss_before=before.loss)
        return reader, weights, report
