"""The service under many clients: how long they wait, and whether anything is lost."""

import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from torch import nn

from benchmarks.store.clients import KEY_DIM, Answers, ask
from rarememory import FirstInFirstOut, Memory
from rarememory.store import wrap

SLOTS = 1 << 16


@contextmanager
def service(url: str, folder: Path, workers: int = 2) -> Iterator[tuple[int, str]]:
    """Run `rarememory serve`; its port and its token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (file := folder / "token").write_text(token := secrets.token_urlsafe(24))
    options = ["--store", url, "--width", KEY_DIM, "--slots", SLOTS, "--port", port]
    options += ["--workers", workers, "--token-file", file]
    command = [sys.executable, "-m", "rarememory", "serve", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield port, token
    finally:
        process.terminate()
        process.wait(20)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError("the service has ended; it says why above") from None
            time.sleep(0.1)
    raise TimeoutError("the service does not answer")


def under_load(url: str, folder: Path, clients: int, seconds: float) -> tuple[Answers, int]:
    """What clients met, and how many learns were acknowledged and are not in the store."""
    with service(url, folder) as (port, token):
        found = ask(port, token, clients, seconds)
    memory = Memory(KEY_DIM, SLOTS, update=FirstInFirstOut())
    with closing(wrap(nn.Identity(), host=False, memory=memory, store=url, poll=None)) as one:
        kept = {ref for example in one.examples() for ref in example.refs}
    return found, len({*found.learnt} - kept)
