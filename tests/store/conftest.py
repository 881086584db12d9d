"""Stores to test: a new file of SQLite, or a new database on a PostgreSQL server of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.store.postgres import MISSING, Server, programs


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if programs() is None:
        pytest.skip(MISSING)
    # What a killed process has written the system still has: only a loss of power needs fsync.
    server = Server(fsync=False)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/birds.db"
    url: str = request.getfixturevalue("server").database()
    return url
