"""A fair queue of processes, in two files: who has waited goes before who comes again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:
    # Windows: SQLite waits by itself there, with pauses that grow.
    fcntl = None  # type: ignore[assignment]


class FairQueue:
    """Lets one process after another into a block; a process that dies leaves it.

    SQLite itself has no queue: a writer that finds the lock taken sleeps, and may find it taken
    again and again. Here the next one waits in the kernel, with a place of its own: a writer that
    comes again has to wait for that place first.

    Args:
        path: of a file that is made beside the database, and stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     queue = FairQueue(Path(folder, "birds.db.queue"))
        ...     with queue.turn():
        ...         print("no other process is here")
        ...     queue.close()
        no other process is here
    """

    def __init__(self, path: Path) -> None:
        names = (path, path.with_name(f"{path.name}.next"))
        mode = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._files = [os.open(name, mode, 0o666) for name in names] if fcntl else []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block in which no other process is."""
        if not self._files:
            yield
            return
        here, waiting = self._files
        fcntl.flock(waiting, fcntl.LOCK_EX)
        try:
            fcntl.flock(here, fcntl.LOCK_EX)
        finally:
            fcntl.flock(waiting, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(here, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave the files."""
        for file in self._files:
            os.close(file)
        self._files = []
