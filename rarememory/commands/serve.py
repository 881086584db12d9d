"""`rarememory serve`: learn, predict, explain and forget by HTTP, over a memory in a store."""

import base64
import io
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from rarememory.commands.encoders import encoder_by_name
from rarememory.commands.images import as_seen, reason
from rarememory.commands.output import errors_as_text, print_text

MAX_PIXELS = 50_000_000
"""Of an image in a request."""


@dataclass(frozen=True)
class Service:
    """What every worker makes its application of.

    Attributes:
        store: address of the store.
        name: of the memory.
        encoder: of images, by name; None where features are sent.
        width: of the features.
        slots: of a new memory; None for as many as a memory has by default.
        token: of every request.
    """

    store: str
    name: str
    encoder: str | None
    width: int
    slots: int | None
    token: str

    def __call__(self) -> Any:
        """The application, in a worker."""
        from rarememory.memory import FirstInFirstOut, Memory
        from rarememory.serve.bodies import Image, Vector
        from rarememory.serve.service import application
        from rarememory.store import wrap

        size: dict[str, Any] = {} if self.slots is None else {"memory_size": self.slots}
        place: dict[str, Any] = {"store": self.store, "name": self.name, **size}
        if self.encoder is None:
            memory = Memory(self.width, **size, update=FirstInFirstOut())
            classifier = wrap(nn.Identity(), host=False, memory=memory, reader="nearest", **place)
            return application(classifier, self.token, kind=Vector, read=torch.tensor)
        used = encoder_by_name(self.encoder)
        classifier = wrap(used.model, at=used.at, host=False, reader=used.reader, **place)

        def read(files: list[str]) -> Tensor:
            return torch.stack([image_in(f, n, used.prepare) for n, f in enumerate(files)])

        return application(classifier, self.token, kind=Image, read=read)


def image_in(file: str, number: int, prepare: Callable[[Any], Tensor]) -> Tensor:
    """The image in a file in base64, which a viewer shows so, prepared for an encoder.

    Raises:
        ValueError: it is no image, or one that is broken or too large; input `number` is named.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(file, validate=True))) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, and {MAX_PIXELS:,} are most"
                )
            return prepare(as_seen(image))
    # What Pillow's parsers stumble over in a broken file is of every kind.
    except Exception as error:
        raise ValueError(f"input {number} is no image in base64 ({reason(error)})") from error


def _check_address(store: str) -> None:
    """Refuse what no worker could open; a database that is away may come back.

    Raises:
        ValueError: it is no address of a store.
        ModuleNotFoundError: it needs what is not installed.
    """
    from rarememory.store.log import session_of

    with suppress(ConnectionError):
        session_of(store, patience=1.0).close()


def serve(
    store: Annotated[
        str, typer.Option(help="sqlite:///birds.db, or postgresql://user:password@host/database.")
    ],
    name: Annotated[str, typer.Option(help="Of the memory in the store.")] = "memory",
    encoder: Annotated[
        str | None, typer.Option(help="Of images: omniglot, or one of torchvision.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of features, sent in place of images.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Size of a new memory; 8192 if not given.")
    ] = None,
    address: Annotated[str, typer.Option(help="To listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Has the token, 16 characters at least; else one is made and printed."),
    ] = None,
) -> None:
    """Serve a memory in a store by HTTP: /learn, /predict, /explain, /forget, /health, /metrics.

    Every request but /health has the header `Authorization: Bearer TOKEN`. The workers hold nothing
    that is not in the store: run as many as you like, on as many machines.
    """
    with errors_as_text():
        if (encoder is None) == (width is None):
            raise ValueError("give either --encoder, for images, or --width, for features")
        token = secrets.token_urlsafe(24) if token_file is None else token_file.read_text().strip()
        if len(token) < 16 or not token.isascii():
            raise ValueError("the token must have at least 16 characters, all of them ASCII")
        try:
            from rarememory.serve.processes import serve as serve_processes
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'the service needs {error.name}: pip install "rarememory[serve]"'
            ) from error
        _check_address(store)
        said = f"; the token is {token}" if token_file is None else ""
        print_text(f"serving {name!r} at http://{address}:{port}/ with {workers} workers{said}")
        service = Service(store, name, encoder, width or 0, slots, token)
        serve_processes(service, address, port, workers)
