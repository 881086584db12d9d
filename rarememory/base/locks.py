"""A readers-writer lock: any number of threads read at once, or one writes (Courtois et al. 1971).

A write waits until the reads under way have ended, and reads that come meanwhile wait for it. To
copy the state for each write would spare readers the wait. But a write would then take time in
proportion to the memory, and whoever holds a buffer would hold an old one.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from threading import Event, RLock, get_ident
from weakref import WeakSet

import torch


class ReadersWriterLock:
    """Lets many threads read at once, or one write.

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
        self._reading, self._writing = _Reading(self), _Writing(self)
        # How many blocks each thread is in.
        self._reads: dict[int, int] = {}
        self._writes = 0
        # The thread that writes, or waits until others have read: it has the mutex.
        self._writer: int | None = None
        self._mutex = RLock()
        self._read_has_ended = Event()
        _LOCKS.add(self)

    def reading(self) -> AbstractContextManager[None]:
        """A block in which no other thread writes."""
        return nullcontext() if torch.compiler.is_compiling() else self._reading

    def writing(self) -> AbstractContextManager[None]:
        """A block in which no other thread reads or writes.

        Raises:
            RuntimeError: at its beginning, inside a read of this thread, if another thread is about
                to write: each would wait for the other.
        """
        return nullcontext() if torch.compiler.is_compiling() else self._writing

    def reset_after_fork(self) -> None:
        """Let go of what other threads held, which are not in this process."""
        me = get_ident()
        self._reads = {me: self._reads[me]} if me in self._reads else {}
        self._mutex, self._read_has_ended = RLock(), Event()
        if self._writer != me:
            self._writer, self._writes = None, 0
        for _ in range(self._writes):
            self._mutex.acquire()

    def __reduce__(self) -> tuple[type["ReadersWriterLock"], tuple[()]]:
        return type(self), ()


class _Reading(AbstractContextManager[None]):
    # Each step on the dict is whole, and only its own thread changes an entry. A reader makes its
    # entry, then looks for a writer; a writer says so, then looks for entries: one sees the other.

    def __init__(self, lock: ReadersWriterLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock, me = self._lock, get_ident()
        depth = lock._reads.get(me, 0)
        lock._reads[me] = depth + 1
        if lock._writer is not None and lock._writer != me and not depth:
            self.__exit__()
            with lock._mutex:
                lock._reads[me] = 1

    def __exit__(self, *error: object) -> None:
        lock, me = self._lock, get_ident()
        depth = lock._reads[me] - 1
        if depth:
            lock._reads[me] = depth
            return
        del lock._reads[me]
        if lock._writer is not None:
            lock._read_has_ended.set()


class _Writing(AbstractContextManager[None]):
    def __init__(self, lock: ReadersWriterLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock, me = self._lock, get_ident()
        if not lock._mutex.acquire(blocking=me not in lock._reads):
            raise RuntimeError(
                "a thread that reads this memory cannot write while another is about to: write "
                "outside of the read"
            )
        lock._writer = me
        lock._writes += 1
        try:
            while len(lock._reads) > (me in lock._reads):
                lock._read_has_ended.wait()
                lock._read_has_ended.clear()
        except BaseException:
            # An interrupt from the keyboard.
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        lock = self._lock
        lock._writes -= 1
        if not lock._writes:
            lock._writer = None
        lock._mutex.release()


_LOCKS: WeakSet[ReadersWriterLock] = WeakSet()


def _reset_all_after_fork() -> None:
    for lock in list(_LOCKS):
        lock.reset_after_fork()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
