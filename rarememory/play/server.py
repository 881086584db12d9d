"""The session for a browser on this machine: a page, and a few questions in JSON.

Only this machine is answered, and only its own page: a request from elsewhere (another name of the
host, another origin, another kind of content) is refused, so that no page of the web can ask. What
is sent may load nothing from anywhere else, nor run a script that is not its own.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock
from typing import Any

from rarememory.play.session import Session

HOME = "127.0.0.1"
LARGEST = 1 << 18
"""Bytes of a question."""
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
ACTIONS: dict[str, Callable[[Session, dict[str, str]], Any]] = {
    "ask": lambda session, given: session.ask(given["drawing"]),
    "state": lambda session, given: session.state(),
    "learn": lambda session, given: session.learn(given["drawing"], given["name"]),
    "forget": lambda session, given: session.forget(given["name"]),
    "undo": lambda session, given: session.undo(),
    "save": lambda session, given: session.save(),
    "load": lambda session, given: session.load(),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves a session on 127.0.0.1 until it is shut down; port 0 takes any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        super().__init__((HOME, port), _Answer)
        self.session = session
        self.lock = Lock()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOME}:{self.server_address[1]}/"


class _Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self._from_here():
            return
        if self.path not in PAGE:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:80]} here")
            return
        name, kind = PAGE[self.path]
        self._send(HTTPStatus.OK, kind, (files("rarememory.play") / name).read_bytes())

    def do_POST(self) -> None:
        given = self._given() if self._from_here() else None
        if given is None:
            return
        action = ACTIONS.get(self.path.removeprefix("/api/"))
        if action is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:80]} here")
            return
        try:
            with self.server.lock:
                answer = action(self.server.session, given)
        except (ValueError, OSError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except KeyError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"the question has no {error}")
        else:
            self._send_json(HTTPStatus.OK, {"answer": answer})

    def _from_here(self) -> bool:
        """Whether it was this page that asked, and not another that a browser has open."""
        _, port = self.server.server_address[:2]
        homes = {f"{HOME}:{port}", f"localhost:{port}"}
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host in homes and (origin is None or origin.removeprefix("http://") in homes):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"only {self.server.url} is answered here")
        return False

    def _given(self) -> dict[str, str] | None:
        """The question, or None if it was refused."""
        length = self.headers.get("Content-Length", "")
        # An answer does not arrive where a question was left unread.
        read = self.rfile.read(min(int(length), LARGEST + 1)) if length.isdecimal() else b""
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a question is asked in JSON")
        elif len(read) > LARGEST:
            too_much = f"a question has at most {LARGEST:,} bytes, and this one has {int(length):,}"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_much)
        else:
            try:
                given = json.loads(read)
            except ValueError:
                given = None
            if isinstance(given, dict) and all(isinstance(one, str) for one in given.values()):
                return given
            self._refuse(HTTPStatus.BAD_REQUEST, "a question is an object of JSON, all of strings")
        return None

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._send_json(status, {"error": sentence})

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        sizes = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (HEADERS | sizes).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the page says what happens."""
