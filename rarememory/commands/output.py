"""How a command speaks: in words, in JSON, or in a sentence that says why not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@contextmanager
def one_sentence() -> Iterator[None]:
    """What could not be done is said in a sentence, with exit code 1."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(str(error))


def say(text: str) -> None:
    """Print a line, however long, in which nothing is markup."""
    Console(soft_wrap=True).print(escape(text))
