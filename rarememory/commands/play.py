"""`rarememory play`: a web page to try a memory with drawings."""

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarememory.commands.output import errors_as_text, print_text
from rarememory.play.session import Session

if TYPE_CHECKING:
    from rarememory.play.server import Server


def play(
    memory: Annotated[
        Path, typer.Option("--memory", "-m", help="The file of the memory; Save writes it.")
    ] = Path("drawings.safetensors"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes any that is free.")
    ] = 8421,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Draw a character on a web page and name it: it is recognised when you draw it again.

    The page is served to this computer only, and needs no network. Its address has a token, so that
    no other user of this computer can open it: keep it to yourself.
    """
    with errors_as_text(), _server(memory, port) as server:
        print_text(f"draw at {server.url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(server.opening_url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            lost = "" if server.session.saved else "; unsaved changes are lost"
            print_text(f"\nended{lost}")


@contextmanager
def _server(memory: Path, port: int) -> "Iterator[Server]":
    try:
        from rarememory.play.server import Server
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'the page needs {error.name}: pip install "rarememory[play]"'
        ) from error
    session = Session(memory)
    try:
        server = Server(session, port)
    except OSError as error:
        raise OSError(f"port {port} cannot be opened ({error}): choose another --port") from error
    try:
        yield server
    finally:
        server.close()
