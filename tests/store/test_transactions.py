"""Traps of transactions: stale decisions, rollbacks, lost connections, repeated calls, forks."""

import os
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch

from benchmarks.store.history import POLICIES, digest, opened, plain, rows
from rarememory.memory import module, writing
from rarememory.store import contents, log, sqlite
from rarememory.store.queue import FairQueue
from rarememory.store.session import Conflict, Lost

AVERAGING = POLICIES[1]


@pytest.fixture
def pair(url):
    """Two workers of one store."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(opened(url, AVERAGING))) for _ in range(2)]


def _learn_some(classifier):
    classifier.learn(rows(3, 1), ["kea", "weka", 7], ["a", None, "c"])


def test_a_write_decides_on_what_another_has_learnt_just_now_and_searches_once(pair, monkeypatch):
    one, other = pair
    alone, near = plain(AVERAGING), rows(1)
    for classifier in (alone, one):
        _learn_some(classifier)
        other.catch_up()
        classifier.learn(near, ["new"], ["a"])
    expected = alone.learn(near + 0.01, ["new"], ["b"])
    searches, search = [], module.nearest_slots
    monkeypatch.setattr(module, "nearest_slots", lambda *a: searches.append(1) or search(*a))
    learnt = other.learn(near + 0.01, ["new"], ["b"])
    assert len(searches) == 1
    assert learnt.hits == expected.hits == torch.tensor([True])
    assert digest(other) == digest(alone) and other.examples()[-1].refs == ("a", "b")


def test_who_writes_beside_others_decides_once_and_only_searches_before(pair, monkeypatch):
    alone, writes, write = plain(AVERAGING), [], writing.write
    monkeypatch.setattr(writing, "write", lambda *a: writes.append(1) or write(*a))
    for seed in range(6):
        alone.learn(rows(3, seed), ["kea", "weka", seed])
        written = len(writes)
        pair[seed % 2].learn(rows(3, seed), ["kea", "weka", seed])
    assert len(writes) == written + 1 and pair[1]._busy
    pair[1].learn(rows(1, 9), ["kea"])
    alone.learn(rows(1, 9), ["kea"])
    assert not pair[1]._busy and pair[0].catch_up() == 7
    assert digest(pair[0]) == digest(pair[1]) == digest(alone)


@pytest.mark.parametrize("whole", [False, True])
def test_what_comes_between_the_search_and_the_lock_is_looked_at(pair, monkeypatch, whole):
    one, other = pair
    alone, near = plain(AVERAGING), rows(1)
    for classifier in (alone, one):
        _learn_some(classifier)
    other.catch_up()
    write = other.replica.write

    def late(*args):
        # The thread that follows the store takes it before the lock is there.
        for classifier in (alone, one):
            if whole:
                classifier.resize(2)
            classifier.learn(near, ["new"])
        other.catch_up()
        return write(*args)

    monkeypatch.setattr(other.replica, "write", late)
    learnt = other.learn(near + 0.01, ["new"])
    assert learnt.hits == alone.learn(near + 0.01, ["new"]).hits == torch.tensor([True])
    assert digest(other) == digest(alone)


def test_what_was_read_before_a_newer_change_is_not_taken_after_it(pair, monkeypatch):
    one, other = pair
    _learn_some(one)
    read = other.replica.read

    def late(*args):
        found = read(*args)
        # Another thread learns before the one that follows the store takes what it has read.
        other.learn(rows(2, 5), ["kea", "tui"])
        return found

    monkeypatch.setattr(other.replica, "read", late)
    assert other.catch_up() == one.catch_up() == 2
    assert digest(one) == digest(other)


def test_remarks_that_change_in_place_reach_the_others(pair):
    one, other = pair
    _learn_some(one)
    for place in ("a hill", "a wood"):
        one.about["place"] = place
        one.learn(rows(1), ["kea"])
        other.catch_up()
        assert other.about == {"place": place}
    other.about["place"] = "a lake"
    assert one.about == {"place": "a wood"}


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_rows_that_are_put_together_are_the_same_rows(url, count):
    refs = [None if n % 3 == 0 else f'"{n}", \\ é' for n in range(count)]
    with closing(opened(url)) as one, closing(opened(url)) as other:
        one.learn(rows(1), ["kea"])
        one.learn(rows(count, 2), list(range(count)), refs)
        other.catch_up()
        some = [*range(1, count)] or [0]
        assert one.forget(*some) == len(some)
        with closing(opened(url)) as late:
            other.catch_up()
            assert digest(one) == digest(other) == digest(late)
            assert one.examples() == other.examples() == late.examples()


def test_a_class_of_another_worker_can_be_forgotten_before_it_was_seen(pair):
    one, other = pair
    one.learn(rows(2), ["kea", "weka"])
    assert other.forget("kea") == 1 and other.classes == ["weka"]
    with pytest.raises(ValueError, match="'kea' is not known here; known: 'weka'"):
        one.forget("kea")
    assert one.classes == ["weka"] and one.version == other.version == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_lost_during_commit_learns_once(pair, monkeypatch, when):
    one, other = pair
    _learn_some(one)
    write, lost = log._write, []

    def lose(session, *args):
        write(session, *args)
        if not lost:
            lost.append(session)
            if when == "after":
                session.execute("COMMIT")
            raise Lost("the cable is cut")

    monkeypatch.setattr(log, "_write", lose)
    learnt = one.learn(rows(1, 9), ["new"])
    assert one.version == other.catch_up() == 2 and len(learnt.slots) == 1
    alone = plain(AVERAGING)
    _learn_some(alone)
    alone.learn(rows(1, 9), ["new"])
    assert digest(one) == digest(other) == digest(alone)


def test_a_conflict_is_tried_again(pair, monkeypatch):
    one, _ = pair
    write, tries = log._write, []

    def refuse(session, *args):
        write(session, *args)
        tries.append(1)
        if len(tries) < 3:
            raise Conflict("could not serialize access")

    monkeypatch.setattr(log, "_write", refuse)
    _learn_some(one)
    assert len(tries) == 3 and one.version == 1


def test_a_session_that_could_not_make_the_tables_can_be_asked_again(url, monkeypatch):
    with closing(log.session_of(url, 5.0)) as session:
        with monkeypatch.context() as patch:
            patch.setattr(log, "_TABLES", (log._TABLES[0], "SELECT 1 FROM nowhere"))
            with pytest.raises(Exception, match="nowhere"):
                log.make_tables(session)
        log.make_tables(session)
        assert log.newest(session, "memory") == (0, 0)


def test_the_errors_of_postgresql_are_told_apart(server):
    import psycopg

    with closing(log.session_of(server.database(), 1.0)) as session:
        for kind, wanted in (
            (psycopg.errors.SerializationFailure, Conflict),
            (psycopg.errors.DeadlockDetected, Conflict),
            (psycopg.errors.AdminShutdown, Lost),
        ):
            with pytest.raises(wanted), session.errors():
                raise kind("as the server says")
        with pytest.raises(psycopg.ProgrammingError), session.errors():
            session.execute("SELECT nothing FROM nowhere")


def test_after_a_rollback_the_memory_is_as_before(pair, monkeypatch):
    one, other = pair
    _learn_some(one)
    before = digest(one)
    with monkeypatch.context() as patch:
        patch.setattr(log, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.learn(rows(3, 7), ["x", "y", "z"])
    with monkeypatch.context() as patch:
        # What is learnt is there when its label is to be stored.
        patch.setattr(contents, "_label_bytes", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.learn(rows(1), ["weka of another kind"])
    assert digest(one) == before and other.catch_up() == one.version == 1
    one.learn(rows(1), ["kea"])
    assert other.catch_up() == 2 and digest(one) == digest(other) != before


def test_the_same_call_learns_once_whoever_makes_it(pair):
    one, other = pair
    first = one.learn(rows(2), ["kea", "weka"], once="of a client")
    again = other.learn(rows(2), ["kea", "weka"], once="of a client")
    assert first.slots.tolist() == again.slots.tolist() == [0, 1]
    assert first.hits.tolist() == again.hits.tolist() == [False, False]
    assert one.version == other.version == 1 and digest(one) == digest(other)
    assert one.forget("kea", once="of it too") == other.forget("kea", once="of it too") == 1


def test_who_finds_it_done_knows_it_though_the_connection_that_reads_is_lost(pair, monkeypatch):
    def lost(*_):
        raise Lost("the server was started again")

    one, other = pair
    one.learn(rows(2), ["kea", "weka"], once="of a client")
    monkeypatch.setattr(other.replica, "read", lost)
    other.learn(rows(2), ["kea", "weka"], once="of a client")
    assert one.version == other.version == 1 and digest(one) == digest(other)


def test_what_is_fitted_resized_cleared_or_loaded_is_everybodys(pair):
    one, other = pair
    one.learn(rows(12), ["kea", "weka"] * 6, [f"{n}.png" for n in range(12)])
    one.about["place"] = "a hill"
    changes = (
        lambda: one.fit_threshold(false_accept_rate=0.1),
        lambda: one.calibrate(rows(8, 3), ["kea", "weka"] * 4),
        lambda: other.resize(5),
        lambda: one.forget_refs(one.examples()[0].refs[0]),
        lambda: other.resize(40),
        lambda: one.clear(),
        lambda: other.whiten(rows(12, 5), ["kea", "weka"] * 6),
        lambda: one.learn(rows(3), ["kea", "weka", "kea"]),
        lambda: one.load_state_dict(other.state_dict()),
    )
    for number, change in enumerate(changes):
        change()
        one.catch_up(), other.catch_up()
        assert digest(one) == digest(other) and one.version == other.version == 2 + number
    assert other.about == {"place": "a hill"} and len(other.memory) == 3


def test_a_worker_that_resizes_hears_which_labels_have_no_example_any_more(pair):
    one, other = pair
    for label, row in zip(["kea", "weka"], rows(2), strict=True):
        one.learn(row, label)
    assert other.resize(1) == ["kea"] and other.classes == ["weka"]


def test_whatever_would_leave_the_store_behind_is_refused(pair):
    one, _ = pair
    _learn_some(one)
    with pytest.raises(RuntimeError, match="read-only"):
        one.memory.write(rows(1), torch.tensor([0]))
    with pytest.raises(RuntimeError, match="cannot be undone"), one.snapshot():
        pass
    with pytest.raises(RuntimeError, match="not tuned"), one.tunable_keys():
        pass
    with pytest.raises(RuntimeError, match="not tuned"):
        one.finetune(rows(1), ["kea"])
    state = {**one.state_dict(), "memory.untuned": one.memory.keys.clone()}
    with pytest.raises(ValueError, match="untune"):
        one.load_state_dict(state)
    with pytest.raises(TypeError, match="open the store again"):
        __import__("copy").deepcopy(one)


def test_a_version_that_is_not_there_yet_is_waited_for(url):
    with closing(opened(url, poll=0.005)) as one, closing(opened(url)) as other:
        threading.Timer(0.1, lambda: other.learn(rows(1), ["kea"])).start()
        assert one.predict(rows(1), at_least=1) == ["kea"]
        assert one.predict_proba(rows(1), at_least=1).classes == ["kea"]
        other.learn(rows(1, 2), ["weka"])
        deadline = time.monotonic() + 5
        while one.version < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert one.classes == ["kea", "weka"]
        with pytest.raises(TimeoutError, match=r"version 9 is not here after 0.05 seconds, but 2"):
            one.wait_for(9, seconds=0.05)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_worker_made_by_fork_has_connections_and_a_follower_of_its_own(url):
    with closing(opened(url, poll=0.005)) as one:
        one.learn(rows(1), ["kea"])
        child = os.fork()
        if child == 0:
            one.learn(rows(1, 2), ["weka"])
            # The follower's thread is not of the other process.
            done = [time.sleep(0.01) for _ in range(500) if one.version < 3]
            os._exit(0 if len(done) < 500 and "kakapo" in one.classes else 1)
        one.wait_for(2)
        one.learn(rows(1, 3), ["kakapo"])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        one.learn(rows(1, 4), ["takahe"])
        assert one.version == 4 and one.classes == ["kea", "weka", "kakapo", "takahe"]


def test_with_the_server_away_a_store_cannot_be_opened(server):
    address = server.database()
    server.kill()
    try:
        said = r"does not answer .*; the store could not be opened in 0\.3 seconds$"
        with pytest.raises(ConnectionError, match=said):
            opened(address, patience=0.3)
    finally:
        server.start()


def test_with_the_server_away_reads_go_on_and_learning_raises(server):
    with closing(opened(server.database(), patience=0.3)) as one:
        one.learn(rows(2), ["kea", "weka"])
        server.kill()
        try:
            with pytest.raises(ConnectionError, match=r"nothing was changed in 0.3 seconds"):
                one.learn(rows(1, 5), ["kakapo"])
            one.look()
            assert "does not answer" in one.trouble
            assert one.predict(rows(2)) == ["kea", "weka"]
        finally:
            server.start()
        one.learn(rows(1, 5), ["kakapo"])
        assert one.version == 2 and one.classes == ["kea", "weka", "kakapo"]


# SQLite


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "file_system", lambda path: "nfs4")
    with pytest.raises(ValueError, match=r"network file system \(nfs4\)"):
        opened(f"sqlite:///{tmp_path}/birds.db")


def test_the_file_system_of_a_file_is_found(tmp_path):
    assert sqlite.file_system(Path("/proc/self/mounts")) in ("proc", "")
    assert sqlite.file_system(tmp_path / "birds.db") not in sqlite.NETWORKED


def test_who_has_waited_goes_before_who_comes_again(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
    assert fcntl
    turns = []

    def take(name, count):
        queue = FairQueue(tmp_path / "queue")
        for _ in range(count):
            with queue.turn():
                turns.append(name)
                time.sleep(0.005)
        queue.close()

    greedy = threading.Thread(target=take, args=("greedy", 60))
    greedy.start()
    while not turns:
        time.sleep(0.001)
    take("patient", 10)
    greedy.join()
    between = "".join("g" if name == "greedy" else "p" for name in turns).strip("g")
    assert max(map(len, between.split("p"))) <= 3


@pytest.mark.parametrize("address", ["birds.db", "sqlite://birds.db", "mysql://birds"])
def test_an_address_of_no_store_is_refused(address):
    with pytest.raises(ValueError, match=r"a store is sqlite:///birds.db"):
        opened(address)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "birds.db").write_bytes(b"birds" * 1000)
    said = r"is no database, .*; the store could not be opened in 0\.01 seconds$"
    with pytest.raises(ConnectionError, match=said):
        opened(f"sqlite:///{tmp_path}/birds.db", patience=0.01)
