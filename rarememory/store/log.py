"""The log of truth: changes in one order, in a database, through either dialect.

The head of a memory is one row, which a writer locks. Every change has the number after that of the
last one, taken from that row: a number of a sequence may be committed after a greater one, and a
reader that has seen the greater one would miss it. Each slot, label and tensor is one row with the
number that last changed it: the table is its own compacted log, and a copy that knows the number n
takes the rows above n.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rarememory.store.changes import Change, Counts, SlotRow
from rarememory.store.session import Session


class Head(NamedTuple):
    """The head of a memory in the store.

    Attributes:
        memory: its integer there.
        version: the number of the last change; 0 before the first.
        epoch: how often it has changed whole.
        counts: as in `Change`.
        text: as in `Change`; empty facts before the first one.
    """

    memory: int
    version: int
    epoch: int
    counts: Counts
    text: str


class Transaction(NamedTuple):
    """A transaction that has the lock.

    Attributes:
        head: as it is under the lock.
        done: what an earlier try of the same act has answered, in JSON; None if there was none.
        since: what has changed since a version, or all of it where that is of another epoch.
        write: take a change, the answer of the act and the next version.
    """

    head: Head
    done: str | None
    since: Callable[[int, int], Change]
    write: Callable[[Change, str], None]


KEPT = 100_000
"""Acts that are remembered, so that the same one is not done twice."""

_HEAD = (
    "SELECT number, version, epoch, clock, following, facts FROM rarememory_heads WHERE name = ?"
)
_SLOTS = "SELECT slot, body, refs FROM rarememory_slots WHERE memory = ? AND version > ?"
_PARTS = "SELECT name, body FROM rarememory_parts WHERE memory = ? AND version > ?"
_ACT = "SELECT answer FROM rarememory_acts WHERE memory = ? AND act = ?"

_PUT_SLOT = (
    "INSERT INTO rarememory_slots (memory, version, slot, body, refs) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (memory, slot) DO UPDATE "
    "SET version = excluded.version, body = excluded.body, refs = excluded.refs"
)
_PUT_PART = (
    "INSERT INTO rarememory_parts (memory, version, name, body) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (memory, name) DO UPDATE SET version = excluded.version, body = excluded.body"
)
_PUT_ACT = "INSERT INTO rarememory_acts (memory, version, act, answer) VALUES (?, ?, ?, ?)"
_PUT_HEAD = (
    "UPDATE rarememory_heads SET version = ?, epoch = ?, clock = ?, following = ?, facts = ? "
    "WHERE number = ?"
)

_TABLES = (
    "CREATE TABLE IF NOT EXISTS rarememory_heads (number {number}, name TEXT NOT NULL UNIQUE, "
    "version BIGINT NOT NULL, epoch BIGINT NOT NULL, clock BIGINT NOT NULL, "
    "following BIGINT NOT NULL, facts TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS rarememory_slots (memory BIGINT NOT NULL, slot BIGINT NOT NULL, "
    "version BIGINT NOT NULL, body {bytes}, refs TEXT, PRIMARY KEY (memory, slot))",
    "CREATE INDEX IF NOT EXISTS rarememory_slots_log ON rarememory_slots (memory, version)",
    "CREATE TABLE IF NOT EXISTS rarememory_parts (memory BIGINT NOT NULL, name TEXT NOT NULL, "
    "version BIGINT NOT NULL, body {bytes}, PRIMARY KEY (memory, name))",
    "CREATE INDEX IF NOT EXISTS rarememory_parts_log ON rarememory_parts (memory, version)",
    "CREATE TABLE IF NOT EXISTS rarememory_acts (memory BIGINT NOT NULL, act TEXT NOT NULL, "
    "version BIGINT NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (memory, act))",
    "CREATE INDEX IF NOT EXISTS rarememory_acts_log ON rarememory_acts (memory, version)",
)


def session_of(url: str, patience: float) -> Session:
    """A connection to the database of this address.

    Raises:
        ValueError: it is no such address.
        ModuleNotFoundError: it needs psycopg, which is not installed.
    """
    kind, _, rest = url.partition("://")
    if kind == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from rarememory.store.sqlite import SqliteSession

        return SqliteSession(Path(rest[1:]), patience)
    if kind in ("postgresql", "postgres"):
        try:
            from rarememory.store.postgresql import PostgresqlSession
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'postgresql:// needs {error.name}: pip install "rarememory[store]"'
            ) from error
        return PostgresqlSession(url, patience)
    raise ValueError(
        "a store is sqlite:///birds.db (or sqlite:////folder/birds.db) or "
        f"postgresql://user@host/database, not {kind}://..."
    )


def make_tables(session: Session) -> None:
    """Make the tables, where they are not there."""
    with session.errors(), session.turn():
        session.begin(writing=True)
        if session.locking:
            # Two sessions that make one table at once fail: one waits for the other.
            session.execute("SELECT pg_advisory_xact_lock(7237364523)")
        for sql in _TABLES:
            session.execute(sql.format(**session.types))
        session.execute("COMMIT")


def newest(session: Session, name: str) -> tuple[int, int]:
    """Version and epoch of a memory, (0, 0) where there is none."""
    with session.errors():
        sql = "SELECT version, epoch FROM rarememory_heads WHERE name = ?"
        version, epoch = session.execute(sql, (name,)).fetchone() or (0, 0)
        return int(version), int(epoch)


def read(session: Session, name: str, version: int, epoch: int) -> tuple[Head, Change] | None:
    """The head, and what has changed since; None where nothing has. All of it of one moment."""
    with session.errors():
        session.begin(writing=False)
        try:
            head = _head(session.execute(_HEAD, (name,)).fetchone())
            if head is None or head.version == version:
                return None
            return head, _since(session, head, version, epoch)
        finally:
            _roll_back(session)


@contextmanager
def transaction(session: Session, name: str, act: str) -> Iterator[Transaction]:
    """A transaction that has locked the head; it is committed at the end of the block.

    Args:
        session: that no other thread uses meanwhile.
        name: of the memory.
        act: the id of what is done, which is done once.

    Raises:
        Lost: the database does not answer; if that happened at the end, it may be done.
        Conflict: it is to be tried again.
    """
    with session.errors(), session.turn():
        try:
            head, done = _locked(session, name, act)
            if head is None:
                # This waits for whoever makes the same one.
                session.execute(
                    "INSERT INTO rarememory_heads (name, version, epoch, clock, following, facts) "
                    "VALUES (?, 0, 0, 0, 0, '{}') ON CONFLICT (name) DO NOTHING",
                    (name,),
                )
                session.execute("COMMIT")
                head, done = _locked(session, name, act)
                assert head is not None
            written: list[tuple[Change, str]] = []

            def since(version: int, epoch: int) -> Change:
                return _since(session, head, version, epoch)

            yield Transaction(head, done, since, lambda *change: written.append(change))
            with session.together():
                for change, answer in written:
                    _write(session, head, change, act, answer)
                session.execute("COMMIT")
        except BaseException:
            _roll_back(session)
            raise


def _locked(session: Session, name: str, act: str) -> tuple[Head | None, str | None]:
    with session.together():
        session.begin(writing=True)
        heads = session.execute(_HEAD + session.locking, (name,))
        acts = session.execute(
            "SELECT answer FROM rarememory_acts WHERE act = ? AND memory = "
            "(SELECT number FROM rarememory_heads WHERE name = ?)",
            (act, name),
        )
    done = acts.fetchone()
    return _head(heads.fetchone()), None if done is None else done[0]


def _roll_back(session: Session) -> None:
    try:
        session.execute("ROLLBACK")
    except Exception:
        # No transaction is open any more, or there is no connection.
        return


def _head(row: Any) -> Head | None:
    if row is None:
        return None
    memory, version, epoch, clock, following, facts = row
    return Head(memory, version, epoch, Counts(clock, following), facts)


def _since(session: Session, head: Head, version: int, epoch: int) -> Change:
    whole = epoch != head.epoch
    known = (head.memory, 0 if whole else version)
    with session.together():
        slots, parts = session.execute(_SLOTS, known), session.execute(_PARTS, known)
    rows = [SlotRow(*row) for row in slots.fetchall()]
    return Change(rows, dict(parts.fetchall()), head.counts, head.text, whole)


def _write(session: Session, head: Head, change: Change, act: str, answer: str) -> None:
    version = head.version + 1
    if change.whole:
        for table in ("slots", "parts"):
            session.execute(f"DELETE FROM rarememory_{table} WHERE memory = ?", (head.memory,))
    for sql, rows in ((_PUT_SLOT, change.slots), (_PUT_PART, change.parts.items())):
        if rows:
            session.execute_many(sql, [(head.memory, version, *row) for row in rows])
    session.execute(_PUT_ACT, (head.memory, version, act, answer))
    if version % 1024 == 0:
        sql = "DELETE FROM rarememory_acts WHERE memory = ? AND version < ?"
        session.execute(sql, (head.memory, version - KEPT))
    epoch = head.epoch + change.whole
    session.execute(_PUT_HEAD, (version, epoch, *change.counts, change.text, head.memory))
