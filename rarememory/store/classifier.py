"""A classifier whose memory is in a store: many workers learn and forget, and all answer alike."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rarememory.classifier import MemoryClassifier
from rarememory.classifier.answers import Learnt, Probabilities
from rarememory.classifier.checkpoints import own_tensors, part_of
from rarememory.classifier.guesses import Guesses
from rarememory.classifier.invariants import check_book, check_ensembler
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, label_from_json, label_to_json
from rarememory.classifier.locked_module import Changed
from rarememory.classifier.memory_settings import memory_settings
from rarememory.classifier.refreshing import Drift
from rarememory.classifier.tuned_keys import UNTUNED
from rarememory.memory.budgets import Protected
from rarememory.memory.drafts import Draft
from rarememory.memory.selections import Selection
from rarememory.memory.slots import copy_into
from rarememory.store.changes import (
    Change,
    Rows,
    rows_of_slots,
    slot_rows,
    tensor_bytes,
    tensor_of,
)
from rarememory.store.encoders import EncoderHash
from rarememory.store.following import Follower, follow
from rarememory.store.log import Head, Transaction
from rarememory.store.replica import Replica

FORMAT = 1
LABEL = "label/"


class Decision(NamedTuple):
    """What a change would do to one version of the memory.

    Attributes:
        result: what it returns.
        change: what is others after it.
        version: that it was decided on.
        draft: of the memory.
    """

    result: Any
    change: Change
    version: int
    draft: Draft


@dataclass
class Act:
    """A change that is on its way into the store, and may need several tries.

    Attributes:
        name: its id.
        change: changes the state, and returns something.
        whole: whether more than some slots, labels, refs and weights change.
        generations: 1 for a refresh.
        decision: the latest.
        sent: whether that may have been committed.
    """

    name: str
    change: Callable[[], Any]
    whole: bool
    generations: int
    decision: Decision | None = None
    sent: bool = False


class StoredClassifier(MemoryClassifier, Follower):
    """A `MemoryClassifier` that many workers share, through a database that holds the truth.

    Every worker answers from its own exact copy, and never waits for the database to do so.
    Learning, forgetting and fitting are transactions: they are decided under the lock of the store
    on its newest state, and when they return they are durable, and this worker answers by them.

    Args:
        model: as in `MemoryClassifier`; all workers have the same weights.
        store: address of the database, `sqlite:///birds.db` or `postgresql://user@host/birds`.
        name: of the memory, of which a database may have several.
        poll: seconds after which a worker looks for changes of others; None to look only in
            `catch_up`.
        patience: seconds that a change tries for while the database does not answer.
        check_encoder: refuse a model with other weights than those that the store was learnt with.
            Without it the store can be opened for `refresh`.
        options: as in `MemoryClassifier`. A memory that is in the store already keeps its size,
            its labels and its numbers.

    Attributes:
        replica: the connections.
        check_encoder: as given.
        trouble: why the copy does not follow the store at present; None where it does.

    Raises:
        ValueError: as in `MemoryClassifier`, or the store was learnt with another model or other
            options.
        ConnectionError: the database does not answer.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> url = f"sqlite:///{folder.name}/birds.db"
        >>> one, other = (wrap(nn.Identity(), host=False, store=url, poll=None) for _ in range(2))
        >>> one.learn(torch.eye(4)[:2], ["kea", "weka"]).slots
        tensor([0, 1])
        >>> other.predict(torch.eye(4)[:2], at_least=one.version)
        ['kea', 'weka']
        >>> other.forget("kea"), one.catch_up(), one.classes
        (1, 2, ['weka'])
        >>> one.close(), other.close(), folder.cleanup()
        (None, None, None)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        store: str,
        name: str = "memory",
        poll: float | None = 0.05,
        patience: float = 10.0,
        check_encoder: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.poll = poll
        self.trouble: str | None = None
        self._version = self._epoch = self._generation = 0
        self._turn, self._calls = threading.RLock(), threading.local()
        self._encoder = EncoderHash(model)
        self._known_encoder = ""
        self.check_encoder = check_encoder
        self._read_only = self.memory.read_only()
        self._read_only.__enter__()
        self.replica = Replica(store, name, patience)
        self.replica.tried(self.catch_up)
        follow(self)

    @property
    def version(self) -> int:
        """The number of the latest change that this worker knows; 0 before the first."""
        return self._version

    @property
    def generation(self) -> int:
        """How often the memory was encoded again, by `refresh`."""
        return self._generation

    # Following

    def catch_up(self) -> int:
        """Take what other workers have changed; return the version.

        Raises:
            ConnectionError: the store does not answer.
            ValueError: it was learnt with another model, or other options.
        """
        if self.replica.newest()[0] > self._version:
            found = self.replica.read(self._version, self._epoch)
            if found is not None:
                self._take_change(*found, since=self._version)
        return self._version

    def look(self) -> None:
        """Take what other workers have changed; `trouble` says why it could not."""
        try:
            self.catch_up()
            self.trouble = None
        except (ConnectionError, RuntimeError, ValueError) as error:
            self.trouble = str(error)

    def wait_for(self, version: int | None, seconds: float = 10.0) -> None:
        """Wait until this worker knows a version.

        Raises:
            TimeoutError: it does not within these seconds.
        """
        deadline = time.monotonic() + seconds
        while version is not None and self._version < version:
            self.look()
            if self._version < version:
                if time.monotonic() > deadline:
                    why = f": {self.trouble}" if self.trouble else ""
                    raise TimeoutError(
                        f"version {version} is not here after {seconds:g} seconds, but "
                        f"{self._version}{why}"
                    )
                time.sleep(0.002)

    def begin_anew(self) -> None:
        """In a process made by fork: leave the connections to the other process."""
        self._turn = threading.RLock()
        self.replica.leave()

    def close(self) -> None:
        """End the connections; the copy goes on answering, and follows no more."""
        self.poll = None
        self.replica.close()

    # Predicting

    def predict(
        self,
        inputs: Any,
        *,
        among: Iterable[Any] | None = None,
        progress: bool | None = None,
        at_least: int | None = None,
    ) -> Any:
        """As in `MemoryClassifier`, after `wait_for(at_least)`."""
        self.wait_for(at_least)
        return super().predict(inputs, among=among, progress=progress)

    def predict_proba(
        self,
        inputs: Any,
        *,
        among: Iterable[Any] | None = None,
        progress: bool | None = None,
        at_least: int | None = None,
    ) -> Probabilities:
        """As in `MemoryClassifier`, after `wait_for(at_least)`."""
        self.wait_for(at_least)
        return super().predict_proba(inputs, among=among, progress=progress)

    def explain(
        self,
        inputs: Any,
        k: int = 5,
        *,
        progress: bool | None = None,
        at_least: int | None = None,
    ) -> list[Any]:
        """As in `MemoryClassifier`, after `wait_for(at_least)`."""
        self.wait_for(at_least)
        return super().explain(inputs, k, progress=progress)

    # Changing

    def learn(
        self,
        inputs: Any,
        labels: Any = None,
        refs: Any = None,
        *,
        average: bool = False,
        select: Selection | None = None,
        progress: bool | None = None,
        once: str | None = None,
    ) -> Learnt:
        """As in `MemoryClassifier`, each batch a transaction.

        Args:
            inputs: as there.
            labels: as there.
            refs: as there.
            average: as there.
            select: as there.
            progress: as there.
            once: an id of this call: calls with one id, of whatever workers, learn once, and all
                return what the first did. (The last 100,000 changes are remembered.)

        Raises:
            ValueError: as there, or the model is another than that of the store.
            ConnectionError: the database does not answer; what was returned before is kept.
        """
        with self._call(once):
            return super().learn(
                inputs, labels, refs, average=average, select=select, progress=progress
            )

    def forget(self, *labels: Label, once: str | None = None) -> int:
        """As in `MemoryClassifier`, as a transaction; `once` is as in `learn`."""
        with self._call(once):
            return super().forget(*labels)

    def refresh(self, loader: Iterable[Any], *, progress: bool | None = None) -> Drift:
        """As in `MemoryClassifier`, as a transaction: the next generation is of this encoder.

        Other workers go on with the generation before until their models have these weights.
        """
        with self._call(generations=1):
            return super().refresh(loader, progress=progress)

    @contextmanager
    def _call(self, once: str | None = None, generations: int = 0) -> Iterator[None]:
        """A block whose changes are those of one call."""
        self._calls.once, self._calls.generations, self._calls.changes = once, generations, 0
        try:
            yield
        finally:
            self._calls.__dict__.clear()

    def _act(self, change: Callable[[], Any], whole: bool) -> Act:
        call = self._calls.__dict__
        once, number = call.get("once"), call.get("changes", 0)
        call["changes"] = number + 1
        name = uuid.uuid4().hex if once is None else f"{once}/{number}"
        return Act(name, change, whole, call.get("generations", 0))

    def clear(self) -> None:
        """Forget all that was learnt; the model's own classes stay."""

        self._change_remembered(lambda _: self.memory.clear(), whole=True)

    def snapshot(self) -> Any:
        """Refused by a RuntimeError: what was learnt is durable, and other workers know it."""
        raise RuntimeError("what a store has cannot be undone: forget what was learnt")

    def tunable_keys(self) -> Any:
        """Refused by a RuntimeError: workers share the keys that were learnt."""
        raise RuntimeError("the keys of a store are not tuned: other workers answer by them too")

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module, as a transaction: all workers take the state.

        Raises:
            ValueError: as there, or its keys are tuned.
        """
        if any(name.endswith(f"memory.{UNTUNED}") for name in state_dict):
            raise ValueError("a store keeps keys as they were learnt: untune() before")
        load = partial(super().load_state_dict, state_dict, *args, **kwargs)
        return self.change(load, whole=True)

    def change(self, change: Callable[[], Changed], whole: bool = False) -> Changed:
        """Change the store's state, as a transaction, and then that of this worker.

        It is decided on the state here, and once more under the lock if the store has a newer one.
        """
        act = self._act(change, whole)
        with self._turn:
            try:
                act.decision = self._decided(act, whole)
            except ValueError:
                # It may be of an old state, without what another worker has learnt just now.
                act.decision = None
            result, head = self.replica.write(act.name, partial(self._settle, act))
            if head is not None:
                assert act.decision is not None
                done, rows = act.decision.change, act.decision.draft.rows
                self._take_change(head, done, since=head.version - 1, rows=rows)
            return result  # type: ignore[no-any-return]

    def _settle(self, act: Act, transaction: Transaction) -> tuple[Any, Head | None]:
        """Inside a transaction: the result, and the head after the change that is written.

        There is no head where it was done before, by an earlier try or by another worker: then this
        worker knows it afterwards too.
        """
        head, decision = transaction.head, act.decision
        if transaction.done is not None:
            # By this connection, which is there: the one that reads may be lost as well.
            self._caught_up(transaction)
            if act.sent and decision is not None:
                return decision.result, None
            return _result_of(transaction.done), None
        # The first change makes the memory.
        whole = act.whole or not head.facts
        of_now = decision is not None and decision.version == head.version
        if decision is None or not of_now or decision.change.whole != whole:
            changed = self._caught_up(transaction)
            decision = self._decided(act, whole, changed)
        facts = decision.change.facts
        if head.facts and facts["generation"] == head.facts["generation"]:
            self._check_encoder(head.facts["encoder"], facts["encoder"])
        act.decision, act.sent = decision, True
        transaction.write(decision.change, _answer_of(decision.result))
        epoch = head.epoch + decision.change.whole
        return decision.result, Head(head.memory, head.version + 1, epoch, facts)

    def _caught_up(self, transaction: Transaction) -> Tensor | None:
        """Take what is new, under the lock; the slots that have changed, None for all of them."""
        head, values = transaction.head, self.memory.values
        if head.version == self._version:
            return values[:0]
        new = transaction.since(self._version, self._epoch)
        self._take_change(head, new, since=self._version)
        return None if new.whole else values.new_tensor([row.slot for row in new.slots])

    def _decided(self, act: Act, whole: bool, changed: Tensor | None = None) -> Decision:
        """What a change would do; afterwards everything is as it was."""
        earlier = act.decision.draft.search if act.decision and changed is not None else None
        with self.memory.draft(earlier, changed) as draft:
            before = self._book, self.reader, self._example_dims, self._generation
            projection, update = self.memory.projection, self.memory.update
            book = self._book
            following = book.next_id
            parts = dict(self.ensembler.named_buffers())
            weights = {name: part.clone() for name, part in parts.items()}
            memory = self.memory.state_dict() if whole else {}
            memory = {name: part.clone() for name, part in memory.items()}
            self._book = deepcopy(book) if whole else book
            try:
                with nullcontext() if whole else book.draft():
                    result = act.change()
                    self._generation += act.generations
                    draft.close()
                    found = self._whole() if whole else self._part(draft, book, following, weights)
            finally:
                self._book, self.reader, self._example_dims, self._generation = before
                for name, part in parts.items():
                    part.copy_(weights[name])
                self.memory.projection, self.memory.update = projection, update
                if whole:
                    self.memory.put_state(memory)
            return Decision(result, found, self._version, draft)

    # What is stored

    def _part(
        self, draft: Draft, before: LabelBook, following: int, weights: dict[str, Tensor]
    ) -> Change:
        """The slots of a draft, and the labels and weights that are not those of before."""
        book, numbers = self._book, self._book.numbers()
        labels: dict[int, bytes | None] = {}
        if book is not before:
            gone = before.numbers() - numbers
            labels = dict.fromkeys(n for n in gone if n < following)
        for number in range(following, book.next_id):
            if number in numbers:
                labels[number] = _label_bytes(book.label(number))
        slots = draft.slots.tolist()
        parts = {f"{LABEL}{number}": text for number, text in labels.items()}
        for name, part in self.ensembler.named_buffers():
            if not torch.equal(part, weights[name]):
                parts[f"ensembler.{name}"] = tensor_bytes(part)
        return Change(slot_rows(slots, draft.rows, self._refs(slots)), parts, self._facts())

    def _whole(self) -> Change:
        """All of the memory."""
        memory = dict(self.memory.state_dict())
        slots = self.memory.state.occupied.nonzero().squeeze(1)
        rows = {name: memory.pop(name)[slots] for name in self.memory.empty_slots(1)}
        parts = {f"{LABEL}{n}": _label_bytes(self._book.label(n)) for n in self._book.numbers()}
        tensors = own_tensors(self.memory, self.ensembler)
        for name in tensors.keys() - {f"memory.{name}" for name in (*rows, "clock")}:
            parts[name] = tensor_bytes(tensors[name])
        numbers = slots.tolist()
        stored = slot_rows(numbers, rows, self._refs(numbers))
        return Change(stored, parts, self._facts(), whole=True)

    def _refs(self, slots: list[int]) -> list[list[Any]]:
        return [[label_to_json(ref) for ref in self._book.refs(slot)] for slot in slots]

    def _facts(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "settings": self._settings(),
            "unknown": label_to_json(self.unknown),
            "encoder": self._encoder.value(),
            "generation": self._generation,
            "clock": int(self.memory.clock),
            "next": self._book.next_id,
            "beside": self._to_json(with_book=False),
        }

    def _settings(self) -> dict[str, Any]:
        settings = memory_settings(self.memory)
        # Which classes are protected changes, and stands with the labels.
        if isinstance(self.memory.update, Protected):
            settings["update"] = settings["update"]["fields"]["update"]
        return {**settings, "key_dtype": str(self.memory.keys.dtype)}

    # Taking what is stored

    def _take_change(
        self, head: Head, change: Change, since: int, rows: Rows | None = None
    ) -> None:
        """Be as after a change: all at once for those who read here.

        The rows of its slots may be given where it is not whole, to spare their decoding.
        """
        with self.lock.writing():
            if not since <= self._version < head.version:
                return
            facts = head.facts
            if facts["format"] > FORMAT:
                raise ValueError("the store is of a newer rarememory: upgrade this one")
            if self.check_encoder and facts["encoder"] != self._known_encoder:
                self._check_encoder(facts["encoder"], self._encoder.value())
            self._known_encoder = facts["encoder"]
            if change.whole:
                self._take_whole(change)
            else:
                self._take_part(change, rows)
            self._version, self._epoch = head.version, head.epoch
            self._generation = facts["generation"]

    def _take_part(self, change: Change, rows: Rows | None) -> None:
        facts, memory = change.facts, self.memory
        slots = memory.values.new_tensor([row.slot for row in change.slots])
        if rows is None:
            rows = rows_of_slots(change.slots, memory.empty_slots(1))
        labels = {int(n): json.loads(text or b"null") for n, text in _labels(change.parts)}
        memory.put_slots(slots, rows, facts["clock"])
        for name, part in self.ensembler.named_buffers():
            if (stored := change.parts.get(f"ensembler.{name}")) is not None:
                part.copy_(tensor_of(stored))
        for row in change.slots:
            refs = json.loads(row.refs) if row.refs else []
            self._book.put_refs(row.slot, tuple(map(label_from_json, refs)))
        self._book.put_labels(labels, facts["next"])
        self._from_json(facts["beside"])

    def _take_whole(self, change: Change) -> None:
        facts = change.facts
        size = self._checked_size(facts["settings"])
        tensors = {
            name: tensor_of(part)
            for name, part in change.parts.items()
            if part is not None and not name.startswith(LABEL)
        }
        weights = part_of(tensors, "ensembler.")
        check_ensembler(weights)
        stored = [row for row in change.slots if row.body is not None]
        slots = self.memory.values.new_tensor([row.slot for row in stored])
        memory = {**self.memory.empty_slots(size), **part_of(tensors, "memory.")}
        for name, rows in rows_of_slots(stored, self.memory.empty_slots(1)).items():
            memory[name][slots] = rows
        memory["clock"] = torch.tensor(facts["clock"])
        self.memory.check_stored(memory)
        names = [[int(n), json.loads(text)[0]] for n, text in _labels(change.parts) if text]
        refs = [[row.slot, json.loads(row.refs)] for row in stored if row.refs]
        book = {"names": {"next": facts["next"], "labels": names}, "refs": refs, **facts["beside"]}
        check_book(book, memory["values"], weights["host_ids"])
        self._check_host(weights["host_ids"])
        if facts["settings"]["memory"]["projection"] and self.memory.projection is None:
            width = self.memory.keys.shape[1]
            self.memory.projection = nn.Linear(width, width, bias=False).to(self.memory.keys.device)
        self.memory.put_state(memory)
        copy_into(dict(self.ensembler.named_buffers()), weights)
        self._from_json(book)
        self.unknown = label_from_json(facts["unknown"])
        self._guesses = Guesses()

    def _checked_size(self, stored: dict[str, Any]) -> int:
        """The number of slots in the store, whose other settings must be ours."""
        own, width = self._settings(), stored["memory"]["key_dim"]
        if self._guesses.key_dim and not len(self.memory):
            self.memory.put_state(
                {"keys": self.memory.keys.new_zeros(len(self.memory.keys), width)}
            )
        elif width != own["memory"]["key_dim"]:
            raise ValueError(
                f"the store was learnt with features of width {width}, and this model's have "
                f"{own['memory']['key_dim']}: open it with the model that it was learnt with"
            )
        adopted = {
            name: stored["memory"][name] for name in ("key_dim", "memory_size", "projection")
        }
        own["memory"] |= adopted
        if own != stored:
            raise ValueError(
                f"the store was made with {stored}, and this is {own}: open it with those"
            )
        return int(adopted["memory_size"])

    def _check_host(self, host_ids: Tensor) -> None:
        own = len(self.ensembler.host_ids)
        if len(host_ids) != own and not self._guesses.n_host:
            raise ValueError(
                f"the store was learnt with a model of {len(host_ids)} classes, and this has {own}"
            )

    def _check_encoder(self, stored: str, own: str) -> None:
        if stored != own:
            raise ValueError(
                f"the store was learnt with a model whose weights have the hash {stored[:12]}, and "
                f"those of this model have {own[:12]}: open it with that model, or refresh() it "
                "with this one"
            )

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a classifier in a store is not copied: open the store again")


def _labels(parts: Mapping[str, bytes | None]) -> list[tuple[int, bytes | None]]:
    """Integers of labels, ascending, and the labels in JSON; None for one that is no more."""
    named = part_of(parts, LABEL)
    return sorted((int(number), text) for number, text in named.items())


def _label_bytes(label: Label) -> bytes:
    # In a list, for the label None is null itself.
    return json.dumps([label_to_json(label)]).encode()


def _answer_of(result: Any) -> str:
    """What a change has returned, in JSON, for those who do it again."""
    if isinstance(result, Learnt):
        lost = [label_to_json(label) for label in result.lost]
        return json.dumps([result.slots.tolist(), result.hits.tolist(), lost])
    return json.dumps(result if isinstance(result, int) else None)


def _result_of(answer: str) -> Any:
    stored = json.loads(answer)
    if isinstance(stored, list):
        slots, hits, lost = stored
        return Learnt(
            torch.tensor(slots, dtype=torch.int64),
            torch.tensor(hits, dtype=torch.bool),
            [label_from_json(label) for label in lost],
        )
    return stored


wrap = StoredClassifier
"""Give a classifier a memory in a store: `wrap(model, store="sqlite:///birds.db")`."""
