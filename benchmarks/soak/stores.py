"""Workers of one store learn and forget at random, and are killed; so is the server.

A try is a round: 2, 4 or 8 processes make 200 changes each in a new store, and note the version and
the digest of all that they hold after each. What was noted must be in the log; a memory that is fed
the log in its order must have the same digest at each version that a worker has noted.
"""

import multiprocessing
import os
import random
import signal
import time
from contextlib import closing
from functools import partial
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.soak.campaign import Campaign, Tries
from benchmarks.store.history import POLICIES, act, digest, opened, plain
from benchmarks.store.postgres import Server
from rarememory.store.log import session_of

WORKERS, ACTS = (2, 4, 8), 200
TRIED = 3
"""Exit code of a worker whose server did not answer for long."""
SERVER = 0.1
"""Share of the kills that are of the server, where there is one."""


def rounds(kind: str, folder: Path, seed: int) -> Tries:
    """One round after another in a new database of this kind."""
    server = Server() if kind == "postgresql" else None
    try:
        for number in count():
            rng, place = random.Random(f"{seed}/{number}"), folder / str(number)
            place.mkdir()
            url = server.database() if server else f"sqlite:///{place}/birds.db"
            yield outcome(url, place, rng, WORKERS[number % len(WORKERS)], ACTS, server)
    finally:
        if server:
            server.stop()


def outcome(
    url: str, folder: Path, rng: random.Random, workers: int, acts: int, server: Server | None
) -> str:
    """What comes of a round.

    Args:
        url: of a new database.
        folder: empty, for the notes of the workers.
        rng: decides when which process is killed.
        workers: how many processes.
        acts: of each of them.
        server: of the database, to be killed too.
    """
    policy = rng.randrange(len(POLICIES))
    context = multiprocessing.get_context("fork")

    def started(number: int) -> BaseProcess:
        arguments = (url, folder / str(number), number, acts, policy)
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    processes = [started(number) for number in range(workers)]
    while any(process.exitcode != 0 for process in processes):
        time.sleep(rng.uniform(0.0, 0.4))
        if server and rng.random() < SERVER:
            server.kill(whole=rng.random() < 0.5)
            server.start()
        number = rng.randrange(workers)
        if processes[number].exitcode != 0:
            processes[number].kill()
            processes[number].join()
            if processes[number].exitcode not in (0, TRIED, -signal.SIGKILL):
                return f"failed: {(folder / str(number)).read_text()[-300:]}"
            if processes[number].exitcode != 0:
                processes[number] = started(number)
    return fault(url, folder, workers, policy) or "agreed"


def work(url: str, notes: Path, number: int, acts: int, policy: int) -> None:
    """A worker: go on after what was noted, and note each change when it has returned."""
    try:
        with (
            open(notes, "a+", encoding="utf-8") as file,
            closing(opened(url, POLICIES[policy])) as one,
        ):
            file.seek(0)
            noted = [line for line in file if line.endswith("\n")]
            # Who was killed while it wrote a note has left a part of it.
            file.truncate(len("".join(noted)))
            for turn in range(len(noted), acts):
                name = f"{number}-{turn}"
                done = act(one, number * ACTS + turn, once=name)
                file.write(f"{name}/0 {one.version} {digest(one)} {done}\n")
                file.flush()
    except ConnectionError:
        # Of a learn nothing is known then; the next process does it again.
        os._exit(TRIED)
    os._exit(0)


def fault(url: str, folder: Path, workers: int, policy: int) -> str | None:
    """What is not as the log says; None if all is."""
    with closing(session_of(url, 10.0)) as session:
        log = session.execute(
            "SELECT act, version FROM rarememory_acts ORDER BY version"
        ).fetchall()
    versions = dict(log)
    if [*versions.values()] != [*range(1, len(log) + 1)]:
        return f"numbers: {[*versions.values()][:50]}"
    alone, digests = plain(POLICIES[policy]), [digest(plain(POLICIES[policy]))]
    for name, _ in log:
        number, turn = map(int, name.removesuffix("/0").split("-"))
        act(alone, number * ACTS + turn)
        digests.append(digest(alone))
    for number in range(workers):
        for line in (folder / str(number)).read_text().splitlines():
            name, version, found, done = line.split()
            if done == "True" and versions.get(name, len(log) + 1) > int(version):
                return (
                    f"lost: {name} was acknowledged at {version}, its version {versions.get(name)}"
                )
            if found != digests[int(version)]:
                return f"other_bits: worker {number} at version {version}, after {name}"
    with closing(opened(url, POLICIES[policy])) as last:
        return None if digest(last) == digests[-1] else "other_bits: a new copy"


def campaign_of(kind: str) -> Campaign:
    """Rounds in this kind of database."""
    return Campaign(f"store_{kind}", 100, frozenset({"agreed"}), partial(rounds, kind), 900.0)
