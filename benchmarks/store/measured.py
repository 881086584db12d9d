"""Times of a store, each beside that of its database, or of a memory without a store."""

import multiprocessing
import os
import statistics
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rarememory import FirstInFirstOut, Memory, MemoryClassifier
from rarememory.store import StoredClassifier, log, wrap

PARTS = ("learn", "read", "seen", "locked", "serve")
KEY_DIM, SLOTS, WRITERS = 128, 10_000, 2
NARROW = 16
"""Width of the keys where there are a million of them."""


def learn(url: str, quick: bool) -> dict[str, float]:
    """Rows a second of two writers, and of two that insert the same bytes without a memory.

    Inserts may be committed at once by a server, which learns cannot be: each is decided on the one
    before. So there are inserts in one order too, as of a log, which count in a row of their own.
    """
    figures: dict[str, float] = {}
    ways: dict[str, Callable[..., None]]
    ways = {"insert": _inserting, "ordered": partial(_inserting, ordered=True), "learn": _learning}
    for batch, count in ((1, 200), (64, 60)):
        count = count // 10 if quick else count
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(1 if quick else 5):
            for name, work in ways.items():
                rates[name].append(_rate(work, url, batch, count, turn))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        figures |= {f"{name}.per_second.batch{batch}": rate for name, rate in medians.items()}
        for name in ("insert", "ordered"):
            ratio = medians["learn"] / medians[name]
            figures[f"learn.ratio_to_{name}.batch{batch}"] = ratio
    return figures


def read(url: str, quick: bool) -> dict[str, float]:
    """The time of a read beside an open store, as a part of that without one."""
    with closing(opened(url, poll=0.05)) as stored:
        plain = MemoryClassifier(nn.Identity(), host=False, memory=_memory(), reader="nearest")
        inputs, labels = _rows(SLOTS, 0), [f"class {n % 50}" for n in range(SLOTS)]
        for classifier in (plain, stored):
            classifier.learn(inputs, labels)
        queries = _rows(16, 1)
        times: dict[str, list[float]] = {"plain": [], "stored": []}
        for _ in range(20 if quick else 400):
            times["plain"].append(_seconds(lambda: plain.predict(queries)))
            times["stored"].append(_seconds(lambda: stored.predict(queries)))
        medians = {name: statistics.median(some) for name, some in times.items()}
        return {
            "read.ms": 1000 * medians["stored"],
            "read.ratio_to_local": medians["stored"] / medians["plain"],
        }


def seen(url: str, quick: bool) -> dict[str, float]:
    """Milliseconds from before a learn until another process answers by it, polling at 5 ms."""
    with closing(opened(url)) as one:
        one.learn(_rows(1, 0), ["kea"])
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        process = context.Process(target=_watch, args=(url, theirs), daemon=True)
        process.start()
        mine.recv()
        times = []
        for turn in range(10 if quick else 100):
            begin = time.perf_counter()
            one.learn(_rows(1, turn), ["kea"])
            mine.send(one.version)
            mine.recv()
            times.append(time.perf_counter() - begin)
        process.kill()
        process.join()
        return {"seen_after_ms": 1000 * statistics.median(times)}


def locked(url: str, quick: bool) -> dict[str, float]:
    """Milliseconds that a learn holds the lock, by the number of slots, all of them full.

    It is stale after a learn of another worker, which it takes under the lock, and decides again.
    """
    figures = {}
    for slots in (10_000,) if quick else (10_000, 100_000, 1_000_000):
        open_it = partial(opened, url, slots, key_dim=NARROW, name=f"of {slots}")
        with closing(open_it()) as one:
            one.learn(_rows(slots, 0, NARROW), [f"class {n % 50}" for n in range(slots)])
            with closing(open_it()) as other:
                for kind, before in (("alone", one), ("stale", other)):
                    held = [_held(one, turn, before) for turn in range(5 if quick else 30)]
                    figures[f"locked_ms.{kind}.{slots}"] = 1000 * statistics.median(held)
    return figures


def opened(
    url: str,
    slots: int = SLOTS,
    key_dim: int = KEY_DIM,
    poll: float | None = None,
    **options: Any,
) -> StoredClassifier:
    """A worker of the store, without a model."""
    memory = _memory(slots, key_dim)
    return wrap(
        nn.Identity(), host=False, memory=memory, reader="nearest", store=url, poll=poll, **options
    )


def _memory(slots: int = SLOTS, key_dim: int = KEY_DIM) -> Memory:
    return Memory(key_dim, slots, update=FirstInFirstOut())


def _rows(count: int, seed: int, key_dim: int = KEY_DIM) -> Tensor:
    return torch.randn(count, key_dim, generator=torch.Generator().manual_seed(seed))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _held(one: StoredClassifier, turn: int, before: StoredClassifier) -> float:
    """Seconds from the lock until the commit has returned, after a learn of this or another."""
    before.learn(_rows(1, 1000 + turn, NARROW), ["weka"])
    begun: list[float] = []
    lock = log._locked

    def locking(*args: Any) -> Any:
        found = lock(*args)
        begun.append(time.perf_counter())
        return found

    ended: list[float] = []
    take = one._take_change

    def taken(*args: Any, **kwargs: Any) -> None:
        ended.append(time.perf_counter())
        take(*args, **kwargs)

    with (
        patch.object(log, "_locked", locking),
        patch.object(one, "_take_change", taken),
    ):
        one.learn(_rows(1, turn, NARROW), ["kea"])
    return ended[-1] - begun[-1]


# Writers


def _rate(work: Callable[..., None], url: str, batch: int, count: int, turn: int) -> float:
    """Rows a second of two processes that do this at once."""
    context = multiprocessing.get_context("fork")
    go, done = context.Event(), context.Barrier(WRITERS + 1)
    arguments = [(url, batch, count, f"{turn}-{n}", go, done) for n in range(WRITERS)]
    processes = [context.Process(target=work, args=some, daemon=True) for some in arguments]
    for process in processes:
        process.start()
    done.wait()
    begin = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a writer has failed; it says why above")
    return WRITERS * count * batch / (time.perf_counter() - begin)


def _learning(url: str, batch: int, count: int, name: str, go: Any, ready: Any) -> None:
    with closing(opened(url)) as one:
        one.learn(_rows(batch, 0), [f"class {n % 50}" for n in range(batch)])
        # Each writer has examples of its own, as different cameras have.
        inputs = _rows(count * batch, zlib.crc32(name.encode())).split(batch)
        labels = [f"class {n % 50}" for n in range(batch)]
        ready.wait()
        go.wait()
        for rows in inputs:
            one.learn(rows, labels)
    os._exit(0)


def _inserting(
    url: str, batch: int, count: int, name: str, go: Any, ready: Any, ordered: bool = False
) -> None:
    body = os.urandom(KEY_DIM * 4 + 16)
    table = f"{'ordered' if ordered else 'bare'}_{batch}"
    sql = f"INSERT INTO {table} (place, body) VALUES (?, ?)"
    number = (
        "INSERT INTO numbers VALUES (0, 1) ON CONFLICT (one) DO UPDATE SET last = numbers.last + 1"
    )
    with closing(log.session_of(url, 30.0)) as session:
        with session.turn():
            session.begin(writing=True)
            if session.locking:
                session.execute("SELECT pg_advisory_xact_lock(1)")
            kind = session.types["bytes"]
            session.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (place TEXT PRIMARY KEY, body {kind})"
            )
            session.execute(
                "CREATE TABLE IF NOT EXISTS numbers (one INTEGER PRIMARY KEY, last BIGINT)"
            )
            session.execute("COMMIT")
        ready.wait()
        go.wait()
        for turn in range(count):
            with session.errors(), session.turn(), session.together():
                session.begin(writing=True)
                if ordered:
                    # It locks the row until the end.
                    session.execute(number)
                rows = [(f"{name}-{turn}-{row}", body) for row in range(batch)]
                session.execute_many(sql, rows)
                session.execute("COMMIT")
    os._exit(0)


def _watch(url: str, theirs: Connection) -> None:
    with closing(opened(url, poll=0.005)) as other:
        theirs.send(None)
        while True:
            other.wait_for(theirs.recv())
            theirs.send(None)
