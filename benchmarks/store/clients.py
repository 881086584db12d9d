"""Clients of the service, all at once: each learns and asks over one connection of its own."""

import asyncio
import json
import random
import time
from typing import Any, NamedTuple

KEY_DIM = 64


class Answers(NamedTuple):
    """What the clients met.

    Attributes:
        seconds: of every request that was answered.
        learnt: refs of the learns that were acknowledged.
        errors: what went wrong.
    """

    seconds: list[float]
    learnt: list[str]
    errors: list[str]


def ask(port: int, token: str, clients: int, seconds: float) -> Answers:
    """Let so many clients ask for so long; one request in ten learns."""
    found = Answers([], [], [])
    deadline = time.monotonic() + seconds

    async def all_of_them() -> None:
        await asyncio.gather(
            *(_client(number, port, token, deadline, found) for number in range(clients))
        )

    asyncio.run(all_of_them())
    return found


async def _client(number: int, port: int, token: str, deadline: float, found: Answers) -> None:
    rng, turn, version = random.Random(number), 0, 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.monotonic() < deadline:
            vector = [rng.gauss(0, 1) for _ in range(KEY_DIM)]
            body: dict[str, Any] = {"inputs": [vector]}
            if turn % 10 == 0:
                ref = f"{number}/{turn}"
                body |= {
                    "labels": [f"class {number % 50}"],
                    "refs": [ref],
                    "once": f"{number}-{turn}",
                }
            else:
                body["at_least"] = version
            path = "/learn" if turn % 10 == 0 else "/predict"
            begin = time.perf_counter()
            status, answer = await _request(reader, writer, path, token, body)
            found.seconds.append(time.perf_counter() - begin)
            if status != 200:
                found.errors.append(f"{path} {status}: {answer!r}"[:300])
            else:
                version = json.loads(answer)["version"]
                if path == "/learn":
                    found.learnt.append(ref)
            turn += 1
    except (OSError, asyncio.IncompleteReadError) as error:
        found.errors.append(f"{type(error).__name__}: {error}")
    finally:
        writer.close()


async def _request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    token: str,
    body: dict[str, Any],
) -> tuple[int, bytes]:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: birds\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split(" ")[1]), await reader.readexactly(length)
