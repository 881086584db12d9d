"""`rarememory play`: a page to try a memory by hand."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from rarememory.commands.output import one_sentence, say
from rarememory.play.server import Server
from rarememory.play.session import Session


def play(
    memory: Annotated[
        Path, typer.Option("--memory", "-m", help="The file of the memory; Save writes it.")
    ] = Path("drawings.safetensors"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page; 0 takes any that is free.")
    ] = 8421,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Try it by hand: draw a character and name it, and it is known when you draw it again.

    The page is open to this machine only, and needs no network.
    """
    with one_sentence(), _server(Session(memory), port) as server:
        say(f"draw at {server.url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            lost = "" if server.session.saved else "; what was not saved is gone"
            say(f"\nended{lost}")


def _server(session: Session, port: int) -> Server:
    try:
        return Server(session, port)
    except OSError as error:
        raise OSError(f"port {port} cannot be opened ({error}): choose another --port") from error
