"""Host, memory, names and refs in one module, and how they answer."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rarememory.base.state import EMPTY, MemoryState
from rarememory.classifier.answers import Probabilities, Remembered
from rarememory.classifier.blending import (
    FORGOTTEN,
    Classes,
    Evidence,
    Weighing,
    blended,
    example_weights,
)
from rarememory.classifier.examples import asked, chunks, count, placed
from rarememory.classifier.host import evaluating, listened
from rarememory.classifier.labels import Label, Names, check_nameable, plain
from rarememory.classifier.openset import familiarity
from rarememory.classifier.refs import Refs
from rarememory.memory import Memory
from rarememory.memory.resizing import resized


class Answering(nn.Module):
    """Everything of a `MemoryClassifier` that changes nothing: what it holds, and its answers."""

    weighing: Tensor
    threshold: Tensor
    host_ids: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        at: str | None = None,
        host: bool = True,
        classes: Sequence[Label] | None = None,
        memory_size: int = 8192,
        memory: Memory | None = None,
        host_score: float = 0.8,
        unknown: Label = "unknown",
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.host, key_dim, n_host = listened(
            model,
            at,
            host,
            None if classes is None else len(classes),
            None if memory is None else memory.keys.shape[1],
        )
        self.memory = Memory(key_dim, memory_size) if memory is None else memory
        if len(self.memory):
            raise ValueError(
                f"the memory holds {len(self.memory)} examples already, whose labels and refs are "
                "not known here: give an empty one, and learn()"
            )
        self.unknown = plain(unknown)
        self.batch_size = batch_size
        names = range(n_host) if classes is None else classes
        self._names = Names(names if host else ())
        if len(self._names) != n_host:
            raise ValueError(
                f"{len(self._names)} different classes for {n_host} outputs: name each once"
            )
        check_nameable(self._names, self.unknown)
        self._refs = Refs()
        self.about: dict[str, str] = {}
        self._example_dims: int | None = None
        numbers = [self.memory.temperature, host_score, 1.0, 0.0]
        self.register_buffer("weighing", torch.tensor(numbers))
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.register_buffer("host_ids", torch.arange(n_host))
        self.register_load_state_dict_post_hook(_tidied)  # type: ignore[no-untyped-call]
        self._follow()

    @property
    def model(self) -> nn.Module:
        """The model that was wrapped."""
        return self.host.model

    @property
    def classes(self) -> list[Label]:
        """Labels that an answer may name: the model's own, then those learnt, in their order."""
        return list(self._names)

    def _follow(self) -> Tensor:
        """A tensor that says where the host is and how wide its numbers; all of us move there."""
        like = next(self.host.parameters(), self.memory.keys)
        if like.device != self.memory.keys.device or like.device != self.weighing.device:
            self.to(like.device)
        return like

    # From examples to evidence

    @torch.no_grad()
    def _seen(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Features and logits of a batch, in evaluation mode and without gradient."""
        like = self._follow()
        with evaluating(self.host):
            pieces = [self.host(placed(piece, like)) for piece in chunks(inputs, self.batch_size)]
        features = torch.cat([features for features, _ in pieces])
        if len(features) != count(inputs):
            raise ValueError(
                f"the model makes {len(features)} features of {count(inputs)} examples"
            )
        logits = [logits for _, logits in pieces if logits is not None]
        return features, torch.cat(logits) if logits else None

    def _batches(
        self, inputs: Any, progress: bool | None = None
    ) -> tuple[bool, Iterator[tuple[Tensor, Tensor | None]]]:
        """Whether it is a single example; of each batch the features and the host's own logits."""
        alone, batches = asked(inputs, self._example_dims, progress)
        seen = map(self._seen, batches)
        return alone, ((features, self._own(logits)) for features, logits in seen)

    def _own(self, logits: Tensor | None) -> Tensor | None:
        """Logits of the host's classes, FORGOTTEN for one that was; None if there is none."""
        gone = self.host_ids == EMPTY
        if logits is None or gone.all():
            return None
        if logits.shape[1:] != gone.shape:
            raise ValueError(
                f"the model answers with {list(logits.shape[1:])} numbers, and its classes are "
                f"{len(gone)}: name them with classes="
            )
        return logits.float().masked_fill(gone, FORGOTTEN)

    def _evidence(self, features: Tensor, logits: Tensor | None) -> Evidence:
        """What memory and host say."""
        recall = self.memory(features)
        return Evidence(recall.scores.float(), recall.values, logits)

    def _weighed(self, dtype: torch.dtype = torch.float32) -> Weighing:
        """The numbers that weigh host and memory, now."""
        return Weighing(*self.weighing.to(dtype))

    def _ids(self) -> Tensor:
        """Integers of the classes, ascending."""
        return torch.tensor(self._names.numbers, dtype=torch.int64, device=self.host_ids.device)

    def _classes(self) -> Classes:
        """Those that may be answered."""
        return Classes(self._ids(), self.host_ids)

    def _chances(self, evidence: Evidence, weighing: Weighing) -> Float[Tensor, "batch classes"]:
        """The probability of every class."""
        return blended(evidence, weighing, self._classes())

    def _left_out(
        self, features: Tensor, logits: Tensor | None, ids: Tensor
    ) -> Float[Tensor, " batch"]:
        """How familiar each example would be if its own class (of this integer) were not known."""
        all_found, pair = self.memory(features), self.memory(features, ids)
        # Where all neighbours are of its own class, the nearest other one is among the pair.
        scores = torch.cat([all_found.scores, pair.scores], 1).float()
        values = torch.cat([all_found.values, pair.values], 1)
        own = values == ids.unsqueeze(1)
        enough = ((all_found.values != EMPTY) & ~own[:, : all_found.values.shape[1]]).any(1)
        own[:, all_found.values.shape[1] :] |= enough.unsqueeze(1)
        scores, order = scores.masked_fill(own, -torch.inf).sort(1, descending=True)
        values = values.masked_fill(own, EMPTY).gather(1, order)
        if logits is not None:
            logits = logits.masked_fill(self.host_ids == ids.unsqueeze(1), FORGOTTEN)
        return self._familiarity(Evidence(scores, values, logits))

    # Answering

    def forward(self, inputs: Any) -> Float[Tensor, "batch classes"]:
        """Probabilities of a batch over `classes`, in the present mode and with gradient."""
        features, logits = self.host(placed(inputs, self._follow()))
        return self._chances(self._evidence(features, self._own(logits)), self._weighed())

    @torch.no_grad()
    def features(self, inputs: Any) -> Float[Tensor, "batch key_dim"]:
        """What the model makes of a batch, in evaluation mode and without gradient."""
        return self._seen(inputs)[0]

    @torch.no_grad()
    def predict(self, inputs: Any, *, progress: bool | None = None) -> Any:
        """The likeliest class of each example, or `unknown` at or below the threshold.

        A list of labels for a batch, a label for a single example (one with as many dimensions as
        those learnt have). Until `fit_threshold`, only what knows nothing at all says `unknown`.

        Args:
            inputs: a batch, a single example, or a loader of batches, answered one after another;
                it yields inputs, or tuples that begin with them.
            progress: a bar over the batches of a loader, as in `learn`.
        """
        alone, batches = self._batches(inputs, progress)
        labels = [label for batch in batches for label in self._named(self._evidence(*batch))]
        return labels[0] if alone else labels

    def _named(self, evidence: Evidence) -> list[Label]:
        known = self._familiarity(evidence) > self.threshold
        # A column more, so that there is a best one even among no classes.
        best = nn.functional.pad(self._chances(evidence, self._weighed()), (0, 1)).argmax(1)
        names = [*self._names, self.unknown]
        return [names[place] for place in best.where(known, len(names) - 1).tolist()]

    @torch.no_grad()
    def predict_proba(self, inputs: Any, *, progress: bool | None = None) -> Probabilities:
        """The probability of every class, named; `unknown` is none of them.

        Arguments as in `predict`.
        """
        alone, batches = self._batches(inputs, progress)
        rows = [self._chances(self._evidence(*batch), self._weighed()) for batch in batches]
        values = torch.cat([self.weighing.new_zeros(0, len(self._names)), *rows])
        return Probabilities(self.classes, values[0] if alone else values)

    @torch.no_grad()
    def explain(self, inputs: Any, k: int = 5, *, progress: bool | None = None) -> list[Any]:
        """The remembered examples that answered, nearest first, at most k: a list of `Remembered`.

        A list of such lists for a batch. Arguments as in `predict`.
        """
        alone, batches = self._batches(inputs, progress)
        rows = [row for batch in batches for row in self._explained(*batch, k)]
        return rows[0] if alone else rows

    def _explained(self, features: Tensor, logits: Tensor | None, k: int) -> list[list[Remembered]]:
        recall = self.memory(features, k=max(k, self.memory.k))
        evidence = Evidence(recall.scores.float(), recall.values, logits)
        weights = example_weights(evidence, self._weighed(), self._classes())
        ages = self.memory.ages[recall.slots]
        parts = (recall.slots, recall.values, recall.scores, weights, ages)
        found = [part[:, :k].tolist() for part in parts]
        return [
            [self._remembered(*one) for one in zip(*row, strict=True) if one[0] != EMPTY]
            for row in zip(*found, strict=True)
        ]

    def _remembered(
        self, slot: int, value: int, score: float, weight: float, age: int
    ) -> Remembered:
        label, refs = self._names.label(value), self._refs.of(slot)
        return Remembered(label, score, weight, refs, slot, age)

    @torch.no_grad()
    def familiarity(self, inputs: Any, *, progress: bool | None = None) -> Float[Tensor, "*batch"]:
        """How surely each example is of a class that is known: what `threshold` is compared with.

        `rarememory.classifier.openset` has the formula. A number for a single example; arguments
        as in `predict`.
        """
        alone, batches = self._batches(inputs, progress)
        found = [self._familiarity(self._evidence(*batch)) for batch in batches]
        values = torch.cat([self.threshold.new_zeros(0), *found])
        return values[0] if alone else values

    def _familiarity(self, evidence: Evidence) -> Float[Tensor, " batch"]:
        return familiarity(evidence, self._weighed(), self._classes())

    # The state as a whole

    def _tidy(self) -> None:
        """Forget the names and refs of what is remembered no longer."""
        there = self.memory.state.occupied
        self._names.keep({*self.memory.values[there].tolist(), *self.host_ids.tolist()})
        self._refs.keep(set(there.nonzero().squeeze(1).tolist()))

    def get_extra_state(self) -> UInt8[Tensor, " bytes"]:
        """Names, refs and the like: JSON as bytes, which safetensors and checkpoints carry."""
        text = json.dumps(self._book())
        return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())

    def set_extra_state(self, state: UInt8[Tensor, " bytes"]) -> None:
        """Take over what `get_extra_state` gave."""
        self._read_book(json.loads(state.cpu().numpy().tobytes()))

    def _book(self) -> dict[str, Any]:
        """What is no tensor, as JSON."""
        self._tidy()
        names, refs = self._names.as_json(), self._refs.as_json()
        dims, about = self._example_dims, self.about
        return {"names": names, "refs": refs, "example_dims": dims, "about": about}

    def _read_book(self, book: dict[str, Any]) -> None:
        """Take over what `book` gave."""
        self._names = Names.from_json(book["names"])
        self._refs = Refs.from_json(book["refs"])
        self._example_dims = book["example_dims"]
        self.about = book["about"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        names = [f"{prefix}memory.{name}" for name in MemoryState._fields]
        size = len(self.memory.values)
        # The memory keeps the youngest slots of a larger one, and moves them: so do the refs.
        if state_dict.keys() >= set(names) and len(state_dict[names[1]]) > size:
            _, old_slots = resized(MemoryState(*(state_dict[name] for name in names)), size)
            self._refs.move(old_slots.tolist())


def _tidied(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Answering)
    module._tidy()
