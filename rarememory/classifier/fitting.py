"""What is fitted to examples: the threshold, the weighing of memory and host, a map of features."""

from typing import Any

import torch
from torch import nn

from rarememory.backbones.whitening import whitening
from rarememory.classifier import calibration, openset
from rarememory.classifier.answering import Answering
from rarememory.classifier.blending import Evidence, Weighing, blended
from rarememory.classifier.examples import batches_of
from rarememory.classifier.known import Known, labelled, pooled, taken_for_known
from rarememory.classifier.learning import Encoded, encoded


class Fitting(Answering):
    """All of a `MemoryClassifier` that is fitted to examples, none of which is remembered."""

    @torch.no_grad()
    def fit_threshold(
        self,
        inputs: Any = None,
        labels: Any = None,
        *,
        unknown: Any = None,
        far: float = 0.01,
        progress: bool | None = None,
    ) -> float:
        """Set the threshold below which `predict` says `unknown`, at a requested false-accept rate.

        With `unknown`, examples of classes that it should not know, the threshold is their own
        quantile. Without, known examples play the stranger: each is asked about as if its class had
        never been learnt. Whatever is drawn as these are is then accepted at a rate of at most
        `far`. Fit it again after learning many classes: the more is known, the likelier a stranger
        is near something.

        Args:
            inputs: a batch of known classes, not the examples that were learnt, or a loader as in
                `learn`; if None the remembered examples, which do where only the memory answers.
            labels: of the inputs; if None the class that answers is taken for the right one.
            unknown: a batch of unknown classes, or a loader; then nothing else is needed.
            far: the rate at which strangers may be accepted.
            progress: as in `learn`.

        Returns:
            The threshold; `classifier.threshold` is the buffer that holds it.

        Raises:
            ValueError: there are no examples, or `far` is not between 0 and 1.
        """
        if unknown is not None:
            _, batches = self._batches(unknown, progress)
            found = [self._familiarity(self._evidence(*batch)) for batch in batches]
        else:
            known = taken_for_known(self, inputs, labels, progress)
            found = [self._left_out(*batch) for batch in known]
        strangers = torch.cat([self.threshold.new_zeros(0), *found])
        self.threshold.fill_(openset.threshold_at(strangers, far))
        return self.threshold.item()

    @torch.no_grad()
    def calibrate(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        keep: float = 0.005,
        progress: bool | None = None,
    ) -> calibration.Calibration:
        """Fit the weighing of host and memory by the likelihood of held-out examples.

        It sets the four numbers of `rarememory.classifier.blending`, so that confidence means what
        it says; then the host's own classes are given as much more weight as they need to keep
        their accuracy. Give examples of old and of new classes, none of them learnt; then fit the
        threshold again. Where there are too few of the new classes to spare any, rehearse: learn
        other classes that the host does not know, calibrate, forget them.

        Args:
            inputs: examples, as in `learn`.
            labels: as in `learn`.
            keep: accuracy that the host's own classes may lose among these examples; 0.005 is half
                a point, and 1 lets them lose any.
            progress: as in `learn`.

        Returns:
            The expected calibration error, the log-loss, and the accuracy of the host's own
            classes, before and after.

        Raises:
            ValueError: numbers do not fit, or a label is not known.
        """
        known = pooled(labelled(self, inputs, labels, progress))
        evidence = self._evidence(known.features, known.logits)
        evidence = Evidence(
            evidence.scores.double(),
            evidence.values,
            None if known.logits is None else known.logits.double(),
        )
        classes = self._classes()
        columns = classes.columns(known.ids)

        def chances(weighing: Weighing) -> torch.Tensor:
            return blended(evidence, weighing, classes)

        weighing, report = calibration.fitted(chances, columns, self._weighed(torch.float64))
        if known.logits is not None:
            weighing, report = calibration.kept(
                chances, columns, weighing, report, self._right_alone(known), keep
            )
        self.weighing.copy_(torch.stack(weighing))
        return report

    def _right_alone(self, known: Known) -> calibration.Alone:
        """Which examples are of the host's own classes, and which of those it gets right alone."""
        assert known.logits is not None
        own = torch.isin(known.ids, self.host_ids)
        return calibration.Alone(own, self.host_ids[known.logits.argmax(1)] == known.ids)

    @torch.no_grad()
    def whiten(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        shrinkage: float = 0.1,
        progress: bool | None = None,
    ) -> None:
        """Map features so that examples of a class differ as much in every direction.

        `rarememory.backbones.whitening` has the formula. Directions in which examples of one class
        differ much tell classes apart badly: they count less from here on, for classes that are
        learnt later too. The examples are best those that the host was trained with; they are not
        remembered. The map becomes the memory's `projection`, saved and trained along with it.

        Args:
            inputs: examples, as in `learn`, several of most classes.
            labels: as in `learn`; classes need not be known.
            shrinkage: of the covariance towards a round one, in parts of its mean eigenvalue.
            progress: as in `learn`.

        Raises:
            ValueError: something is remembered already, whose keys would not fit any more; or no
                class has two examples.
        """
        if len(self.memory):
            raise ValueError(
                f"the memory holds {len(self.memory)} examples, whose keys would not fit any more: "
                "whiten before learning"
            )
        batches = (encoded(self, b) for b in batches_of(inputs, labels, None, progress))
        examples = Encoded.joined(batches)
        matrix = whitening(examples.features, examples.labels, shrinkage)
        projection = nn.Linear(len(matrix), len(matrix), bias=False, device=matrix.device)
        projection.weight.copy_(matrix)
        self.memory.projection = projection
