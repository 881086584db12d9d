"""The interface of a dialect: a connection to a database, and what its SQL has of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar


class Lost(ConnectionError):
    """The database does not answer; what was not committed is undone, and a COMMIT may be done."""


class Conflict(RuntimeError):
    """The database asks to try the transaction again (SQLSTATE 40001 and its kind)."""


class Session(ABC):
    """A connection, for one thread at a time.

    SQL is written with a `?` for each parameter.

    Attributes:
        types: of the columns that the dialects call differently.
        locking: what a SELECT ends with that locks the rows it finds.
    """

    types: ClassVar[dict[str, str]]
    locking = ""

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute a statement; the rows of its cursor may be fetched after the `together` block."""

    @abstractmethod
    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each row of parameters."""

    @abstractmethod
    def begin(self, writing: bool) -> None:
        """Begin a transaction: to read one moment, or to write the newest state."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """A block whose statements may travel together."""

    @abstractmethod
    def errors(self) -> AbstractContextManager[None]:
        """A block whose errors of the driver become `Lost` and `Conflict` where they mean that."""

    @abstractmethod
    def close(self) -> None:
        """End the connection, which may be lost already."""

    @abstractmethod
    def leave(self) -> None:
        """In a process made by fork: give up the connection, which is that of the other process."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block for a transaction that writes, in which other processes may wait."""
        yield
