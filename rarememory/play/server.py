"""Serves the page to this computer by uvicorn, with limits on connections and their time."""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rarememory.play.page import PATIENCE, Page
from rarememory.play.session import Session

ADDRESS = "127.0.0.1"
MAX_CONNECTIONS = 200
"""One more takes the place of that which has waited longest without sending a request."""
BACKLOG = 2048
"""Connections that the system may hold until the server takes them."""
_READING = 0.1
"""Seconds in which a request that has come with its connection is read."""


class Server:
    """Serves a session on 127.0.0.1; port 0 takes any that is free.

    Attributes:
        session: what is served.
        page: what answers.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((ADDRESS, port))
            # At once: the browser may come before the server is ready, and waits then.
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.session = session
        self.page = Page(session, f"{ADDRESS}:{self.port}")
        # Ctrl-C waits a second for clients, and no longer.
        config = config_of(self.page.application, Connection, PATIENCE, 1)
        self._server = uvicorn.Server(config)

    @property
    def port(self) -> int:
        """It listens on this port."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address of the page, with its token."""
        return f"http://{self.page.address}/{self.page.token}/"

    @property
    def opening_url(self) -> str:
        """An address that leads to the page once."""
        return f"http://{self.page.address}/open/{self.page.key}"

    def serve_forever(self) -> None:
        """Serve until Ctrl-C, which is raised here, or `shutdown`."""
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        """Let `serve_forever` return, soon; for another thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Free the port."""
        self._socket.close()


def config_of(
    application: Any, connection: type["Connection"], patience: float, ending: int
) -> uvicorn.Config:
    """How uvicorn serves an application: silently, and with nothing that is not needed.

    Args:
        application: as ASGI has it.
        connection: what limits connections.
        patience: seconds that a client has to send its next request.
        ending: seconds that clients have when the server ends.
    """
    return uvicorn.Config(
        application,
        http=connection,
        ws="none",
        lifespan="off",
        # It would print addresses, and so the token.
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(patience),
        timeout_graceful_shutdown=ending,
    )


class Connection(H11Protocol):
    """A connection that is closed if its client sends no request in time, or others need room.

    Attributes:
        most: connections; one more takes the place of that which has waited longest.
        patience: seconds that a client has to send a request.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.most, self.patience = MAX_CONNECTIONS, PATIENCE
        self._timer: asyncio.TimerHandle | None = None
        # The request that was the last when the timer began; none at first.
        self._last: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Not at once: hundreds may be accepted before the first of them is read.
        self.loop.call_later(_READING, self._make_room)
        self._start()

    def _make_room(self) -> None:
        there = [one for one in self.connections if not one.transport.is_closing()]
        waiting = [one for one in there if isinstance(one, Connection) and one.waits]
        if len(there) > self.most and waiting:
            # The timers end in the order in which the connections began to wait.
            min(waiting, key=lambda one: one.deadline).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def deadline(self) -> float:
        """When the timer ends."""
        return self._timer.when() if self._timer is not None else float("inf")

    def _start(self) -> None:
        self._timer = self.loop.call_later(self.patience, self._look)

    def _look(self) -> None:
        if self.waits and self.cycle is self._last:
            self.transport.abort()
            return
        # An answer may take longer than that: its client has the whole time for the next request.
        self._last = self.cycle if self.waits else None
        self._start()
