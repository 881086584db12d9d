"""SQLite: a file that several processes of one machine write, with nothing to install."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

from rarememory.store.queue import FairQueue
from rarememory.store.session import Conflict, Lost, Session

NETWORKED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "ceph"})
"""File systems without the shared memory that SQLite's log needs."""


class SqliteSession(Session):
    """A connection to a file; what is committed is on the disk (WAL, synchronous=FULL).

    Args:
        path: of the file, made if there is none.
        patience: seconds to wait for other writers.

    Raises:
        ValueError: the file is on a network file system, or cannot be written by several processes.
    """

    types: ClassVar = {"number": "INTEGER PRIMARY KEY", "bytes": "BLOB"}

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        kind = file_system(path)
        if kind in NETWORKED:
            raise ValueError(
                f"{str(path)!r} is on a network file system ({kind}), where SQLite loses writes: "
                "take a disk of this machine, or postgresql://"
            )
        with self.errors():
            self._connection = sqlite3.connect(
                path, timeout=patience, isolation_level=None, check_same_thread=False
            )
            (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise ValueError(f"{str(path)!r} cannot have a WAL, and several processes need one")
            self._connection.execute("PRAGMA synchronous = FULL")
        self._queue = FairQueue(path.with_name(f"{path.name}-queue"))

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(sql, parameters)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def begin(self, writing: bool) -> None:
        self._connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def together(self) -> nullcontext[None]:
        return nullcontext()

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._queue.turn():
            yield

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            if "locked" in str(error) or "busy" in str(error):
                raise Conflict(str(error)) from error
            raise Lost(f"{str(self.path)!r} cannot be used ({error})") from error
        except sqlite3.DatabaseError as error:
            raise Lost(f"{str(self.path)!r} is no database, or is damaged ({error})") from error

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()
        self._queue.close()

    def leave(self) -> None:
        # SQLite wants no connection closed in a child process: it is kept, and never used.
        _LEFT.append(self._connection)
        self._queue.close()


_LEFT: list[sqlite3.Connection] = []


def file_system(path: Path) -> str:
    """The kind of file system that a file is on, "" where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    whole, found = f"{os.path.realpath(path)}/", ("", "")
    for mount in mounts:
        _, folder, kind, *_ = mount.split(" ")
        folder = folder.replace("\\040", " ")
        if whole.startswith(f"{folder.rstrip('/')}/") and len(folder) >= len(found[0]):
            found = (folder, kind)
    return found[1]
