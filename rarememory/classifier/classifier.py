"""A classifier with a memory: learn, predict, explain, reject unknown classes, forget."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rarememory.backbones.whitening import whitening
from rarememory.base.deprecation import renamed_keywords
from rarememory.base.files import StrPath
from rarememory.base.state import EMPTY
from rarememory.base.validation import check_count, check_real
from rarememory.classifier import doctor, examples, finetuning, forgetting, openset, refreshing
from rarememory.classifier.answering import Answerer, Familiarities
from rarememory.classifier.answers import Forgotten, Learnt, Probabilities, StoredExample
from rarememory.classifier.beside_keys import buffers_of, match_buffers
from rarememory.classifier.blend import FOUND, BlendWeights, Classes, resolved
from rarememory.classifier.calibration import OBJECTIVES, Calibration
from rarememory.classifier.checkpoints import (
    bytes_of,
    copy_own_state,
    make_ready,
    own_tensors,
    slots_of_larger,
)
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.failures import one_example_named
from rarememory.classifier.feature_extractor import feature_extractor, reference
from rarememory.classifier.fingerprint import Fingerprint, check_encoder, check_one_encoder
from rarememory.classifier.guesses import Guesses, corrected, width_of
from rarememory.classifier.invariants import check_empty
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labelled import LabelledOutputs
from rarememory.classifier.labels import (
    Label,
    check_labels,
    label_from_json,
    label_to_json,
    python_label,
    python_ref,
)
from rarememory.classifier.learning import LabelledFeatures, are_lost, write_examples
from rarememory.classifier.locked_module import Changed, LockedModule
from rarememory.classifier.memory_settings import memory_settings
from rarememory.classifier.merging import take_over, warn_of_lost
from rarememory.classifier.openset import Threshold
from rarememory.classifier.options import check_options
from rarememory.classifier.outputs import Output
from rarememory.classifier.persistence import write_file
from rarememory.classifier.readers import reader_from_json, reader_of
from rarememory.classifier.saving import ClassifierFile, refusals_of
from rarememory.classifier.tuned_keys import TunableKeys, untune, vote_weights
from rarememory.classifier.wrappers import rename_wrapped
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.budgets import layers_of, protecting
from rarememory.memory.checkpoints import keep_own
from rarememory.memory.losses import vote_loss
from rarememory.memory.selections import Selection
from rarememory.memory.updates import Update

AnyClassifier = TypeVar("AnyClassifier", bound="MemoryClassifier")


class MemoryClassifier(LockedModule):
    """An existing model, and a memory of the features that enter its last Linear.

    The model is called as it is: its weights, methods and mode are not changed, and it can be taken
    back as `classifier.model`. Learning writes features into the memory, in evaluation mode and
    without gradient; nothing is trained. An answer combines the remembered examples with the
    model's own logits; `rarememory.classifier.blend` has the formula, after Tip-Adapter (Zhang et
    al. 2022).

    `state_dict` holds the whole state: the memory, the numbers of the formula, labels and refs.
    The memory itself is `classifier.memory`. Write through the classifier, which keeps labels and
    refs up to date.

    Any number of threads may learn, forget, predict, resize and save at once: the answer for a
    batch is of the state before or after each change, never between. The model runs outside of the
    lock, `classifier.lock`, which is that of the memory.

    Args:
        model: any module; its own classes are kept if it is a classifier.
        at: name of the layer whose input are the features. If None it is the head, the layer whose
            output are the model's logits: the last Linear, unless the first batch shows another.
        host: whether the model is a classifier, whose logits count too. With False the features are
            the model's output (or the input of the layer `at`), and only the memory answers.
        output: which part of what the model returns are its logits (its features, with
            `host=False`): a key, a place, or a function of it. Without it a tensor, `logits`, and
            what encoders of Hugging Face return are understood; see
            `rarememory.classifier.outputs`.
        classes: labels of the model's outputs; 0, 1, 2, ... if None.
        memory_size: number of slots.
        memory: an empty memory to use in place of one with a slot for every example,
            `Memory(key_dim, memory_size, update=FirstInFirstOut())`.
        host_score: score of a remembered example that counts as much as the host does; the lower,
            the more the memory counts. If None the reader finds it, and `calibrate` fits it.
        reader: how the memory is asked. "fitted" finds out from the remembered examples how they
            are best asked, each time they have changed (`rarememory.classifier.discriminant`);
            "nearest" lets the nearest ones vote (Kaiser et al. 2017), and suits a memory that is
            written or trained all the time.
        unknown: what `predict` returns for an example of an unknown class.
        batch_size: examples that the model gets at once.

    Attributes:
        memory: the `Memory`.
        reader: the `Reader` that asks it.
        about: remarks of your own, text by text; they are saved too.

    Raises:
        ValueError: there is no such layer, or a number does not fit the model; at the first batch:
            no layer's output are the model's logits, or they are not found in what it returns.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> birds = MemoryClassifier(model, classes=["sparrow", "finch"])
        >>> images = torch.eye(4)[:2]
        >>> birds.learn(images, ["kea", "kakapo"], refs=["1.png", "2.png"]).slots
        tensor([0, 1])
        >>> birds.predict(images[0]), birds.explain(images[0], k=1)[0].ref
        ('kea', '1.png')
        >>> birds.forget("kea"), birds.classes
        (1, ['sparrow', 'finch', 'kakapo'])
    """

    # As in Memory: what is made here is written outside of inference mode too.
    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        *,
        at: str | None = None,
        host: bool = True,
        output: Output | None = None,
        classes: Sequence[Label] | None = None,
        memory_size: int = 8192,
        memory: Memory | None = None,
        host_score: float | None = None,
        reader: str = "fitted",
        unknown: Label = "unknown",
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        check_options(at, host, output, classes, memory)
        check_count("batch_size", batch_size)
        if host_score is not None:
            check_real("host_score", host_score)
        given_dim = None if memory is None else memory.keys.shape[1]
        self.extractor, width, n_host = feature_extractor(model, at, host, given_dim, output)
        self.reader = reader_of(reader)
        if memory is None:
            self.memory = self.reader.empty_memory(width or 1, memory_size)
        else:
            check_empty(memory)
            self.memory = memory
        self.unknown = python_label(unknown)
        self.batch_size = batch_size
        labels = range(n_host) if classes is None else list(classes)
        self._book = LabelBook(labels if host else ())
        n_host = len(labels) if host else 0
        if len(self._book) != n_host:
            raise ValueError(
                f"{len(self._book)} different classes for {n_host} outputs: name each once"
            )
        check_labels(self._book, self.unknown)
        temperature = self.reader.temperature or self.memory.temperature
        score = FOUND if host_score is None else host_score
        self.ensembler = Ensembler(n_host, temperature, score)
        self.about: dict[str, str] = {}
        self._example_dims: int | None = None
        self._fingerprint = Fingerprint()
        self._guesses = Guesses(key_dim=memory is None, n_host=host and classes is None)
        reference(self.extractor, self.memory, self.ensembler)
        nn.Module.register_state_dict_post_hook(self, copy_own_state)

    @property
    def model(self) -> nn.Module:
        """The model that was wrapped."""
        return self.extractor.model

    @property
    def classes(self) -> list[Label]:
        """Labels that can be predicted: the model's own, then those learnt, in their order."""
        with self.lock.reading():
            return self._book.labels(self._class_ids())

    @property
    def threshold(self) -> Float[Tensor, ""]:
        """Familiarity at or below which `predict` returns `unknown`; the buffer itself."""
        return self.ensembler.threshold

    @property
    def blend_weights(self) -> BlendWeights:
        """The numbers that weigh host against memory; `calibrate` fits them."""
        with self.lock.reading():
            found = self.reader.host_score(self.memory, self.ensembler.host_ids)
            return resolved(self.ensembler.blend_weights, found)

    # Predicting

    def forward(self, inputs: Any) -> Float[Tensor, "batch classes"]:
        """Probabilities of a batch over `classes`, in the present mode and with gradient."""
        features, logits = self._extract(inputs, present_mode=True)
        with self.lock.reading():
            return self._answerer().probabilities(features, logits)

    @torch.no_grad()
    def features(self, inputs: Any) -> Float[Tensor, "batch key_dim"]:
        """The features of a batch, in evaluation mode and without gradient."""
        _, batches = examples.input_batches(inputs, self._example_dims)
        found = [self._extract(batch)[0] for batch in batches]
        like = reference(self.extractor, self.memory, self.ensembler)
        nothing = like.new_zeros(0, self.memory.keys.shape[1])
        return torch.cat(found) if found else nothing

    @torch.no_grad()
    def predict(
        self,
        inputs: Any,
        *,
        among: Iterable[Any] | None = None,
        progress: bool | None = None,
    ) -> Any:
        """The likeliest class of each example, or `unknown` at or below the threshold.

        A list of labels for a batch, a label for a single example (one with as many dimensions as
        those learnt have). Before `fit_threshold` the answer is `unknown` only where no class is
        known.

        Args:
            inputs: a batch (a tensor, an array, a column of a table, a list), a single example, or
                a loader of batches; it yields inputs, or tuples whose first part are inputs. A
                loader is read one batch at a time. If it yields examples, they are one batch.
            among: answer with one of these classes, as if no others were known; of the model's own
                classes too.
            progress: whether to show a progress bar over the batches of a loader, as in `learn`.

        Raises:
            ValueError: one of `among` is not known.
        """
        single, batches = self._batches(inputs, progress)
        labels = [label for batch in batches for label in self._decide(*batch, among)]
        return labels[0] if single else labels

    @torch.no_grad()
    def predict_proba(
        self,
        inputs: Any,
        *,
        among: Iterable[Any] | None = None,
        progress: bool | None = None,
    ) -> Probabilities:
        """The probability of every class; `unknown` is not among them.

        Arguments are as in `predict`. Among some classes their probabilities sum to 1.
        """
        single, batches = self._batches(inputs, progress)
        # The model first: the classes must be the same for all batches.
        outputs = list(batches)
        with self.lock.reading():
            answerer = self._answerer()
            ids = answerer.ids if among is None else self._class_ids(among)
            some = None if among is None else ids
            rows = [answerer.probabilities(*batch, some) for batch in outputs]
            values = torch.cat([self.threshold.new_zeros(0, len(ids)), *rows])
            return Probabilities(self._book.labels(ids), values[0] if single else values)

    @torch.no_grad()
    def explain(self, inputs: Any, k: int = 5, *, progress: bool | None = None) -> list[Any]:
        """The remembered examples that an answer is based on, at most k, as `Remembered`.

        A list, those with the greatest weight first; a list of such lists for a batch. Arguments
        are as in `predict`.

        Raises:
            ValueError: k is no integer of at least 1.
        """
        check_count("k", k)
        single, batches = self._batches(inputs, progress)
        rows = []
        for batch in batches:
            with self.lock.reading():
                rows += self._answerer().explanations(*batch, self._book, k)
        return rows[0] if single else rows

    @torch.no_grad()
    def familiarity(self, inputs: Any, *, progress: bool | None = None) -> Float[Tensor, "*batch"]:
        """The evidence that an example is of a known class; `predict` compares it with `threshold`.

        `rarememory.classifier.openset` has the formula. A number for a single example; arguments
        are as in `predict`.
        """
        single, batches = self._batches(inputs, progress)
        rows = []
        for batch in batches:
            with self.lock.reading():
                rows.append(self._answerer().familiarity(*batch))
        values = torch.cat([self.threshold.new_zeros(0), *rows])
        return values[0] if single else values

    # Learning

    @torch.no_grad()
    def learn(
        self,
        inputs: Any,
        labels: Any = None,
        refs: Any = None,
        *,
        average: bool = False,
        select: Selection | None = None,
        progress: bool | None = None,
    ) -> Learnt:
        """Remember examples under their labels, known or new; nothing is trained.

        Args:
            inputs: a batch, as the model takes it (a dict of tensors for a model of several
                arguments); or one example, with one label; or a loader that yields (inputs, labels)
                or (inputs, labels, refs).
            labels: texts, numbers or tuples of these, in a list, an array or a column of a table;
                a tuple is one label.
            refs: where each example comes from (a path, an id); None for none.
            average: remember of each class the mean of its examples, in one slot.
            select: remember of each class those of its examples here that this chooses, such as
                `Herding(5)`; the others have slot EMPTY.
            progress: whether to show a bar over the batches of a loader; None shows it on a
                terminal if tqdm is installed.

        Raises:
            ValueError: numbers do not fit, a feature is zero or not finite, or a label cannot be
                one. Nothing of a batch that is refused is learnt.
        """
        batches: Iterable[LabelledFeatures] = self._to_learn(inputs, labels, refs, progress)
        if average or select is not None:
            parts = list(batches)
            batches = [LabelledFeatures.joined(parts)] if parts else []

        def write(batch: LabelledFeatures) -> Learnt:
            learnt = write_examples(self.memory, self._book, batch, average, select)
            self._example_dims = batch.example_dims
            lost = are_lost(self._book.ids(learnt.lost), self.memory.values, self._class_ids)
            if lost or EMPTY in learnt.slots.tolist():
                self._book = self._remembered_book()
            return learnt

        single = not average and select is None
        return Learnt.joined(
            [
                self.change(partial(write, batch), examples=batch if single else None)
                for batch in batches
            ]
        )

    def _to_learn(
        self, inputs: Any, labels: Any, refs: Any, progress: bool | None
    ) -> Iterator[LabelledFeatures]:
        for batch in examples.labelled_batches(inputs, labels, refs, progress):
            check_labels(batch.labels, self.unknown)
            with one_example_named(inputs, labels, self._example_dims):
                examples.check_dims(batch.inputs, self._example_dims)
                if not batch.labels:
                    continue
                values = self.memory.values
                # Most often a look at one slot is enough.
                if values[0].item() == EMPTY and values.max().item() == EMPTY:
                    self._fingerprint = Fingerprint()
                self._fingerprint.see(batch.inputs)
                features, outputs = self._extract(batch.inputs)
                certainty = self.ensembler.certainty(outputs)
            dims = examples.example_dims(batch.inputs)
            yield LabelledFeatures(features, batch.labels, batch.refs, certainty, dims)

    @torch.no_grad()
    def whiten(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        shrinkage: float = 0.1,
        progress: bool | None = None,
    ) -> None:
        """Map features so that examples of one class vary equally in all directions.

        `rarememory.backbones.whitening` has the formula. Directions in which examples of one class
        vary much tell classes apart badly; they count less from here on, for classes that are
        learnt later too. The examples, best those that the model was trained with, are not
        remembered. The map becomes the memory's `projection`, saved and trained with it.

        Args:
            inputs: examples, as in `learn`, several of most classes.
            labels: as in `learn`; classes need not be known.
            shrinkage: of the covariance towards a multiple of the identity, as a fraction.
            progress: as in `learn`.

        Raises:
            ValueError: something is remembered already, whose keys would be wrong; or no class has
                two examples.
        """
        if len(self.memory):
            raise ValueError(
                f"the memory holds {len(self.memory)} examples, whose keys would not fit any more: "
                "whiten before learning"
            )
        known = LabelledFeatures.joined(self._to_learn(inputs, labels, None, progress))
        matrix = whitening(known.features, known.labels, shrinkage)
        projection = nn.Linear(len(matrix), len(matrix), bias=False, device=matrix.device)
        projection.weight.copy_(matrix)
        self.change(partial(setattr, self.memory, "projection", projection), whole=True)

    # Fitting threshold and weights

    @torch.no_grad()
    @renamed_keywords(far="false_accept_rate")
    def fit_threshold(
        self,
        inputs: Any = None,
        labels: Any = None,
        *,
        unknown: Any = None,
        false_accept_rate: float = 0.01,
        alike: bool = False,
        progress: bool | None = None,
    ) -> Threshold:
        """Set the threshold below which `predict` returns `unknown`, for a false-accept rate.

        With `unknown`, examples of classes that it should not know, the threshold is a quantile of
        their familiarity. Else it is leave-one-class-out: known examples are asked about as if
        their own class had never been learnt, and the threshold is that which a typical class would
        exceed at this rate. Where there are fewer than 1 / rate - 1 of `unknown`, it is the greater
        one of the two, if both can be found. Unknown classes that are as like the known ones as
        these are like each other are accepted more often; how often, the result says, and with
        `alike` it is they that are accepted at this rate. Fit it again after learning many classes:
        the more is remembered, the nearer an unknown example is to some of it.

        Args:
            inputs: a batch of known classes, not the examples that were learnt, or a loader as in
                `learn`; if None the remembered examples, beside a host only while all of them are
                of new classes, none of its own was forgotten, and it is known how sure it was of
                them. Beside enough of `unknown` they only measure how many known examples
                are accepted.
            labels: of the inputs; if None the predicted classes.
            unknown: a batch of unknown classes, or a loader; of enough of them nothing else is
                needed.
            false_accept_rate: the rate at which unknown examples may be accepted.
            alike: whether unknown classes are expected to be as like the known ones as these are
                like each other, such as further characters of one alphabet.
            progress: as in `learn`.

        Returns:
            The threshold, a float with the expected rates as attributes; print it to read them.
            `classifier.threshold` is the buffer that holds it.

        Raises:
            ValueError: there are no examples, or the rate is not between 0 and 1.
        """
        strangers = None
        if unknown is not None:
            strangers = self.familiarity(unknown, progress=progress).reshape(-1)
            # A class is left out with labels, or where what is remembered is all there is.
            leave_out = labels is not None or examples.is_loader(inputs)
            if inputs is None:
                with self.lock.reading():
                    leave_out = self._answerer().why_not_left_out(false_accept_rate) is None
            if not (leave_out and openset.are_few(len(strangers), false_accept_rate)):
                known = None if inputs is None else self.familiarity(inputs).reshape(-1)
                fit = partial(self.ensembler.fit_threshold, strangers, false_accept_rate)
                return self.change(partial(fit, known=known))
        parts: list[Familiarities] = []
        if inputs is None:
            with self.lock.reading():
                answerer = self._answerer()
                parts.append(answerer.remembered_without_own_class(false_accept_rate))
        elif labels is None and not examples.is_loader(inputs):
            for batch in self._batches(inputs, progress)[1]:
                with self.lock.reading():
                    parts.append(self._answerer().without_own_class(*batch))
        else:
            for labelled in self._labelled(inputs, labels, progress):
                with self.lock.reading():
                    parts.append(self._answerer().without_own_class(*labelled))
        left_out = Familiarities.joined(parts, self.threshold)
        given = left_out.without_own, false_accept_rate, left_out.own_ids, left_out.known()
        fit = partial(self.ensembler.fit_threshold, *given, typical=not alike, strangers=strangers)
        return self.change(fit)

    @torch.no_grad()
    def calibrate(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        objective: str | None = None,
        keep: float | None = None,
        progress: bool | None = None,
    ) -> Calibration:
        """Fit the reader, and the weights of host and memory, to held-out examples.

        The settings of the fitted reader (`rarememory.classifier.discriminant`) are chosen by the
        objective. The numbers of `rarememory.classifier.blend` are set by the likelihood of the
        labels, so that a confidence of 0.9 is correct nine times in ten, and then the host's bias
        by the objective. Without it all are found from the remembered examples. Give examples of
        old and of new classes, none of them learnt; then fit the threshold again.

        Args:
            inputs: examples, as in `learn`.
            labels: as in `learn`.
            objective: "harmonic", the harmonic mean of the accuracies of the host's classes and of
                the others; "accuracy" of all examples; or "likelihood". If None the first with a
                host, the second without.
            keep: in place of an objective, accuracy that the host's own classes may lose among
                these examples; 0.005 is half a point, and 1 lets them lose any.
            progress: as in `learn`.

        Returns:
            The expected calibration error, the log-loss, and the accuracy of the host's own
            classes, before and after; and the curve of old against new, as a table and a picture.

        Raises:
            ValueError: numbers do not fit, a label is not known, or there is no such objective.
        """
        if objective is None:
            objective = "harmonic" if self.extractor.has_logits else "accuracy"
        if keep is not None:
            check_real("keep", keep)
            if not 0 <= keep <= 1:
                raise ValueError(f"keep must be from 0 to 1 (0.005 is half a point), not {keep}")
        if objective not in OBJECTIVES:
            raise ValueError(f"there is no objective {objective!r}: take one of {OBJECTIVES}")
        batches = list(self._labelled(inputs, labels, progress))
        # Fitting needs gradients, and tensors made in inference mode have none, but copies do.
        with torch.inference_mode(False), torch.no_grad(), self.lock.reading():
            answerer = self._answerer()._replace(ids=self._class_ids().clone())
            known = LabelledOutputs.joined(batches)
            reader, weights, report = answerer.calibrated(known, objective, keep)

        def take() -> None:
            self.reader = reader
            self.ensembler.weights.copy_(weights)

        self.change(take)
        return report

    def _labelled(
        self, inputs: Any, labels: Any, progress: bool | None
    ) -> Iterator[LabelledOutputs]:
        """What the model makes of every batch; its labels must be known."""
        for batch in examples.labelled_batches(inputs, labels, None, progress):
            with one_example_named(inputs, labels, self._example_dims):
                examples.check_dims(batch.inputs, self._example_dims)
                if not batch.labels:
                    continue
                features, logits = self._extract(batch.inputs)
            with self.lock.reading():
                known = self._remembered_book().known_ids(batch.labels)
            ids = torch.tensor(known, device=features.device).long()
            yield LabelledOutputs(features, logits, ids)

    # Training

    def loss(self, inputs: Any, labels: Any) -> Float[Tensor, ""]:
        """The loss that trains the model under the memory: margin loss + vote loss of the labels.

        Gradients reach the parameters of the model that come before the features, in the model's
        present mode; never the keys. Nothing is learnt: `learn` after training, or `refresh`. Take
        other examples than those remembered, whose nearest neighbour is the example itself.

        Raises:
            ValueError: numbers do not fit.
        """
        batch = examples.labelled_batch(inputs, labels, None)
        if not batch.labels:
            raise ValueError("a loss needs labelled examples, and there is none")
        with one_example_named(inputs, labels, self._example_dims):
            features, _ = self._extract(batch.inputs, present_mode=True)
        with self.lock.reading():
            ids = torch.tensor(self._book.ids(batch.labels), device=features.device)
            recall = self.memory(features, ids, k=self.memory.k)
        assert recall.loss is not None
        vote = vote_loss(recall.scores, recall.values, ids, self.memory.temperature)
        loss: Tensor = recall.loss + vote
        return loss

    @contextmanager
    def tunable_keys(self) -> Iterator[TunableKeys]:
        """The remembered keys as a module for any optimizer of torch; they are written back after.

        At the end of the block the keys that have changed take their places in the memory, at unit
        length. If the block raises, nothing changes. They are tuned by the vote of the nearest
        ones, whatever the reader is. The next change of what is remembered (`learn`, `forget`,
        `merge`, `refresh`) goes back to the keys as they were learnt, and so does `untune`:
        forgetting stays exact. `rarememory.classifier.tuned_keys` has the formula and an example.

        Raises:
            ValueError: nothing is remembered; or a key is zero or not finite at the end.
            RuntimeError: at the end something else is remembered than at the beginning.
        """
        with self.lock.reading():
            votes = self.reader.temperature is None
            weights = self.blend_weights if votes else vote_weights(self.memory)
            host_ids, ask = self.ensembler.host_ids.clone(), self._batches
            classes, label = (
                Classes(self._class_ids(), host_ids),
                partial(self._labelled, progress=False),
            )
            of_host = self.ensembler.host_logits
            keys = TunableKeys(self.memory, weights, classes, of_host, ask, label)
        yield keys
        self.change(partial(keys.write_back, self.memory), whole=True)

    def finetune(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        held_out: Any = None,
        epochs: int = 20,
        learning_rate: float = 1e-3,
        patience: int = 5,
        progress: bool | None = None,
    ) -> finetuning.Finetuned:
        """Tune the remembered keys to labelled examples, as long as held-out ones gain by it.

        The examples may be those that were learnt: each is answered without its own key. They are
        encoded once. The keys of the best epoch are kept, or those before if none is better: the
        judge is this classifier's own answer to what is held out. After an error, or Ctrl-C, the
        keys are as before. Beside a host, calibrate before and after. Then fit the threshold again.

        Args:
            inputs: examples, as in `learn`, of known classes.
            labels: as in `learn`.
            held_out: examples that were not learnt, (inputs, labels) or a loader; if None a fifth
                of the inputs of each class.
            epochs: at most so many.
            learning_rate: of Adam.
            patience: epochs without gain, after which tuning ends.
            progress: as in `learn`.

        Raises:
            ValueError: numbers do not fit, a label is not known, or there is nothing to hold out.
        """
        pair = held_out if isinstance(held_out, tuple) else (held_out, None)
        with torch.inference_mode(False), torch.enable_grad(), self.tunable_keys() as keys:
            known = [*self._labelled(inputs, labels, progress)]
            judged = None if held_out is None else [*self._labelled(pair[0], pair[1], progress)]
            with self.lock.reading():
                asked = self._answerer()._replace(
                    memory=deepcopy(self.memory), reader=self.reader.having()
                )
                judge = partial(finetuning.Judge, keys, asked)
            bounds = (epochs, learning_rate, patience, self.batch_size)
            return finetuning.finetune(keys, known, judged, judge, *bounds, progress)

    def untune(self) -> None:
        """Go back to the keys as they were learnt, to the bit."""
        self.change(partial(untune, self.memory), whole=True)

    def drift(self, loader: Iterable[Any], *, progress: bool | None = None) -> refreshing.Drift:
        """How far remembered keys are from what the encoder gives for their examples now.

        Args:
            loader: yields (inputs, refs) or (inputs, labels, refs); other refs are ignored.
            progress: as in `learn`.

        Raises:
            ValueError: no ref of the loader is remembered.
        """
        batches = refreshing.encoded(self._extract, self.ensembler, loader, progress)
        with self.lock.reading():
            return refreshing.drift(self.memory, self._remembered_book(), batches)

    @torch.no_grad()
    def refresh(self, loader: Iterable[Any], *, progress: bool | None = None) -> refreshing.Drift:
        """Encode remembered examples again, after the encoder has changed; return the drift.

        The key of a slot becomes the mean of the new encodings of its examples, at unit length;
        labels, refs and ages stay. Arguments are as in `drift`. Examples that were learnt without
        refs cannot be found: forget their classes, and learn them again.
        """
        batches = refreshing.encoded(self._extract, self.ensembler, loader, progress)

        def replace(book: LabelBook) -> refreshing.Drift:
            drift = refreshing.refresh(self.memory, book, batches)
            # The keys are of the present encoder now.
            self._fingerprint.features = None
            return drift

        return self._change_remembered(replace, whole=True)

    # Forgetting

    def forget(self, *labels: Label) -> int:
        """Forget classes; return how many slots were emptied.

        Their keys, labels and refs are removed. One of the model's own classes is never predicted
        again, though the model's weights stay as they are.

        Raises:
            ValueError: a label is not known; then nothing is forgotten.
        """

        return self._change_remembered(
            lambda book: forgetting.forget_classes(self.memory, book, self.ensembler, labels)
        )

    def forget_refs(self, *refs: Any) -> Forgotten:
        """Forget the slots that these examples were written to.

        A slot that other examples were averaged into is emptied too, because an average cannot be
        taken apart; the result names those, to be learnt again. A slot has the refs of its latest
        32 examples.

        Raises:
            ValueError: a ref is not known; then nothing is forgotten.
        """
        wanted = [python_ref(ref) for ref in refs]

        return self._change_remembered(
            lambda book: forgetting.forget_examples(self.memory, book, wanted)
        )

    @property
    def protected(self) -> list[Label]:
        """Classes whose examples are never given up for those of another class."""
        with self.lock.reading():
            return forgetting.protected_labels(self.memory, self._remembered_book())

    def protect(self, *labels: Label) -> None:
        """Never give up examples of these classes for those of another class.

        It is remembered with the labels, and saved. A class that is forgotten and learnt again is
        not protected. `rarememory.Protected` has the rule.

        Raises:
            ValueError: a label is not known; then nothing is changed.
        """
        self._change_remembered(
            lambda book: forgetting.protect(self.memory, book, labels), whole=True
        )

    def unprotect(self, *labels: Label) -> None:
        """Treat these classes as all others again.

        Raises:
            ValueError: a label is not known; then nothing is changed.
        """
        self._change_remembered(
            lambda book: forgetting.unprotect(self.memory, book, labels), whole=True
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Undo at the end of the block whatever was learnt, forgotten or fitted in it.

        Other threads wait until the block ends.
        """
        with self.memory.snapshot():
            buffers = {name: buffer.clone() for name, buffer in self.ensembler.named_buffers()}
            before, reader = deepcopy((self._book, self._example_dims)), self.reader
            update = self.memory.update
            try:
                yield
            finally:
                (self._book, self._example_dims), self.reader = before, reader
                self.memory.update = update
                for name, buffer in self.ensembler.named_buffers():
                    buffer.copy_(buffers[name])

    # The memory as a whole

    def examples(self) -> list[StoredExample]:
        """The label and the refs of every occupied slot, in the order of the slots."""
        with self.lock.reading():
            state = self.memory.state
            slots = state.occupied.nonzero().squeeze(1)
            pairs = zip(slots.tolist(), state.values[slots].tolist(), strict=True)
            return [StoredExample(s, self._book.label(v), self._book.refs(s)) for s, v in pairs]

    @torch.no_grad()
    def merge(self, other: "MemoryClassifier") -> int:
        """Take over the examples that another classifier remembers, and return how many.

        Labels and refs are joined by name; the model's own classes of the other one are not taken,
        and nor are its threshold and weights. Where there is no room for all, the youngest are kept
        (`Memory.merge`), and a warning names classes of which none is. Both have to be learnt with
        the same model: its features of a made-up input must be the same, as after `load`.

        Raises:
            ValueError: the memories or the models do not fit, or a label is what `predict` says of
                unknown examples; nothing is changed.
            RuntimeError: inside `memory.read_only()`.
        """
        if not isinstance(other, MemoryClassifier):
            raise ValueError(
                "a classifier is merged with a MemoryClassifier, not with a "
                f"{type(other).__name__}: `.memory.merge` takes a Memory"
            )
        if other is self:
            raise ValueError("a classifier cannot be merged with itself")
        if other.model is not self.model:
            own = (self.extractor, reference(self.extractor, self.memory, self.ensembler))
            its = (other.extractor, reference(other.extractor, other.memory, other.ensembler))
            check_one_encoder((self._fingerprint, *own), (other._fingerprint, *its))
        with other.lock.reading():
            memory, book = deepcopy(other.memory), deepcopy(other._remembered_book())
        untune(memory)
        match_buffers(memory, buffers_of(self.memory))
        return self.take(memory, book, other._example_dims)

    @torch.no_grad()
    def take(self, memory: Memory, book: LabelBook, example_dims: int | None = None) -> int:
        """Take over what a memory holds, whose values are integers of this book, as `merge` does.

        Raises:
            ValueError: as in `merge`; nothing is changed.
        """

        lost: list[Label] = []

        def taken(own: LabelBook) -> int:
            count, lost[:] = take_over(self.memory, own, memory, book, self.unknown)
            if count and self._example_dims is None:
                self._example_dims = example_dims
            return count

        # Not in the change, which a store tries out on slots of the width that they have.
        with width_of(memory, self.memory, self._guesses):
            count = self._change_remembered(taken, whole=True)
        # Each of the two methods has a frame of torch's beside its own.
        warn_of_lost(lost, len(self.memory.values), stacklevel=5)
        return count

    def resize(self, memory_size: int) -> list[Label]:
        """Change the number of slots; a smaller memory keeps the youngest.

        Returns:
            The labels of which no example is left, in the order of `classes`. One of the model's
            own classes is still predicted, by the model alone; any other is no class any more.

        Raises:
            ValueError: it is no integer of at least 1, or protected classes have more slots.
        """
        return self._change_remembered(
            lambda book: forgetting.resize(self.memory, book, memory_size), whole=True
        )

    def doctor(self, inputs: Any = None, *, few: int = 2, near: float = 0.98) -> doctor.Report:
        """Find what makes answers bad; print the report to read it.

        Args:
            inputs: a batch, or a loader as in `predict`, to find slots that it never needs.
            few: classes with fewer slots than this are reported.
            near: keys of different labels with at least this cosine are reported.
        """
        queries = answers = None
        if inputs is not None:
            _, batches = self._batches(inputs)
            found = [(features, self._decide(features, raw)) for features, raw in batches]
            queries = torch.cat([self.memory.keys[:0], *(features for features, _ in found)])
            answers = [label for _, labels in found for label in labels]
        with self.lock.reading():
            return doctor.examine(
                self.memory,
                self._book,
                self.reader,
                self.ensembler,
                queries,
                answers,
                few,
                near,
            )

    # Saving

    def save(self, path: StrPath) -> None:
        """Write everything except the model into one safetensors file, whole or not at all.

        The file has a fingerprint of the model: its features of a made-up input, which is a tensor
        or a text, as those learnt are. Inputs of other kinds have none.

        Raises:
            ValueError: a label or a ref is not of a kind that JSON can hold.
        """
        like = reference(self.extractor, self.memory, self.ensembler)
        self._fingerprint.take(self.extractor, like)
        with self.lock.reading():
            header = {
                "host": self.extractor.to_json(),
                "guesses": self._guesses,
                **memory_settings(self.memory),
                "unknown": label_to_json(self.unknown),
                "batch_size": self.batch_size,
                "book": self._to_json(),
                **self._fingerprint.to_json(),
            }
            own = own_tensors(self.memory, self.ensembler)
            tensors = {name: tensor.clone() for name, tensor in own.items()}
        if self._fingerprint.features is not None:
            tensors["fingerprint"] = self._fingerprint.features
        write_file(path, tensors, header)

    @classmethod
    def load(
        cls: type[AnyClassifier],
        path: StrPath,
        model: nn.Module | None,
        *,
        update: Update | None = None,
        lookup: str | Lookup = "auto",
        memory_class: type[Memory] | None = None,
        output: Output | None = None,
        strict: bool = False,
    ) -> AnyClassifier:
        """A classifier as it was saved, around the model that it was learnt with.

        Args:
            path: of the file.
            model: as it was wrapped; its weights are not in the file. With None the classifier can
                forget and list what it remembers, but not take inputs.
            update: the policy of writing, if it was one of your own.
            lookup: the search, which is not in the file either.
            memory_class: the class of the memory, if it was one of your own.
            output: as in `wrap`, if it was a function there.
            strict: refuse a model whose features are not those of the model that was saved around;
                otherwise there is a warning.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
            ValueError: it is truncated, damaged, of another format or newer, holds what no
                classifier has, or fits another model.

        Warns:
            UserWarning: the model's features of a made-up input differ from those in the file.
        """
        file = ClassifierFile.read(path)
        classifier = cls(**file.options(model, output, update, lookup, memory_class))
        file.fill(classifier.memory, classifier.ensembler)
        header = file.header
        with refusals_of(path):
            classifier._from_json(header["book"])
            classifier.unknown = label_from_json(header["unknown"])
            check_labels(classifier._book, classifier.unknown)
        classifier._guesses = Guesses(*header.get("guesses", ()))
        features = file.tensors.get("fingerprint")
        stored = classifier._fingerprint = Fingerprint.from_json(header, features)
        if model is not None:
            like = reference(classifier.extractor, classifier.memory, classifier.ensembler)
            check_encoder(stored, classifier.extractor, like, path, strict)
        return classifier

    def get_extra_state(self) -> UInt8[Tensor, " bytes"]:
        """Labels, refs and remarks: JSON as bytes, of a power of two."""
        return bytes_of(self._to_json())

    def set_extra_state(self, state: UInt8[Tensor, " bytes"]) -> None:
        """Set what `get_extra_state` returned."""
        self._from_json(json.loads(state.cpu().numpy().tobytes()))

    def _to_json(self, with_book: bool = True) -> dict[str, Any]:
        book = self._remembered_book().to_json() if with_book else {}
        reader = {"reader": self.reader.name, "reader_settings": self.reader.settings}
        protected = {"protected": [*layers_of(self.memory.update).protected]}
        own = {"example_dims": self._example_dims, "about": self.about}
        return {**book, **reader, **protected, **own}

    def _from_json(self, stored: dict[str, Any]) -> None:
        if "names" in stored:
            self._book = LabelBook.from_json(stored)
        self.reader = reader_from_json(stored)
        self._example_dims = stored["example_dims"]
        if "protected" in stored:
            self.memory.update = protecting(self.memory.update, stored["protected"])
        self.about = stored["about"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_wrapped(state_dict, f"{prefix}extractor.model.", self.model)
        parts = self.memory, self.ensembler, self._guesses
        try:
            make_ready(*parts, state_dict, prefix, self._to_json, self.unknown)
        except (ValueError, RuntimeError) as error:
            args[-1].append(str(error))
            # Torch goes on to the parts: memory and labels are loaded whole or not at all.
            keep_own(state_dict, prefix, own_tensors(self.memory, self.ensembler))
            return
        super()._load_from_state_dict(state_dict, prefix, *args)
        old_slots = slots_of_larger(self.memory, state_dict, f"{prefix}memory.")
        if old_slots is not None:
            self._book.move_refs(old_slots.tolist())

    # Helpers

    def _extract(self, inputs: Any, present_mode: bool = False) -> tuple[Tensor, Tensor | None]:
        """Features and logits, in evaluation mode and without gradient unless in the present mode.

        The first of them correct what was guessed of their widths.
        """
        like = reference(self.extractor, self.memory, self.ensembler)
        if present_mode:
            features, logits = self.extractor(examples.to_device(inputs, like))
        else:
            features, logits = self.extractor.extract(inputs, self.batch_size, like)
        if any(self._guesses) and not features.is_meta:
            with self.lock.writing():
                outputs, host_ids = (features, logits), self.ensembler.host_ids
                self._book = corrected(self._guesses, self.memory, host_ids, self._book, outputs)
                check_labels(self._book, self.unknown)
                # A batch without examples shows its widths, but not which layer is the head.
                self._guesses = self._guesses if self.extractor.guessed else Guesses()
        return features, logits

    def _batches(
        self, inputs: Any, progress: bool | None = None
    ) -> tuple[bool, Iterator[tuple[Tensor, Tensor | None]]]:
        """Whether this is a single example; and features and the model's logits of every batch."""
        single, batches = examples.input_batches(inputs, self._example_dims, progress)
        # At once, because the first batch may show that the classes are others.
        return single, examples.begun(map(self._extract, batches))

    def _decide(
        self, features: Tensor, raw: Tensor | None, among: Iterable[Any] | None = None
    ) -> list[Label]:
        """The label of each row, one of those asked about, or `unknown`."""
        with self.lock.reading():
            some = None if among is None else self._class_ids(among)
            found = self.reader.decide(
                self.memory, self.ensembler, features, raw, self._class_ids, some
            )
            return [
                self.unknown if number == EMPTY else self._book.label(number) for number in found
            ]

    def _class_ids(self, among: Iterable[Any] | None = None) -> Tensor:
        """The integers of `classes`, or of those of them that are given, ascending."""
        ids = self._book.present(self.memory.values, self.ensembler.host_ids)
        if among is None:
            return ids
        if isinstance(among, str) or not isinstance(among, Iterable):
            raise ValueError(f"among must be a list of classes, not {among!r}")
        return ids[torch.isin(ids, ids.new_tensor(self._remembered_book().known_ids(among)))]

    def _answerer(self) -> Answerer:
        return Answerer(self.memory, self.reader, self.ensembler, self._class_ids())

    def _change_remembered(
        self, change: Callable[[LabelBook], Changed], whole: bool = False
    ) -> Changed:
        """As `change`, of what is remembered and its label book; labels in no use are dropped."""

        def changed() -> Changed:
            book = self._remembered_book()
            result = change(book)
            self._book = book.restricted(self.memory.values, self.ensembler.host_ids)
            return result

        return self.change(changed, whole)

    def _remembered_book(self) -> LabelBook:
        """The part of the label book that memory and host still use."""
        return self._book.restricted(self.memory.values, self.ensembler.host_ids)


wrap = MemoryClassifier
"""Give an existing classifier a memory: `wrap(model)` is `MemoryClassifier(model)`, as a verb."""
