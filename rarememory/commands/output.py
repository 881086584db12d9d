"""What commands print: text or JSON, and errors as one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Print an expected error as its message, without a traceback, and exit with code 1.

    Ctrl-C exits with 130, as programs do that a signal ends.
    """
    try:
        yield
    except KeyboardInterrupt:
        print_note("interrupted")
        sys.exit(130)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(str(error))


def print_text(text: str) -> None:
    """Print a line without wrapping it or reading markup in it."""
    Console(soft_wrap=True).print(escape(text))


def print_note(text: str) -> None:
    """Print a line beside the answer, where it is in nobody's way who reads that: to stderr."""
    print(text, file=sys.stderr)
