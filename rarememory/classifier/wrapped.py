"""A classifier with a memory: learn, predict, explain, refuse, forget."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rarememory.base.state import EMPTY
from rarememory.classifier import refreshing
from rarememory.classifier.answers import Forgotten, Learnt, StoredExample
from rarememory.classifier.doctor import Report, examined
from rarememory.classifier.examples import batch_of, batches_of, placed
from rarememory.classifier.fitting import Fitting
from rarememory.classifier.labels import Label
from rarememory.classifier.learning import Encoded, encoded, learnt
from rarememory.classifier.persistence import StrPath
from rarememory.classifier.refs import plain_ref
from rarememory.classifier.saving import load_classifier, save_classifier
from rarememory.lookup import Lookup
from rarememory.memory.losses import vote_loss
from rarememory.memory.updates import Update


class MemoryClassifier(Fitting):
    """A model that exists already, and a memory of what enters its last Linear.

    The model is called as it is: no weight, no method and no mode of it is changed, and it can be
    taken back as `classifier.model`. Learning writes features into the memory, in evaluation mode
    and without gradient; nothing is trained. An answer adds up what the memory and the model's own
    classes have to say; `rarememory.classifier.blending` has the formula, after Tip-Adapter (Zhang
    et al. 2022).

    Whatever it knows travels with `state_dict`: the memory, the numbers of the formula, the names
    and the refs. The memory itself is `classifier.memory`; write and forget through the classifier,
    which keeps names and refs in step with it.

    Args:
        model: any module; its own classes are kept if it is a classifier.
        at: name of the layer whose input are the features; the last Linear if None.
        host: whether the model is a classifier that answers too. With False its output are the
            features (or, with `at`, the input of that layer), and only the memory answers.
        classes: labels of the model's outputs; 0, 1, 2, ... if None.
        memory_size: number of slots.
        memory: an empty memory of one's own, in place of `Memory(key_dim, memory_size)`.
        host_score: cosine of a remembered example that weighs as much as the host does; the lower,
            the more the memory is heard. `calibrate` fits it.
        unknown: what `predict` says of what it does not know.
        batch_size: examples that the model sees at once.

    Attributes:
        about: remarks of your own, text by text; they are saved along.

    Raises:
        ValueError: there is no such layer, or a number does not fit the model.

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

    # Learning

    @torch.no_grad()
    def learn(
        self,
        inputs: Any,
        labels: Any = None,
        refs: Any = None,
        *,
        average: bool = False,
        progress: bool | None = None,
    ) -> Learnt:
        """Remember examples under their labels, known ones and new ones; nothing is trained.

        Args:
            inputs: a batch, as the model takes it (a dict of tensors for a model of several
                arguments); or one example, with one label; or a loader that yields (inputs, labels)
                or (inputs, labels, refs).
            labels: any hashable things, in a list, an array or a tensor; a tuple is one label.
            refs: where each example comes from (a path, an id); None for none.
            average: remember of each class the mean of its examples, in one slot.
            progress: a bar over the batches of a loader; None shows it on a terminal that has tqdm.

        Raises:
            ValueError: numbers do not fit, a feature is zero or not finite, or a label cannot be
                one. Of a batch that is refused nothing is learnt.
        """
        batches = (encoded(self, b) for b in batches_of(inputs, labels, refs, progress))
        if average:
            return learnt(self, Encoded.joined(batches), average=True)
        return Learnt.joined([learnt(self, batch) for batch in batches])

    # Training

    def loss(self, inputs: Any, labels: Any) -> Float[Tensor, ""]:
        """The loss that trains the model under the memory: margin loss + vote loss of the labels.

        Gradients reach the parameters of the model that come before the features and want one, in
        the model's present mode; never the keys. Nothing is learnt: `learn` when it is trained, or
        `refresh`. Take other examples than those remembered, which answer for themselves.

        Raises:
            ValueError: numbers do not fit.
        """
        batch = batch_of(inputs, labels, None)
        features, _ = self.host(placed(batch.inputs, self._follow()))
        ids = torch.tensor(self._names.ids(batch.labels), device=features.device)
        recall = self.memory(features, ids, k=self.memory.k)
        assert recall.loss is not None
        vote = vote_loss(recall.scores, recall.values, ids, self.memory.temperature)
        loss: Tensor = recall.loss + vote
        return loss

    def drift(self, loader: Iterable[Any], *, progress: bool | None = None) -> refreshing.Drift:
        """How far remembered keys are from what the encoder makes of their examples today.

        Args:
            loader: yields (inputs, refs) or (inputs, labels, refs); refs not remembered are passed.
            progress: as in `learn`.

        Raises:
            ValueError: no ref of the loader is remembered.
        """
        encoded = refreshing.encoded_again(self, loader, progress)
        return refreshing.drift_of(encoded, self.memory)

    @torch.no_grad()
    def refresh(self, loader: Iterable[Any], *, progress: bool | None = None) -> refreshing.Drift:
        """Encode remembered examples again, after the encoder has moved; say how far it had.

        The key of a slot becomes the mean of the new encodings of its examples, of unit length;
        labels, refs and ages stay. Arguments as in `drift`. What was learnt without refs cannot be
        told apart: forget those classes, and learn them again.
        """
        self.memory._refuse_if_read_only("refresh")
        encoded = refreshing.encoded_again(self, loader, progress)
        drift = refreshing.drift_of(encoded, self.memory)
        self.memory.keys[encoded.slots] = encoded.keys
        return drift

    # Forgetting

    def forget(self, *labels: Label) -> int:
        """Forget classes; return how many slots were emptied.

        Nothing of them remains: no key, no name, no ref, no answer. One of the model's own classes
        is never answered again, though the model's weights are left as they are.

        Raises:
            ValueError: a label is not known; then nothing is forgotten.
        """
        ids = self._names.known(labels)
        gone = self.memory.forget(labels=ids)
        self.host_ids[torch.isin(self.host_ids, self.host_ids.new_tensor(ids))] = EMPTY
        self._tidy()
        return gone

    def forget_refs(self, *refs: Any) -> Forgotten:
        """Forget the slots that these examples went into.

        A slot that others were averaged into goes too, since an average cannot be taken apart; the
        answer names those, to be learnt again. A slot lists the refs of its latest 32 examples.

        Raises:
            ValueError: a ref is not known; then nothing is forgotten.
        """
        wanted = [plain_ref(ref) for ref in refs]
        strangers = [ref for ref in wanted if ref not in self._refs.by_ref()]
        if strangers:
            raise ValueError(f"no remembered example has the ref {strangers[0]!r}")
        slots = sorted(self._refs.slots_of(wanted))
        beside = [ref for slot in slots for ref in self._refs.of(slot) if ref not in wanted]
        gone = self.memory.forget(slots=slots)
        self._tidy()
        return Forgotten(gone, beside)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Undo at the end of the block whatever was learnt, forgotten or fitted in it."""
        own = [buffer.clone() for buffer in (self.weighing, self.threshold, self.host_ids)]
        kept = deepcopy((self._names, self._refs, self._example_dims))
        with self.memory.snapshot():
            try:
                yield
            finally:
                self._names, self._refs, self._example_dims = kept
                for buffer, before in zip(
                    (self.weighing, self.threshold, self.host_ids), own, strict=True
                ):
                    buffer.copy_(before)

    # Keeping

    def examples(self) -> list[StoredExample]:
        """The label and the refs of every occupied slot, in the order of the slots."""
        state = self.memory.state
        slots = state.occupied.nonzero().squeeze(1)
        pairs = zip(slots.tolist(), state.values[slots].tolist(), strict=True)
        return [StoredExample(s, self._names.label(value), self._refs.of(s)) for s, value in pairs]

    def resize(self, memory_size: int) -> None:
        """Change the number of slots; a smaller memory keeps the youngest."""
        old_slots = self.memory.resize(memory_size)
        self._refs.move(old_slots.tolist())
        self._tidy()

    def doctor(self, inputs: Any = None, *, few: int = 2, near: float = 0.98) -> Report:
        """Look for what will answer badly; print the report to read it.

        Args:
            inputs: a batch, or a loader as in `predict`, to find slots by that answer nothing.
            few: classes with fewer slots than this are named.
            near: keys of different labels with at least this cosine are named.
        """
        asked = None
        if inputs is not None:
            asked = torch.cat(
                [self.memory.keys[:0], *(seen for seen, _ in self._batches(inputs)[1])]
            )
        return examined(self.memory, self._names, self._refs, asked, few, near)

    def save(self, path: StrPath) -> None:
        """Write all but the model into one safetensors file, whole or not at all.

        Raises:
            ValueError: a label or a ref is not of a kind that JSON can hold.
        """
        save_classifier(self, path)

    @classmethod
    def load(
        cls,
        path: StrPath,
        model: nn.Module | None,
        *,
        update: Update | None = None,
        lookup: str | Lookup = "auto",
    ) -> "MemoryClassifier":
        """A classifier as it was saved, around the model that it was learnt with.

        Args:
            path: of the file.
            model: as it was wrapped, whose weights are not in the file; None to look at what is
                remembered, and to forget, without it.
            update: the policy of writing, if it was one of your own.
            lookup: the search, which is not in the file either.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is truncated, of another kind or newer, or fits another model.
        """
        return load_classifier(cls, path, model, update, lookup)


wrap = MemoryClassifier
"""Give an existing classifier a memory: `wrap(model)` is `MemoryClassifier(model)`, as a verb."""
