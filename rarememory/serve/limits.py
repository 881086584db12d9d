"""Refuses requests without the token, with too large a body, or that come too slowly."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", "/openapi.json"})
"""What is answered without the token."""


class Limits:
    """An ASGI application before another one, which sees only requests that keep to these limits.

    Args:
        application: that answers.
        token: that the header `Authorization: Bearer ...` must have.
        max_bytes: of a body.
        patience: seconds for the body of a request.
    """

    def __init__(
        self, application: Application, token: str, max_bytes: int, patience: float
    ) -> None:
        self.application, self.patience = application, patience
        self.token, self.max_bytes = token, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        if scope["path"] not in OPEN and not self._is_token(given):
            await _refuse(send, 401, "the header must be: Authorization: Bearer <token>")
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.max_bytes:
            await _refuse(send, 413, f"a body may have {self.max_bytes:,} bytes")
            return
        try:
            async with asyncio.timeout(self.patience):
                body = await self._body(receive)
        except TimeoutError:
            await _refuse(send, 408, f"a request must be sent within {self.patience:g} seconds")
            return
        if body is None:
            await _refuse(send, 413, f"a body may have {self.max_bytes:,} bytes")
            return
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        await self.application(scope, receive_whole, send)

    def _is_token(self, given: bytes) -> bool:
        return secrets.compare_digest(given, b"Bearer " + self.token.encode())

    async def _body(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    # What was not read of the body is not the next request.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
