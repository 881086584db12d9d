"""The ensembler: from what memory and host say to probabilities, familiarity and a decision."""

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rarememory.base.derived import Derived
from rarememory.base.state import EMPTY, host_may_read
from rarememory.classifier import blend, calibration, openset
from rarememory.classifier.beside_keys import UNKNOWN
from rarememory.classifier.blend import EXCLUDED, BlendWeights, Classes, Evidence
from rarememory.classifier.max_logit import above_mean
from rarememory.native import empty_output, is_floats, is_supported, library

SUREST = 1 - 2**-24
"""The highest probability that is told of a host, as in rarememory/native/beside_keys.cpp."""


class Ensembler(nn.Module):
    """Combines memory and host; it sees scores and logits, neither of the two themselves.

    Args:
        n_host: number of the host's classes; 0 without a host.
        temperature: divides cosines, as in `Memory`.
        host_score: score of a remembered example that counts as much as the host does; FOUND to
            take that which the reader of the memory finds.

    Attributes:
        weights: the four numbers of `BlendWeights`, in that order.
        threshold: familiarity at or below which an example is unknown; -inf until it is fitted.
        host_ids: the integer of each of the host's classes, EMPTY for a forgotten one.

    Example:
        >>> ensembler = Ensembler(n_host=2, temperature=0.1, host_score=0.5)
        >>> logits = ensembler.host_logits(torch.tensor([[2.0, 1.0]]))
        >>> evidence = Evidence(torch.tensor([[0.9]]), torch.tensor([[1]]), logits)
        >>> ensembler.decide(evidence, torch.arange(2))
        [1]
    """

    weights: Tensor
    threshold: Tensor
    host_ids: Tensor

    def __init__(self, n_host: int, temperature: float, host_score: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor([temperature, host_score, 1.0, 0.0]))
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.register_buffer("host_ids", torch.arange(n_host))
        self._asked: Derived[Classes] = Derived()
        self._forgotten: Derived[tuple[Tensor, int]] = Derived()

    @property
    def blend_weights(self) -> BlendWeights:
        """The weights by name."""
        return BlendWeights(*self.weights)

    def host_logits(self, logits: Tensor | None) -> Tensor | None:
        """The host's logits, EXCLUDED for forgotten classes; None if no class is left.

        Raises:
            ValueError: there are more or fewer logits than classes.
        """
        forgotten, count = self._forgotten.of(_forgotten, self.host_ids)
        if logits is None or count == len(forgotten):
            return None
        if logits.shape[1:] != forgotten.shape:
            raise ValueError(
                f"the model answers with {list(logits.shape[1:])} numbers, and its classes are "
                f"{len(forgotten)}: name them with classes="
            )
        return logits.float().masked_fill(forgotten, EXCLUDED) if count else logits.float()

    def certainty(self, outputs: Tensor | None) -> Float[Tensor, "batch 2"] | None:
        """The host's highest probability of each row, and its highest logit less their mean.

        The probability is at most `SUREST`.
        They have no gradient. None without a host, and where there are more or fewer outputs than
        it has classes.
        """
        if outputs is None or outputs.shape[1:] != self.host_ids.shape or not len(self.host_ids):
            return None
        return _certainty(outputs.float(), self.host_ids)

    def logits_among(self, logits: Tensor | None, ids: Int64[Tensor, " classes"]) -> Tensor | None:
        """The host's logits, EXCLUDED for classes that are not among the ids; None if none is."""
        asked = torch.isin(self.host_ids, ids)
        if logits is None or not asked.any():
            return None
        return logits.masked_fill(~asked, EXCLUDED)

    def _classes(self, ids: Tensor) -> Classes:
        return self._asked.of(_classes_among, ids, self.host_ids)

    def probabilities(self, evidence: Evidence, ids: Tensor) -> Float[Tensor, "batch classes"]:
        """The probability of every class; `ids` are the integers of all classes, ascending."""
        return blend.probabilities(evidence, self.blend_weights, self._classes(ids))

    def example_weights(self, evidence: Evidence, ids: Tensor) -> Float[Tensor, "batch k"]:
        """Each neighbour's share of the answer."""
        return blend.example_weights(evidence, self.blend_weights, self._classes(ids))

    def familiarity(self, evidence: Evidence, ids: Tensor) -> Float[Tensor, " batch"]:
        """The evidence for the best class, as a cosine."""
        return openset.familiarity(evidence, self.blend_weights, self._classes(ids))

    def familiarity_by_confidence(
        self, evidence: Evidence, confidences: Float[Tensor, " batch"], ids: Tensor
    ) -> Float[Tensor, " batch"]:
        """The same, where the host's highest probability is all that is known of its answer."""
        classes = self._classes(ids)
        return openset.familiarity_by_confidence(evidence, confidences, self.blend_weights, classes)

    def decide(self, evidence: Evidence, ids: Tensor) -> list[int]:
        """The integer of the likeliest class of each row, one of `ids`; EMPTY if it is unknown."""
        weights, classes = self.blend_weights, self._classes(ids)
        z, best = blend.likeliest(evidence, weights, classes)
        if not self.accepts_all():
            known = openset.familiarity(evidence, weights, classes, z) > self.threshold
            best = best.where(known, len(ids))
        return [classes.integers[column] for column in best.tolist()]

    def accepts_all(self) -> bool:
        """Whether there is no threshold, as far as the CPU may know without a wait for a GPU."""
        return host_may_read(self.threshold) and self.threshold.item() == -torch.inf

    def fit_threshold(
        self,
        unknown: Float[Tensor, " batch"],
        rate: float,
        own_ids: Int64[Tensor, " batch"] | None = None,
        known: Float[Tensor, " known"] | None = None,
        typical: bool = True,
        strangers: Float[Tensor, " strangers"] | None = None,
    ) -> openset.Threshold:
        """Set the threshold from familiarities, and return it.

        Args:
            unknown: of unknown examples, or of known ones without their own class.
            rate: of false accepts.
            own_ids: the classes that the known ones are without.
            known: of known examples, to measure how many are accepted.
            typical: whether the rate is that of a typical class, and not of all examples.
            strangers: of a few unknown examples beside known ones without their own class; the
                threshold is the greater one of the two.
        """
        if strangers is not None and not unknown.isfinite().any():
            # There is one class: without it nothing is known.
            return self.fit_threshold(strangers, rate, known=known)
        if own_ids is not None and len(own_ids) and typical:
            value = openset.typical_threshold(unknown, own_ids, rate)
        else:
            value = openset.threshold_at(unknown, rate)
        if strangers is not None:
            value = max(value, openset.threshold_at(strangers, rate))
        requested = None if own_ids is None else rate
        found = openset.Threshold(value, unknown, known, requested)
        self.threshold.fill_(float(found))
        return found

    def calibrated(
        self,
        evidence: Evidence,
        label_ids: Int64[Tensor, " batch"],
        ids: Tensor,
        objective: str,
        least: float,
        max_loss: float | None = None,
    ) -> tuple[Float[Tensor, " weights"], calibration.Calibration]:
        """The weights that fit labelled examples, and how well they do.

        Where they reach too little of the objective they are between these and the present ones.

        Args:
            evidence: for the examples.
            label_ids: the integers of their classes.
            ids: of all classes.
            objective: what the bias of the host is chosen for, one of `calibration.OBJECTIVES`.
            least: of the objective that has to be reached, if the present weights reach it.
            max_loss: accuracy that the host's classes may lose, in place of the objective.
        """
        probabilities = self._probabilities_of(evidence, ids)
        labels = Classes(ids, self.host_ids).columns(label_ids)
        start = blend.resolved(BlendWeights(*self.weights.double()), evidence.host_score)
        follows = self._follows(evidence)
        weights, report = calibration.fit_weights(probabilities, labels, start, follows)
        logits, host = evidence.logits, None
        of_host, columns = torch.isin(label_ids, self.host_ids), torch.isin(ids, self.host_ids)
        if logits is not None and of_host.any():
            host = calibration.HostAlone(of_host, self.host_ids[logits.argmax(1)] == label_ids)
        has_both = host is not None and not of_host.all()
        curve_of = partial(
            calibration.old_against_new, probabilities, labels, of_host=of_host, columns=columns
        )
        if host is not None and max_loss is not None:
            weights = calibration.protect_host_classes(
                probabilities, labels, weights, host, max_loss
            )
        elif has_both and objective != "likelihood":
            share = of_host.double().mean().item()
            bias = calibration.best_bias(curve_of(weights), objective, share)
            weights = weights._replace(host_bias=weights.host_bias.new_tensor(bias))

        def reaches(weights: BlendWeights) -> bool:
            p = probabilities(weights)
            return calibration.quality(p, labels, of_host, objective).reached >= least

        weights = calibration.between(probabilities, labels, start, weights, reaches)
        report = calibration.with_host(probabilities, labels, weights, report, host)
        if has_both:
            report = report._replace(curve=curve_of(weights))
        if logits is None:
            # Without a host nothing was found of it.
            weights = BlendWeights(weights.temperature, *self.weights[1:].double())
        elif follows:
            weights = weights._replace(host_score=self.weights[1].double())
        return torch.stack(weights), report

    def quality(
        self,
        evidence: Evidence,
        label_ids: Int64[Tensor, " batch"],
        ids: Tensor,
        objective: str,
        weights: Float[Tensor, " weights"] | None = None,
    ) -> calibration.Quality:
        """How good answers from this evidence are, with these weights or the present ones."""
        numbers = BlendWeights(*(self.weights if weights is None else weights).double())
        p = self._probabilities_of(evidence, ids)(blend.resolved(numbers, evidence.host_score))
        labels = Classes(ids, self.host_ids).columns(label_ids)
        return calibration.quality(p, labels, torch.isin(label_ids, self.host_ids), objective)

    def merit(
        self,
        evidence: Evidence,
        label_ids: Int64[Tensor, " batch"],
        ids: Tensor,
        objective: str,
    ) -> float:
        """How good answers from this evidence can be, by an objective; arguments as above."""
        probabilities = self._probabilities_of(evidence, ids)
        labels = Classes(ids, self.host_ids).columns(label_ids)
        weights = blend.resolved(BlendWeights(*self.weights.double()), evidence.host_score)
        if objective == "likelihood":
            follows = self._follows(evidence)
            return -calibration.fit_weights(probabilities, labels, weights, follows)[1].loss
        return calibration.merit(
            probabilities,
            labels,
            weights,
            torch.isin(label_ids, self.host_ids),
            torch.isin(ids, self.host_ids),
            objective,
        )

    def _follows(self, evidence: Evidence) -> bool:
        """Whether the host score is one that the reader finds, and that follows the memory."""
        return evidence.follows and bool(self.weights[1] == blend.FOUND)

    def _probabilities_of(self, evidence: Evidence, ids: Tensor) -> calibration.ProbabilitiesOf:
        logits = None if evidence.logits is None else evidence.logits.double()
        evidence = evidence._replace(scores=evidence.scores.double(), logits=logits)
        classes = Classes(ids, self.host_ids)
        return lambda weights: blend.probabilities(evidence, weights, classes)

    def forget_classes(self, ids: list[int]) -> None:
        """Never predict these classes from the host's logits again."""
        self.host_ids[torch.isin(self.host_ids, self.host_ids.new_tensor(ids))] = EMPTY


def _classes_among(ids: Tensor, host_ids: Tensor) -> Classes:
    return Classes(ids, host_ids.where(torch.isin(host_ids, ids), EMPTY))


def _forgotten(host_ids: Tensor) -> tuple[Tensor, int]:
    """Which of the host's classes are, and how many."""
    forgotten = host_ids == EMPTY
    return forgotten, int(forgotten.sum())


def _certainty(
    logits: Float[Tensor, "batch n_host"], host_ids: Int64[Tensor, " n_host"]
) -> Float[Tensor, "batch 2"]:
    """The greatest softmax of each row, below 1, and the greatest logit less their mean.

    Forgotten classes are left out. Where one of both is not a number they are `UNKNOWN`.
    """
    if not (is_floats(logits) and is_supported(host_ids)):
        allowed = logits.masked_fill(host_ids == EMPTY, EXCLUDED)
        highest = allowed.softmax(1).amax(1).clamp(max=SUREST)
        found = torch.stack([highest, above_mean(allowed)], 1)
        known = found.isfinite().all(1, keepdim=True) & (host_ids != EMPTY).any()
        return found.where(known, found.new_tensor(UNKNOWN))
    found = empty_output(len(logits), 2, dtype=torch.float32)
    library().certainty(logits, *logits.shape, host_ids, torch.get_num_threads(), found)
    return found
