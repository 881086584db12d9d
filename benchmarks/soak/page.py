"""The page of `rarememory play` under hostile requests and slow connections.

A good request must be answered within a second all the while. Each try is one good request; for
each there is one hostile one, in turn of all kinds, and 500 connections send a byte at a time.
"""

import http.client
import json
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

from benchmarks.soak.campaign import Campaign, Tries

SLOW = 500
"""Connections that send a byte at a time."""
SECONDS = 1.0
"""A good request is answered within these."""
DRAWING = "M60 20L60 200L160 200"


def _tries(folder: Path, seed: int) -> Tries:
    rng = random.Random(seed)
    with _served(folder) as (port, token), _threads(port, token, rng):
        yield from _asked(port, token)


def _asked(port: int, token: str) -> Tries:
    while True:
        begin = time.perf_counter()
        try:
            status = _post(port, f"/{token}/api/ask", json.dumps({"drawing": DRAWING}).encode())
        except OSError as error:
            yield f"unanswered: {error!r}"
            continue
        seconds = time.perf_counter() - begin
        late = f"late: {seconds:.1f} seconds"
        yield f"refused: {status}" if status != 200 else late if seconds > SECONDS else "answered"


def _post(port: int, path: str, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@contextmanager
def _served(folder: Path) -> Iterator[tuple[int, str]]:
    """The page in a process of its own: its port and its token."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    port, token = mine.recv()
    try:
        yield port, token
    finally:
        process.kill()
        process.join()


def _serve(folder: Path, theirs: Connection) -> None:
    from rarememory.play.server import Server
    from rarememory.play.session import Session

    session = Session(folder / "drawings.safetensors")
    session.learn(DRAWING, "L")
    server = Server(session)
    theirs.send((server.port, server.page.token))
    Thread(target=_end_with, args=(theirs,), daemon=True).start()
    server.serve_forever()


def _end_with(theirs: Connection) -> None:
    """End when the campaign ends, even if it was killed."""
    with suppress(EOFError, OSError):
        theirs.recv()
    os._exit(0)


# Whoever means harm: what is sent, most of it with the token


def _lines(port: int, path: str, *lines: str) -> bytes:
    return "\r\n".join(
        (f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines, "", "")
    ).encode()


def _with_body(port: int, path: str, body: bytes) -> bytes:
    length = f"Content-Length: {len(body)}"
    return _lines(port, path, "Content-Type: application/json", length) + body


def _drawing(drawing: str) -> bytes:
    return json.dumps({"drawing": drawing}).encode()


HOSTILE: tuple[Callable[[int, str], bytes], ...] = (
    lambda port, path: _with_body(port, path, _drawing("M0 0" + "L255 255L0 0" * 8_000)),
    lambda port, path: _with_body(port, path, _drawing("M0 0" + "L255 255L0 0" * 27)),
    lambda port, path: _with_body(port, path, _drawing("M1 2" * 4_900)),
    lambda port, path: _with_body(port, path, b"[" * 60_000),
    lambda port, path: _with_body(port, path, b'{"a":' * 12_000),
    lambda port, path: _with_body(port, path, b" " * 1_000_000),
    lambda port, path: _lines(port, path, "Content-Length: " + "9" * 5_000),
    lambda port, path: _lines(port, path, "Content-Length: 60000") + b"{",
    lambda port, path: _lines(port, path, "X: " + "y" * 200_000),
    lambda port, path: _lines(port, "/x/api/state", "Content-Length: 2") + b"{}",
    lambda port, path: bytes(range(256)) * 40,
)


@contextmanager
def _threads(port: int, token: str, rng: random.Random) -> Iterator[None]:
    """Threads that send hostile requests and keep slow connections, until the end of the block."""
    end = Event()
    path = f"/{token}/api/ask"
    threads = [
        Thread(target=_slow, args=(port, path, end, SLOW // 2), daemon=True) for _ in range(2)
    ]
    threads += [Thread(target=_hostile, args=(port, path, end, rng), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()


def _hostile(port: int, path: str, end: Event, rng: random.Random) -> None:
    while not end.wait(0.05):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(rng.choice(HOSTILE)(port, path))
                client.recv(1024)
        except OSError:
            # Refused, closed or left alone: all is well.
            continue


def _slow(port: int, path: str, end: Event, count: int) -> None:
    """Keep so many connections that send a byte at a time; open each anew that is closed."""
    request = _with_body(port, path, b"{}")
    clients: list[tuple[socket.socket, int]] = []
    while not end.wait(0.2):
        while len(clients) < count:
            try:
                clients.append((socket.create_connection(("127.0.0.1", port), timeout=1), 0))
            except OSError:
                break
        sent = []
        for client, place in clients:
            try:
                client.sendall(request[place : place + 1])
                sent.append((client, place + 1))
            except OSError:
                client.close()
        clients = sent
    for client, _ in clients:
        client.close()


CAMPAIGN = Campaign("page", 1_000, frozenset({"answered"}), _tries)
