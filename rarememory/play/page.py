"""The page and its actions, as a Starlette application.

It accepts requests of its own page only. Every address begins with a token that only the user who
started it knows, so that another user of the computer cannot read or forget; another Host, another
Origin or another Content-Type is refused, so that no other web page can send a request. A
Content-Security-Policy keeps the page from loading anything else and from running any script but
its own.
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from rarememory.play.session import Session

MAX_BYTES = 1 << 16
"""Largest body of a request."""
MAX_WAITING = 16
"""Requests that may wait for the session at once; one more is told to come again."""
PATIENCE = 5.0
"""Seconds that a client has to send a request."""
PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
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


class Refused(Exception):
    """A request that is not answered: with which status, and why."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Page:
    """Answers the requests of a page for one session.

    Args:
        session: what the actions are done on, one at a time.
        address: where the page is, such as "127.0.0.1:8421".

    Attributes:
        lock: held while an action is done.
        token: begins every address of the page.
        key: opens the page once, and is then worth nothing: other users may see what a browser was
            started with.
    """

    def __init__(self, session: Session, address: str) -> None:
        self.session, self.address = session, address
        self.lock = Lock()
        self.token, self.key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._waiting = 0
        self._once: str | None = self.key

    @property
    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/open/{key}", self._open, methods=["GET"]),
                Route("/{token}/api/{action}", self._act, methods=["POST"]),
                Route("/{path:path}", self._file, methods=["GET", "POST"]),
            ],
            exception_handlers={Refused: _refusal},
        )

    async def _open(self, request: Request) -> Response:
        """Lead the browser that was started to the page, once."""
        self._check_host(request)
        if self._once is None or not _same(request.path_params["key"], self._once):
            raise Refused(HTTPStatus.FORBIDDEN, f"{_ADDRESS}; this one opens the page once")
        self._once = None
        return RedirectResponse(f"/{self.token}/", HTTPStatus.SEE_OTHER, HEADERS)

    async def _file(self, request: Request) -> Response:
        token, _, name = request.path_params["path"].partition("/")
        self._check(request, token)
        if name not in PAGE or request.method != "GET":
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no /{name[:80]} here")
        file, kind = PAGE[name]
        content = (files("rarememory.play") / file).read_bytes()
        return Response(content, HTTPStatus.OK, {**HEADERS, "Content-Type": kind})

    async def _act(self, request: Request) -> Response:
        self._check(request, request.path_params["token"])
        body = await _body(request)
        action = ACTIONS.get(name := request.path_params["action"])
        if action is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no /api/{name[:80]} here")
        if self._waiting >= MAX_WAITING:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "too much is asked at once: wait a moment"
            )
        self._waiting += 1
        try:
            answer = await run_in_threadpool(self._done, action, body)
        except (ValueError, OSError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        except KeyError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the request has no {error}") from error
        finally:
            self._waiting -= 1
        return _json(HTTPStatus.OK, {"answer": answer})

    def _done(self, action: Callable[..., Any], body: dict[str, str]) -> Any:
        with self.lock:
            return action(self.session, body)

    def _check(self, request: Request, token: str) -> None:
        """Refuse a request of another page or another user."""
        self._check_host(request)
        if not _same(token, self.token):
            raise Refused(HTTPStatus.FORBIDDEN, _ADDRESS)

    def _check_host(self, request: Request) -> None:
        port = self.address.rpartition(":")[2]
        own = {self.address, f"localhost:{port}"}
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if host not in own or (origin is not None and origin.removeprefix("http://") not in own):
            sentence = f"only requests of http://{self.address}/ are accepted"
            raise Refused(HTTPStatus.FORBIDDEN, sentence)


_ADDRESS = "open the address that `rarememory play` has printed"


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


async def _body(request: Request) -> dict[str, str]:
    """The JSON object of a request."""
    read = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                read += chunk
                # The browser does not receive the response while much of its body is unread.
                if len(read) > 2 * MAX_BYTES:
                    break
    except (TimeoutError, ClientDisconnect):
        sentence = f"a request must be sent within {PATIENCE:g} seconds"
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, sentence) from None
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a request must be JSON")
    if len(read) > MAX_BYTES:
        sentence = f"a request has at most {MAX_BYTES:,} bytes, and this one has more"
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
    try:
        body = json.loads(read)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not all(isinstance(one, str) for one in body.values()):
        raise Refused(HTTPStatus.BAD_REQUEST, "a request must be a JSON object of strings")
    return body


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _json(error.status, {"error": str(error)})


def _json(status: HTTPStatus, content: dict[str, Any]) -> Response:
    text = json.dumps(content)
    return Response(text, status, {**HEADERS, "Content-Type": "application/json"})
