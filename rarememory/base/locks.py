"""A readers-writer lock: any number of threads read at once, or one writes (Courtois et al. 1971).

A write waits until the reads under way have ended, and reads that come meanwhile wait for it. To
copy the state for each write would spare readers the wait. But a write would then take time in
proportion to the memory, and whoever holds a buffer would hold an old one.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from threading import Condition, RLock, local
from typing import Any
from weakref import WeakSet, ref

from torch.compiler import is_dynamo_compiling


class ReadersWriterLock:
    """Lets many threads read at once, or one write.

    Each thread has a lock of its own: a read holds that one, a write those of all threads (Hsieh
    and Weihl 1992), so a read in one thread costs no more than a lock does.

    Inside its own block a thread may take the lock again: to read always, to write where it writes
    already or no other thread is about to. A compiled program consists of torch's operators and
    takes no lock: call it inside a block. A copy or pickle is a new lock. A child process made by
    `fork` holds what the thread held that made it, and nothing else.

    Example:
        >>> lock = ReadersWriterLock()
        >>> with lock.reading(), lock.reading():
        ...     print("no other thread writes")
        no other thread writes
        >>> with lock.writing(), lock.reading():
        ...     print("no other thread reads or writes")
        no other thread reads or writes
    """

    def __init__(self) -> None:
        self._writing = _Writing(self)
        # How many blocks the thread is in that writes, or waits until others have read: it has the
        # mutex, and holds the locks of these other threads.
        self._writes = 0
        self._mutex = RLock()
        self._held: list[RLock] = []
        # The locks of the threads that are alive.
        self._threads: set[ref[RLock]] = set()
        self._mine = _Mine(self._threads)
        _LOCKS.add(self)

    def reading(self) -> AbstractContextManager[object]:
        """A block in which no other thread writes."""
        if is_dynamo_compiling():
            return nullcontext()
        # A thread adds its lock, then looks for a writer; a writer says so, then looks for locks:
        # one sees the other.
        mine = self._mine.lock
        if self._writes:
            self._wait_for_writer(mine)
        return mine

    def _wait_for_writer(self, mine: RLock) -> None:
        # Without this, a thread that reads again and again would keep the writer waiting.
        if not _is_held(mine):
            with self._mutex:
                pass

    def writing(self) -> AbstractContextManager[object]:
        """A block in which no other thread reads or writes.

        Raises:
            RuntimeError: at its beginning, inside a read of this thread, if another thread is about
                to write: each would wait for the other.
        """
        return nullcontext() if is_dynamo_compiling() else self._writing

    def reset_after_fork(self) -> None:
        """Let go of what other threads held, which are not in this process."""
        writes = self._writes if _is_held(self._mutex) else 0
        self._writes, self._mutex, self._held = writes, RLock(), []
        for _ in range(writes):
            self._mutex.acquire()
        mine = self._mine.lock
        self._threads.clear()
        self._mine.put(mine if _is_held(mine) else RLock())

    def __reduce__(self) -> tuple[type["ReadersWriterLock"], tuple[()]]:
        return type(self), ()


class _Mine(local):
    """The lock of the thread that asks, made when it asks first."""

    def __init__(self, threads: set[Any]) -> None:
        self.threads = threads
        self.put(RLock())

    def put(self, lock: RLock) -> None:
        self.lock = lock
        self.threads.add(ref(lock, self.threads.discard))


class _Writing(AbstractContextManager[None]):
    def __init__(self, lock: ReadersWriterLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        mine = lock._mine.lock
        while not lock._mutex.acquire(blocking=False):
            if not _is_held(mine):
                lock._mutex.acquire()
                break
            # If nobody writes, a reader that waited has the mutex, and gives it back at once.
            if lock._writes:
                raise RuntimeError(
                    "a thread that reads this memory cannot write while another is about to: write "
                    "outside of the read"
                )
        lock._writes += 1
        if lock._writes > 1:
            return
        try:
            for thread in lock._threads.copy():
                other = thread()
                if other is not None and other is not mine:
                    other.acquire()
                    lock._held.append(other)
        except BaseException:
            # An interrupt from the keyboard.
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        lock = self._lock
        lock._writes -= 1
        while not lock._writes and lock._held:
            lock._held.pop().release()
        lock._mutex.release()


def _is_held(lock: RLock) -> bool:
    """Whether this thread holds the lock; a condition of it may then be notified."""
    try:
        Condition(lock).notify()
    except RuntimeError:
        return False
    return True


_LOCKS: WeakSet[ReadersWriterLock] = WeakSet()


def _reset_all_after_fork() -> None:
    for lock in list(_LOCKS):
        lock.reset_after_fork()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
