"""Readers read together, a writer is alone, nobody waits for himself, and copies are free."""

import copy
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from rarememory.base import locks
from rarememory.base.locks import ReadersWriterLock

SECONDS = 30


@pytest.fixture(autouse=True)
def often_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_thread(task):
    """Starts a thread, daemonic so that a test that fails does not wait for it."""
    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    return thread


def test_readers_read_at_once():
    lock, together = ReadersWriterLock(), threading.Barrier(4)

    def read(_):
        with lock.reading():
            together.wait(SECONDS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_a_writer_is_alone():
    lock, inside, wrong = ReadersWriterLock(), [], []

    def work(place):
        for turn in range(400):
            writes = (turn + place) % 3 == 0
            with lock.writing() if writes else lock.reading():
                inside.append(writes)
                if sum(inside) and len(inside) > 1:
                    wrong.append(list(inside))
                inside.pop() if writes else inside.remove(False)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert not wrong and not inside


def test_a_writer_waits_for_another():
    lock, written = ReadersWriterLock(), threading.Event()

    def write():
        with lock.writing():
            written.set()

    with lock.writing():
        writer = in_thread(write)
        assert not written.wait(0.05)
    assert written.wait(SECONDS)
    writer.join(SECONDS)


def test_a_reader_may_read_again_while_a_writer_waits():
    lock, written = ReadersWriterLock(), threading.Event()

    def write():
        with lock.writing():
            written.set()

    with lock.reading():
        writer = in_thread(write)
        while not lock._writes:
            pass
        with lock.reading():
            assert not written.is_set()
        assert not written.wait(0.05)
    assert written.wait(SECONDS)
    writer.join(SECONDS)


def test_a_reader_that_comes_waits_for_the_writer():
    lock, read = ReadersWriterLock(), threading.Event()

    def reads():
        with lock.reading():
            read.set()

    with lock.writing(), lock.writing(), lock.reading():
        reader = in_thread(reads)
        assert not read.wait(0.05)
    assert read.wait(SECONDS)
    reader.join(SECONDS)


def test_a_thread_that_reads_again_and_again_lets_the_writer_in():
    lock, written, started = ReadersWriterLock(), threading.Event(), threading.Event()

    def write():
        started.set()
        with lock.writing():
            written.set()

    for _ in range(20):
        written.clear()
        started.clear()
        with lock.reading():
            writer = in_thread(write)
            assert started.wait(SECONDS)
            while not lock._writes:
                pass
        with lock.reading():
            assert written.is_set()
        writer.join(SECONDS)


def test_a_thread_that_has_ended_leaves_nothing():
    lock = ReadersWriterLock()
    before = len(lock._threads)

    def read():
        with lock.reading():
            pass

    in_thread(read).join(SECONDS)
    assert len(lock._threads) == before


def test_a_reader_alone_may_write_and_of_two_the_second_is_refused():
    lock = ReadersWriterLock()
    with lock.reading(), lock.writing():
        pass
    inside, said = threading.Barrier(2), []

    def read_then_write(_):
        with lock.reading():
            inside.wait(SECONDS)
            try:
                with lock.writing():
                    said.append("wrote")
            except RuntimeError as error:
                said.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read_then_write, range(2)))
    assert sorted(said)[0].startswith("a thread that reads this memory cannot write while")
    assert sorted(said)[1] == "wrote"


def test_a_reader_may_write_while_another_only_looks_for_a_writer():
    lock, looks, done = ReadersWriterLock(), threading.Event(), []

    def look():
        # As a reader that has waited for a writer: it takes the mutex, and lets go of it.
        with lock._mutex:
            looks.set()
            tried.wait(0.05)

    tried = threading.Event()
    with lock.reading():
        in_thread(look)
        assert looks.wait(SECONDS)
        with lock.writing():
            done.append("written")
    assert done == ["written"]


def test_what_fails_before_a_write_begins_leaves_nothing_locked(monkeypatch):
    lock = ReadersWriterLock()

    class Broken:
        @property
        def lock(self):
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_mine", Broken())
        with pytest.raises(MemoryError), lock.writing():
            pass
    thread = in_thread(lambda: lock.writing().__enter__())
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm")
def test_an_interrupted_wait_leaves_nothing_locked(monkeypatch):
    lock, go, wrote = ReadersWriterLock(), threading.Event(), threading.Event()

    def read():
        with lock.reading():
            started.release()
            go.wait(SECONDS)

    def interrupted(*_):
        raise KeyboardInterrupt

    def write():
        with lock.writing():
            wrote.set()

    started = threading.Semaphore(0)
    readers = [in_thread(read) for _ in range(3)]
    for _ in readers:
        assert started.acquire(timeout=SECONDS)
    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), lock.writing():
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    go.set()
    for reader in readers:
        reader.join(SECONDS)
    in_thread(write)
    assert wrote.wait(SECONDS)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_a_copy_is_held_by_nobody(copied):
    lock = ReadersWriterLock()
    with lock.writing():
        other = copied(lock)

        def write():
            with other.writing():
                pass

        thread = in_thread(write)
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_holds_what_its_thread_held_and_waits_for_no_other():
    written, read, writing, reading = (ReadersWriterLock() for _ in range(4))
    started, go = threading.Event(), threading.Event()

    def hold():
        with written.writing(), read.reading():
            started.set()
            go.wait(SECONDS)

    def write(lock, done):
        with lock.writing():
            pass
        done.append(lock)

    def written_by_others(locks, seconds):
        done = []
        for thread in [in_thread(partial(write, lock, done)) for lock in locks]:
            thread.join(seconds)
        return len(done)

    # The writer holds the lock of this thread too.
    with written.reading():
        pass
    thread = in_thread(hold)
    assert started.wait(SECONDS)
    with writing.writing(), writing.writing(), writing.reading(), reading.reading():
        child = os.fork()
        if not child:
            # An alarm ends a child that waits for ever.
            signal.alarm(SECONDS)
            with written.reading():
                pass
            free = written_by_others([written, read], SECONDS)
            alone = not written_by_others([writing, reading], 0.05)
    if not child:
        again = written_by_others([written, read, writing, reading], SECONDS)
        os._exit(0 if free == 2 and alone and again == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    thread.join(SECONDS)
    assert written_by_others([written, read, writing, reading], SECONDS) == 4


def test_a_compiled_program_takes_no_lock(monkeypatch):
    lock = ReadersWriterLock()
    monkeypatch.setattr(locks, "is_dynamo_compiling", lambda: True)
    with lock.reading(), lock.writing():
        assert not lock._writes and not locks._is_held(lock._mine.lock)
