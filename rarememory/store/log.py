"""The log of truth: changes in one order, in a database, through either dialect.

The head of a memory is one row, which a writer locks. Every change has the number after that of the
last one, taken from that row: a number of a sequence may be committed after a greater one, and a
reader that has seen the greater one would miss it. Each slot, label and tensor is one row with the
number that last changed it: the table is its own compacted log, and a copy that knows the number n
takes the rows above n.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_NAMED = "(SELECT number FROM rarememory_heads WHERE name = ?)"
# One statement, for each takes its time: slots have a number, parts a name, the act has neither.
_NEW = (
    f"SELECT NULL AS slot, NULL AS name, NULL AS body, answer FROM rarememory_acts "
    f"WHERE memory = {_NAMED} AND act = ? "
    f"UNION ALL SELECT slot, NULL, body, refs FROM rarememory_slots "
    f"WHERE memory = {_NAMED} AND version > ? "
    f"UNION ALL SELECT NULL, name, body, NULL FROM rarememory_parts "
    f"WHERE memory = {_NAMED} AND version > ?"
)

_PUT_SLOT = (
    "INSERT INTO rarememory_slots (memory, version, slot, body, refs) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (memory, slot) DO UPDATE "
    "SET version = excluded.version, body = excluded.body, refs = excluded.refs"
)
_PUT_JOINED = _PUT_SLOT.replace(
    "VALUES (?, ?, ?, ?, ?)",
    "SELECT ?, ?, slot::bigint, "
    "substring(?::bytea from ((place - 1) * ?::int + 1)::int for ?::int), refs "
    "FROM ROWS FROM (json_array_elements_text(?::json), json_array_elements_text(?::json)) "
    "WITH ORDINALITY AS one (slot, refs, place)",
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
_PUT_TOGETHER = {
    put: f"WITH put AS ({put}), done AS ({_PUT_ACT}) {_PUT_HEAD}"
    for put in (_PUT_SLOT, _PUT_JOINED)
}
"""Statements to a server that put slots, an act and a head, for each way to put slots."""

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
        try:
            session.begin(writing=True)
            if session.locking:
                # Two sessions that make one table at once fail: one waits for the other.
                session.execute("SELECT pg_advisory_xact_lock(7237364523)")
            for sql in _TABLES:
                session.execute(sql.format(**session.types))
            session.execute("COMMIT")
        except BaseException:
            # The session may be asked again.
            _roll_back(session)
            raise


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
def transaction(session: Session, name: str, act: str, version: int = 0) -> Iterator[Transaction]:
    """A transaction that has locked the head; it is committed at the end of the block.

    Args:
        session: that no other thread uses meanwhile.
        name: of the memory.
        act: the id of what is done, which is done once.
        version: after which it is likely to be asked what has changed.

    Raises:
        Lost: the database does not answer; if that happened at the end, it may be done.
        Conflict: it is to be tried again.
    """
    with session.errors(), session.turn():
        try:
            head, new = _locked(session, name, act, version)
            if head is None:
                # This waits for whoever makes the same one.
                session.execute(
                    "INSERT INTO rarememory_heads (name, version, epoch, clock, following, facts) "
                    "VALUES (?, 0, 0, 0, 0, '{}') ON CONFLICT (name) DO NOTHING",
                    (name,),
                )
                session.execute("COMMIT")
                head, new = _locked(session, name, act, version)
                assert head is not None
            written: list[tuple[Change, str]] = []

            def since(earlier: int, epoch: int) -> Change:
                if (earlier, epoch) == (version, head.epoch):
                    return Change(new.slots, new.parts, head.counts, head.text)
                return _since(session, head, earlier, epoch)

            yield Transaction(head, new.done, since, lambda *change: written.append(change))
            with session.together():
                for change, answer in written:
                    _write(session, head, change, act, answer)
                session.execute("COMMIT")
        except BaseException:
            _roll_back(session)
            raise


class _New(NamedTuple):
    """What is found with the lock: the answer of an act that is done, and what is new."""

    done: str | None
    slots: list[SlotRow]
    parts: dict[str, bytes | None]


def _locked(session: Session, name: str, act: str, version: int) -> tuple[Head | None, _New]:
    """The head, whether the act is done, and what has changed since a version."""
    with session.together():
        session.begin(writing=True)
        heads = session.execute(_HEAD + session.locking, (name,))
        # A statement of its own, which sees what is newest once the lock is there.
        rows = session.execute(_NEW, (name, act, name, version, name, version))
    return _head(heads.fetchone()), _new(rows.fetchall())


def _new(rows: Iterable[tuple[Any, ...]]) -> _New:
    done, slots, parts = None, [], {}
    for slot, part, body, refs in rows:
        if slot is not None:
            slots.append(SlotRow(slot, body, refs))
        elif part is not None:
            parts[part] = body
        else:
            done = refs
    return _New(done, slots, parts)


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
        found = [session.execute(sql, known) for sql in (_SLOTS, _PARTS)]
    slots, parts = (cursor.fetchall() for cursor in found)
    rows = [SlotRow(*row) for row in slots]
    return Change(rows, dict(parts), head.counts, head.text, whole)


def _at_once(slots: Sequence[SlotRow]) -> tuple[str, tuple[Any, ...]] | None:
    """How one statement puts these slots into a server, and its parameters; None where none can."""
    if len(slots) == 1:
        return _PUT_SLOT, slots[0]
    bodies = [row.body for row in slots if row.body is not None]
    if not bodies or len(bodies) < len(slots):
        return None
    # A server takes long to read so many parameters: all bytes are one of them.
    width, joined = len(bodies[0]), b"".join(bodies)
    numbers, refs = (json.dumps([row[part] for row in slots]) for part in (0, 2))
    return _PUT_JOINED, (joined, width, width, numbers, refs)


def _write(session: Session, head: Head, change: Change, act: str, answer: str) -> None:
    version = head.version + 1
    if change.whole:
        for table in ("slots", "parts"):
            session.execute(f"DELETE FROM rarememory_{table} WHERE memory = ?", (head.memory,))
    if change.parts:
        rows = [(head.memory, version, *part) for part in change.parts.items()]
        session.execute_many(_PUT_PART, rows)
    epoch = head.epoch + change.whole
    new = (version, epoch, *change.counts, change.text, head.memory)
    done = (head.memory, version, act, answer)
    slots = _at_once(change.slots) if session.locking else None
    if slots is not None:
        put, parameters = slots
        session.execute(_PUT_TOGETHER[put], (head.memory, version, *parameters, *done, *new))
    else:
        if change.slots:
            put_slots = [(head.memory, version, *row) for row in change.slots]
            session.execute_many(_PUT_SLOT, put_slots)
        session.execute(_PUT_ACT, done)
        session.execute(_PUT_HEAD, new)
    if version % 1024 == 0:
        sql = "DELETE FROM rarememory_acts WHERE memory = ? AND version < ?"
        session.execute(sql, (head.memory, version - KEPT))
