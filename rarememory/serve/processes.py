"""Several workers on one port: each a process with its own copy of the memory."""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from rarememory.play.server import BACKLOG, Connection, config_of
from rarememory.serve.limits import Application

MAX_CONNECTIONS = 1024
PATIENCE = 10.0


class ServiceConnection(Connection):
    """A connection of the service: more of them than a page has, and with more time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.most, self.patience = MAX_CONNECTIONS, PATIENCE


def serve(make: Callable[[], Application], address: str, port: int, workers: int) -> None:
    """Serve until Ctrl-C or SIGTERM; a worker that dies is started again, once one has served.

    Args:
        make: makes the application, in each worker; it must be possible to pickle it.
        address: to listen on.
        port: to listen on.
        workers: processes.

    Raises:
        OSError: the port is taken.
        SystemExit: no worker can make the application; it has said why.
    """
    # As Ctrl-C: the workers end with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listening = socket.create_server((address, port), backlog=BACKLOG, reuse_port=False)
    if workers == 1:
        run(make(), listening)
        return
    with tempfile.TemporaryDirectory(prefix="rarememory-metrics-") as folder:
        # Read when the workers import prometheus_client.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        context = multiprocessing.get_context("spawn")
        processes: list[Any] = [None] * workers
        ready = context.Event()
        try:
            while True:
                for number, process in enumerate(processes):
                    if process is not None and process.is_alive():
                        continue
                    if process is not None and not ready.is_set():
                        sys.exit(1)
                    # What is wrong with the first is wrong with all of them.
                    if number == 0 or ready.is_set():
                        work = (make, listening, ready)
                        processes[number] = context.Process(target=_run_worker, args=work)
                        processes[number].start()
                time.sleep(0.1 if not ready.is_set() else 0.5)
        finally:
            for process in processes:
                if process is not None:
                    process.terminate()
            for process in processes:
                if process is not None:
                    process.join()


def run(application: Application, listening: socket.socket) -> None:
    """Be one worker."""
    config = config_of(application, ServiceConnection, PATIENCE, 5)
    uvicorn.Server(config).run(sockets=[listening])


def _run_worker(make: Callable[[], Application], listening: socket.socket, ready: Any) -> None:
    try:
        application = make()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    ready.set()
    run(application, listening)
