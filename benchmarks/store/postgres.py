"""A PostgreSQL server of one's own, for measurements and tests, where it is installed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

MISSING = "PostgreSQL is not installed: apt-get install postgresql"


def programs() -> Path | None:
    """The folder of initdb and postgres, if they are installed."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "initdb").exists()), None)


class Server:
    """A server in a folder of its own, at a free port of this machine; killed as one likes."""

    def __init__(self, fsync: bool = True) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError(MISSING)
        self._bin = found
        self.folder = Path(tempfile.mkdtemp(prefix="rarememory-postgres-"))
        # The server refuses to be root's; the user of Debian's package is not.
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._data = self.folder / "data"
        options = ["--auth=trust", "--username=birds", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", "-D", self._data, *options)
        self._options = [f"-p{self.port}", "-k", str(self.folder), "-h127.0.0.1"]
        self._options += [] if fsync else ["-F"]
        self.url = f"postgresql://birds@127.0.0.1:{self.port}/"
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        subprocess.run(
            command, check=True, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL,
            extra_groups=[] if self._user else None,
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until it answers; after a kill it recovers first."""
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        for _ in range(40):
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data), *self._options],
                user=self._user, cwd=self.folder, stdout=log, stderr=log,
                extra_groups=[] if self._user else None, start_new_session=True,
            )  # fmt: skip
            while self._process.poll() is None:
                ready = [str(self._bin / "pg_isready"), "-q", "-h127.0.0.1", f"-p{self.port}"]
                if subprocess.run(ready, check=False).returncode == 0:
                    log.close()
                    return
                time.sleep(0.05)
            # A backend of the killed server still has the shared memory.
            time.sleep(0.25)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def database(self) -> str:
        """The address of a new database."""
        import psycopg

        name = f"birds_{uuid.uuid4().hex}"
        with psycopg.connect(f"{self.url}postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url + name

    def kill(self, whole: bool = True) -> None:
        """Kill the server as it is: all of its processes, or the first, whom the others follow."""
        pid = self._process.pid
        others = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if whole else []
        self._process.kill()
        self._process.wait()
        for other in map(int, others):
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
