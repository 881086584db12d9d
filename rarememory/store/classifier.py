"""A classifier whose memory is in a store: many workers learn and forget, and all answer alike."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from typing import Any

from torch import Tensor, nn

from rarememory.classifier import MemoryClassifier
from rarememory.classifier.answers import Learnt, Probabilities
from rarememory.classifier.beside_keys import NORMS, buffers_of, match_buffers
from rarememory.classifier.guesses import Guesses
from rarememory.classifier.invariants import check_book, check_ensembler
from rarememory.classifier.labels import Label, label_from_json, label_to_json
from rarememory.classifier.learning import LabelledFeatures
from rarememory.classifier.locked_module import Changed
from rarememory.classifier.refreshing import Drift
from rarememory.classifier.tuned_keys import UNTUNED
from rarememory.memory.drafts import Draft, Searched
from rarememory.memory.selections import Selection
from rarememory.memory.slots import copy_into
from rarememory.store.acts import Act, Decision, Known, answer_of, result_of
from rarememory.store.changes import (
    Change,
    Counts,
    Rows,
    facts_of,
    rows_of_slots,
    slots_of,
    text_of,
)
from rarememory.store.contents import (
    Before,
    before,
    book_of,
    changed_contents,
    check_given,
    put_change,
    settings_of,
    tensors_of,
    whole_contents,
)
from rarememory.store.encoders import EncoderHash
from rarememory.store.following import Follower, follow
from rarememory.store.foreseeing import foreseen, foreseen_again
from rarememory.store.log import Head, Transaction
from rarememory.store.replica import Replica

FORMAT = 2


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
            its labels and its numbers: give these for a new one, or as they are there.

    Attributes:
        replica: the connections.
        check_encoder: as given.
        trouble: why the copy does not follow the store at present; None where it does.

    Raises:
        ValueError: as in `MemoryClassifier`; or the store was learnt with another model, or made
            with other options than those that are given.
        ConnectionError: the database does not answer.

    Example:
        >>> import tempfile, torch
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
        self.check_encoder = check_encoder
        self.poll = poll
        self.trouble: str | None = None
        self._turn, self._calls = threading.RLock(), threading.local()
        self._encoder, self._known = EncoderHash(model), Known()
        self._empty = self.memory.empty_slots(1)
        self._read_only = self.memory.read_only()
        self._read_only.__enter__()
        self.replica = Replica(store, name, patience)
        self._given = options
        self.replica.opened(self.catch_up)
        # From here on another worker may resize it.
        self._given = {}
        # Whether others write as often as this worker does.
        self._busy = False
        follow(self)

    @property
    def version(self) -> int:
        """The number of the latest change that this worker knows; 0 before the first."""
        return self._known.version

    @property
    def generation(self) -> int:
        """How often the memory was encoded again, by `refresh`."""
        return int(facts_of(self._known.text).get("generation", 0))

    # Following

    def catch_up(self) -> int:
        """Take what other workers have changed; return the version.

        Raises:
            ConnectionError: the store does not answer.
            ValueError: it was learnt with another model, or other options.
        """
        if self.replica.newest()[0] > self.version:
            found = self.replica.read(self.version, self._known.epoch)
            if found is not None:
                self._take_change(*found, since=self.version)
        return self.version

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
        while version is not None and self.version < version:
            self.look()
            if self.version < version:
                if time.monotonic() > deadline:
                    why = f": {self.trouble}" if self.trouble else ""
                    raise TimeoutError(
                        f"version {version} is not here after {seconds:g} seconds, but "
                        f"{self.version}{why}"
                    )
                time.sleep(0.002)

    def begin_anew(self) -> None:
        """In a process made by fork: leave the connections to the other process."""
        self._turn = threading.RLock()
        self.replica.leave()

    def _apply(self, function: Callable[[Tensor], Tensor], *args: Any) -> "StoredClassifier":
        """Move or convert the model and the copy of the memory, but for the dtype of its keys.

        Raises:
            ValueError: the keys would have another dtype than those of the store.
        """
        keys = self.memory.keys[:0]
        if (dtype := function(keys).dtype) != keys.dtype:
            raise ValueError(
                f"the store has keys in {keys.dtype}, and this would make them {dtype}: convert "
                "the model before it is wrapped"
            )
        super()._apply(function, *args)  # type: ignore[no-untyped-call]
        return self

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

    def _act(
        self, change: Callable[[], Any], whole: bool, examples: LabelledFeatures | None
    ) -> Act:
        call = self._calls.__dict__
        once, number = call.get("once"), call.get("changes", 0)
        call["changes"] = number + 1
        name = uuid.uuid4().hex if once is None else f"{once}/{number}"
        encoder, generations = self._encoder.value(), call.get("generations", 0)
        return Act(name, change, whole, encoder, generations, examples)

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

    def change(
        self,
        change: Callable[[], Changed],
        whole: bool = False,
        examples: LabelledFeatures | None = None,
    ) -> Changed:
        """Change the store's state, as a transaction, and then that of this worker.

        It is decided on the state here, and once more under the lock if the store has a newer one.
        While others write as often, that is so each time: then only the search is made before.
        """
        act = self._act(change, whole, examples)
        with self._turn:
            # An error may be of an old state, without what another worker has learnt just now.
            with suppress(Searched, ValueError):
                act.decision = None if whole else self._foreseen(act)
                if act.decision is None:
                    only_search = self._busy and not whole
                    act.decision = self._decided(act, whole, only_search=only_search)
            since = act.searched if act.search else self._known
            settle = partial(self._settle, act)
            result, head = self.replica.write(act.name, settle, since.version)
            if head is not None:
                assert act.decision is not None
                done, rows = act.decision.change, act.decision.rows
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
            self._catch_up_with(transaction, self._known)
            if act.sent and decision is not None:
                return decision.result, None
            return result_of(transaction.done), None
        # The first change makes the memory.
        facts = facts_of(head.text)
        whole = act.whole or not facts
        of_now = decision is not None and decision.version == head.version
        if decision is None or not of_now or decision.change.whole != whole:
            since = act.searched if act.search else self._known
            self._busy = since.version < head.version
            new = self._catch_up_with(transaction, since)
            decision = None if whole else self._foreseen_again(act, head, new)
            decision = decision or self._decided(act, whole, self._slots_of(new))
        result, change = decision.result, decision.change
        if facts and change.text != head.text and not act.generations:
            self._check_encoder(facts["encoder"], act.encoder)
        act.decision, act.sent = decision, True
        transaction.write(change, answer_of(result))
        epoch = head.epoch + change.whole
        return result, Head(head.memory, head.version + 1, epoch, change.counts, change.text)

    def _catch_up_with(self, transaction: Transaction, since: Known) -> Change:
        """Take what is new, under the lock."""
        head = transaction.head
        if head.version == since.version:
            return Change([], {}, head.counts, head.text)
        new = transaction.since(since.version, since.epoch)
        self._take_change(head, new, since=since.version)
        return new

    def _slots_of(self, new: Change) -> Tensor | None:
        """The slots that are others after a change, None for all."""
        return None if new.whole else slots_of(new.slots, self.memory.values.device)

    def _foreseen(self, act: Act) -> Decision | None:
        """What learning would do, where no label is the first or the last of its kind."""
        examples = act.examples
        if examples is None or examples.example_dims != self._example_dims:
            return None
        with self.lock.reading():
            text, known = self._text(act), self._known
            found = foreseen(self.memory, self._book, examples, text, known.version)
            return self._noted(act, found, known)

    def _foreseen_again(self, act: Act, head: Head, new: Change) -> Decision | None:
        """The same after a change by another worker; None where that cannot be told from it."""
        decision, changed = act.decision, self._slots_of(new)
        if decision is None or decision.foreseen is None or changed is None or new.parts:
            return None
        if decision.version != act.searched.version or decision.change.text != head.text:
            return None
        with self.lock.reading():
            found = foreseen_again(self.memory, self._book, decision, changed, head.version)
            return self._noted(act, found, self._known)

    def _noted(self, act: Act, found: Decision | None, known: Known) -> Decision | None:
        if found is not None and found.foreseen is not None:
            act.search, act.searched = found.foreseen.search, known
        return found

    def _decided(
        self, act: Act, whole: bool, changed: Tensor | None = None, only_search: bool = False
    ) -> Decision:
        """What a change would do; afterwards everything is as it was.

        Args:
            act: the change.
            whole: whether more than some slots, labels, refs and weights change.
            changed: the slots that have changed since its search, if that may be used again.
            only_search: stop by `Searched` where the search is made.
        """
        search = None if changed is None else act.search
        with self.memory.draft(search, changed, only_search) as draft:
            undone = self._undone_whole() if whole else self._undone()
            with undone as was:
                try:
                    result = act.change()
                finally:
                    if draft.search is not None:
                        act.search, act.searched = draft.search, self._known
                draft.close()
                found = self._changed(act, draft, was)
            return Decision(result, found, self.version, draft.rows)

    # What is stored

    @contextmanager
    def _undone(self) -> Iterator[Before]:
        """A block after which labels, refs, weights and the reader are as they were before."""
        book, reader, dims = self._book, self.reader, self._example_dims
        was = before(self.ensembler, book)
        try:
            with book.draft():
                yield was
        finally:
            for part, held in was.weights.values():
                part.copy_(held)
            for name, value in (("_book", book), ("reader", reader), ("_example_dims", dims)):
                if getattr(self, name) is not value:
                    setattr(self, name, value)

    @contextmanager
    def _undone_whole(self) -> Iterator[None]:
        """A block after which all of the memory is as it was before, with what is beside it."""
        memory, book = self.memory, self._book
        projection, update = memory.projection, memory.update
        stored = {name: part.clone() for name, part in memory.state_dict().items()}
        with self._undone():
            self._book = deepcopy(book)
            try:
                yield
            finally:
                memory.projection, memory.update = projection, update
                memory.put_state(stored)

    def _changed(self, act: Act, draft: Draft, was: Before | None) -> Change:
        """What an act has changed just now; all of the memory without what was before."""
        counts = Counts(int(self.memory.clock), self._book.next_id)
        if was is None:
            facts = self._facts(act)
            facts |= {"format": FORMAT, "settings": settings_of(self.memory)}
            facts["buffers"] = buffers_of(self.memory)
            facts["unknown"] = label_to_json(self.unknown)
            contents = whole_contents(self.memory, self.ensembler, self._book)
            return Change(*contents, counts, text_of(facts), whole=True)
        return Change(*changed_contents(draft, self._book, was), counts, self._text(act))

    def _facts(self, act: Act) -> dict[str, Any]:
        """Those that a change may make others."""
        return {
            "encoder": act.encoder,
            "generation": self.generation + act.generations,
            "beside": self._to_json(with_book=False),
        }

    def _text(self, act: Act) -> str:
        """All facts after a change that is not whole."""
        known = facts_of(self._known.text)
        facts = {**known, **self._facts(act)}
        # Most often they are what they were.
        return self._known.text if facts == known else text_of(facts)

    # Taking what is stored

    def _take_change(
        self, head: Head, change: Change, since: int, rows: Rows | None = None
    ) -> None:
        """Be as after a change: all at once for those who read here.

        The rows of its slots may be given where it is not whole, to spare their decoding.
        """
        with self.lock.writing():
            known = self._known
            if not since <= known.version < head.version:
                return
            if head.text != known.text:
                self._check_facts(facts_of(head.text), facts_of(known.text))
            if change.whole:
                self._take_whole(change)
            else:
                if rows is None:
                    device = self.memory.keys.device
                    rows = rows_of_slots(change.slots, self._empty, device)
                put_change(change, rows, self.memory, self.ensembler, self._book)
                if change.text != known.text:
                    self._from_json(deepcopy(facts_of(change.text)["beside"]))
            self._known = Known(head.version, head.epoch, head.text)

    def _check_facts(self, facts: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        if facts["format"] > FORMAT:
            raise ValueError("the store is of a newer rarememory: upgrade this one")
        if self.check_encoder and facts["encoder"] != known.get("encoder"):
            self._check_encoder(facts["encoder"], self._encoder.value())

    def _take_whole(self, change: Change) -> None:
        check_given(self._given, change)
        facts = deepcopy(facts_of(change.text))
        size = self._checked_size(facts["settings"])
        # Before format 2 it was not remembered what a host said.
        known = {*buffers_of(self.memory)} & {NORMS}
        match_buffers(self.memory, facts.get("buffers", known))
        memory, weights = tensors_of(change, self.memory, size)
        check_ensembler(weights)
        self.memory.check_stored(memory)
        book = {**book_of(change), **facts["beside"]}
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
        self._empty = self.memory.empty_slots(1)

    def _checked_size(self, stored: dict[str, Any]) -> int:
        """The number of slots in the store, whose other settings must be ours."""
        own, width = settings_of(self.memory), stored["memory"]["key_dim"]
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


wrap = StoredClassifier
"""Give a classifier a memory in a store: `wrap(model, store="sqlite:///birds.db")`."""
