"""Readers read together, a writer is alone, nobody waits for himself, and copies are free."""

import copy
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

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


def test_a_reader_may_read_again_while_a_writer_waits():
    lock, written = ReadersWriterLock(), threading.Event()

    def write():
        with lock.writing():
            written.set()

    with lock.reading():
        writer = in_thread(write)
        while lock._writer is None:
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


def test_an_interrupted_wait_leaves_nothing_locked(monkeypatch):
    lock, done = ReadersWriterLock(), threading.Event()

    def interrupted():
        raise KeyboardInterrupt

    with lock.reading():
        monkeypatch.setattr(lock._read_has_ended, "wait", interrupted)

        def write():
            with pytest.raises(KeyboardInterrupt), lock.writing():
                pass
            done.set()

        in_thread(write)
        assert done.wait(SECONDS)
    with lock.writing():
        pass


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
def test_a_child_process_waits_for_no_thread_of_its_parent():
    held, mine, go = ReadersWriterLock(), ReadersWriterLock(), threading.Event()
    started = threading.Event()

    def hold():
        with held.writing():
            started.set()
            go.wait(SECONDS)

    thread = in_thread(hold)
    assert started.wait(SECONDS)
    with mine.writing(), mine.reading():
        child = os.fork()
        if not child:
            # An alarm ends a child that waits for ever.
            import signal

            signal.alarm(SECONDS)
            with held.writing(), mine.writing():
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    go.set()
    thread.join(SECONDS)
    with held.writing(), mine.writing():
        pass


def test_a_compiled_program_takes_no_lock(monkeypatch):
    lock = ReadersWriterLock()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with lock.reading(), lock.writing():
        assert not lock._reads and lock._writer is None
