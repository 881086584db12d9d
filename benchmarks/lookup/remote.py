"""A bench in a process of its own, called over a pipe, and ended when it does not answer.

How OpenMP's threads wait has to be set before torch is imported. By default they spin for a while,
which is fastest for a process with one pool of threads, and slows every other pool down. So where
backends share a process they wait PASSIVE; alone each has what its users have.
"""

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from benchmarks.lookup.bench import Bench


class Gone(Exception):
    """The process has ended, or was ended because it took too long."""


class RemoteBench:
    """The bench of another process; `call("load", cell)` is `Bench.load(cell)` there.

    Its threads wait as the environment says or, if it is `shared`, without spinning.
    """

    def __init__(self, device: str, seed: int = 0, *, shared: bool = True) -> None:
        self._given = (device, seed)
        self._shared = shared
        self._process: Any = None

    @property
    def processes(self) -> list[int]:
        """Its process, if it is alive."""
        alive = self._process is not None and self._process.is_alive()
        return [self._process.pid] if alive else []

    def call(self, method: str, *given: Any, timeout: float = 600, **more: Any) -> Any:
        """Call a method, in a new process if there is none.

        Raises:
            Gone: it died, or did not answer within the timeout; the next call starts another.
            MemoryError, RuntimeError: as the method raised it there.
        """
        if not self.processes:
            self._start()
        try:
            self._pipe.send((method, given, more))
            if not self._pipe.poll(timeout):
                raise Gone(f"no answer within {timeout:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise Gone(f"its process ended with exit code {self._process.exitcode}") from None
        except Gone:
            self.close()
            raise
        if isinstance(answer, Gone):
            self.close()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._given), daemon=True)
        with patch.dict(os.environ, {"OMP_WAIT_POLICY": "PASSIVE"} if self._shared else {}):
            self._process.start()
        theirs.close()


def _serve(pipe: Connection, device: str, seed: int) -> None:
    # Ctrl-C is handled by the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench = Bench(device, seed)
    # The end of the pipe, if the parent is gone.
    with suppress(EOFError):
        while True:
            method, given, more = pipe.recv()
            try:
                answer = getattr(bench, method)(*given, **more)
            except Exception as error:
                answer = _picklable(error)
            pipe.send(answer)


def _picklable(error: Exception) -> Exception:
    """The error as one of a type that every process has."""
    if "CUDA error" in str(error):
        # After an illegal access every other call in this process fails too.
        return Gone(str(error).partition("\n")[0])
    kind = MemoryError if isinstance(error, MemoryError) else RuntimeError
    return kind(str(error))
