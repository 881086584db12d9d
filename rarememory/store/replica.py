"""The connections of one copy of a memory: one that follows the store, and one that writes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rarememory.store import log
from rarememory.store.changes import Change
from rarememory.store.session import Conflict, Lost, Session

Result = TypeVar("Result")


class Replica:
    """Reads and writes one memory of a store, and connects again when a connection is lost.

    Args:
        url: of the store.
        name: of the memory.
        patience: seconds that a write tries for.
    """

    def __init__(self, url: str, name: str, patience: float) -> None:
        self.url, self.name, self.patience = url, name, patience
        self._sessions: dict[str, Session] = {}
        self._closed = False
        self._locks = {"read": threading.RLock(), "write": threading.RLock()}
        self.opened(self._make_tables)

    def _make_tables(self) -> None:
        with self._session("read") as session:
            log.make_tables(session)

    def newest(self) -> tuple[int, int]:
        """The version and the epoch of the store.

        Raises:
            ConnectionError: the store does not answer.
        """
        with self._session("read") as session:
            return log.newest(session, self.name)

    def read(self, version: int, epoch: int) -> tuple[log.Head, Change] | None:
        """What has changed since; None where nothing has.

        Raises:
            ConnectionError: the store does not answer.
        """
        with self._session("read") as session:
            return log.read(session, self.name, version, epoch)

    def write(self, act: str, decide: Callable[[log.Transaction], Result], version: int) -> Result:
        """Decide in a transaction, which is tried again while the store loses or refuses it.

        Args:
            act: the id of what is done.
            decide: what to write, in the transaction.
            version: as in `log.transaction`.

        Raises:
            ConnectionError: the store has not answered for `patience` seconds.
        """

        def once() -> Result:
            with self._session("write") as session:
                with log.transaction(session, self.name, act, version) as transaction:
                    result = decide(transaction)
                return result

        return self._tried(
            once,
            "nothing was changed in {:g} seconds, unless the connection was lost at the very end: "
            "the same `once` tells",
        )

    def opened(self, once: Callable[[], Result]) -> Result:
        """What a call of opening gives, which is made again while the store does not answer."""
        return self._tried(once, "the store could not be opened in {:g} seconds")

    def _tried(self, once: Callable[[], Result], failed: str) -> Result:
        deadline, pause = time.monotonic() + self.patience, 0.001
        while True:
            try:
                return once()
            except (Conflict, Lost) as error:
                if time.monotonic() > deadline:
                    raise Lost(f"{error}; {failed.format(self.patience)}") from error
                time.sleep(pause)
                pause = min(2 * pause, 0.1)

    @contextmanager
    def _session(self, use: str) -> Iterator[Session]:
        with self._locks[use]:
            if self._closed:
                raise Lost("this worker has closed its store: open it again")
            if use not in self._sessions:
                self._sessions[use] = log.session_of(self.url, self.patience)
            try:
                yield self._sessions[use]
            except Lost:
                self._sessions.pop(use).close()
                raise

    def close(self) -> None:
        """End the connections, for good: a thread may be about to look."""
        self._closed = True
        for use, lock in self._locks.items():
            with lock:
                if use in self._sessions:
                    self._sessions.pop(use).close()

    def leave(self) -> None:
        """In a process made by fork: leave the connections to the other process."""
        for session in self._sessions.values():
            session.leave()
        self._sessions = {}
        self._locks = {use: threading.RLock() for use in self._locks}

    def __reduce__(self) -> Any:
        raise TypeError("a connection to a store is not copied: open the store again")
