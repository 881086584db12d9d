"""PostgreSQL, by psycopg 3: a server that workers of many machines write."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any, ClassVar

import psycopg

from rarememory.store.session import Conflict, Lost, Session

RETRIED = frozenset({"40001", "40P01", "55P03"})
"""Serialisation failure, deadlock, and a lock that was not to be had in time."""


class PostgresqlSession(Session):
    """A connection to a server.

    A worker that stops inside a transaction, and not only the connection, is thrown out after
    `patience` seconds: the others wait for its lock.

    Args:
        url: as psycopg takes it, postgresql://user:password@host:port/database.
        patience: seconds to wait for a connection, and for a lock.

    Raises:
        Lost: the server does not answer.
    """

    types: ClassVar = {
        "number": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "bytes": "BYTEA",
    }
    locking = " FOR UPDATE"

    def __init__(self, url: str, patience: float) -> None:
        milliseconds = max(1, round(1000 * patience))
        with self.errors():
            self._connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=max(2, round(patience)),
                cursor_factory=psycopg.RawCursor,
                options=f"-c lock_timeout={milliseconds} -c synchronous_commit=on "
                f"-c idle_in_transaction_session_timeout={milliseconds}",
            )

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(_numbered(sql), parameters, binary=True)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._connection.cursor(binary=True) as cursor:
            cursor.executemany(_numbered(sql), rows)

    def begin(self, writing: bool) -> None:
        # To write, each statement sees what was committed before it: the lock comes first.
        level = "READ COMMITTED" if writing else "REPEATABLE READ READ ONLY"
        self._connection.execute(f"BEGIN ISOLATION LEVEL {level}")

    def together(self) -> AbstractContextManager[Any]:
        return self._connection.pipeline()

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            reason = " ".join(str(error).split())
            if error.sqlstate in RETRIED:
                raise Conflict(reason) from error
            connection = getattr(self, "_connection", None)
            lost = connection is None or connection.closed
            if lost or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise Lost(f"PostgreSQL does not answer ({reason})") from error
            raise

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.close()

    def leave(self) -> None:
        # To close it would tell the server that the other process ends.
        _LEFT.append(self._connection)


_LEFT: list[Any] = []


@cache
def _numbered(sql: str) -> str:
    """The statement with $1, $2, ... in place of its question marks."""
    first, *others = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))
