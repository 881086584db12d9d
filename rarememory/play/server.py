"""An HTTP server for a session: the page, and its actions as JSON requests.

It listens on 127.0.0.1 and accepts requests of its own page only: another Host, another Origin or
another Content-Type is refused, so that no other web page can send one. A Content-Security-Policy
keeps the page from loading anything else and from running any script but its own.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock
from typing import Any

from rarememory.play.session import Session

ADDRESS = "127.0.0.1"
MAX_BYTES = 1 << 18
"""Largest body of a request."""
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
ACTIONS: dict[str, Callable[[Session, dict[str, str]], Any]] = {
    "ask": lambda session, body: session.ask(body["drawing"]),
    "state": lambda session, body: session.state(),
    "learn": lambda session, body: session.learn(body["drawing"], body["name"]),
    "forget": lambda session, body: session.forget(body["name"]),
    "undo": lambda session, body: session.undo(),
    "save": lambda session, body: session.save(),
    "load": lambda session, body: session.load(),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves a session on 127.0.0.1; port 0 takes any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.session = session
        self.lock = Lock()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self._is_own_page():
            return
        if self.path not in PAGE:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:80]} here")
            return
        name, kind = PAGE[self.path]
        self._send(HTTPStatus.OK, kind, (files("rarememory.play") / name).read_bytes())

    def do_POST(self) -> None:
        body = self._body() if self._is_own_page() else None
        if body is None:
            return
        action = ACTIONS.get(self.path.removeprefix("/api/"))
        if action is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path[:80]} here")
            return
        try:
            with self.server.lock:
                answer = action(self.server.session, body)
        except (ValueError, OSError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except KeyError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"the request has no {error}")
        else:
            self._send_json(HTTPStatus.OK, {"answer": answer})

    def _is_own_page(self) -> bool:
        """Whether the request comes from this page; if not, it is refused here."""
        _, port = self.server.server_address[:2]
        own = {f"{ADDRESS}:{port}", f"localhost:{port}"}
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host in own and (origin is None or origin.removeprefix("http://") in own):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"only requests of {self.server.url} are accepted")
        return False

    def _body(self) -> dict[str, str] | None:
        """The JSON object of the request, or None if it was refused."""
        length = self.headers.get("Content-Length", "")
        # The browser does not receive the response while the body of its request is unread.
        read = self.rfile.read(min(int(length), MAX_BYTES + 1)) if length.isdecimal() else b""
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a request must be JSON")
        elif len(read) > MAX_BYTES:
            too_much = (
                f"a request has at most {MAX_BYTES:,} bytes, and this one has {int(length):,}"
            )
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_much)
        else:
            try:
                body = json.loads(read)
            except ValueError:
                body = None
            if isinstance(body, dict) and all(isinstance(one, str) for one in body.values()):
                return body
            self._refuse(HTTPStatus.BAD_REQUEST, "a request must be a JSON object of strings")
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
        """Log nothing: the page shows what happens."""
