"""`rarememory ask`: type a story and a question, see the answer and what each hop attended to."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TextIO

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rarememory.base.progress import progress_bar
from rarememory.commands.output import AsJson, errors_as_text, print_note, print_text
from rarememory.readers.asking import ReadAnswer, ask, train_on_stories
from rarememory.readers.memn2n import MemN2N
from rarememory.readers.questions import Vocabulary
from rarememory.readers.stored import load_reader, save_reader

STORIES = Path("runs/stories.safetensors")
EXAMPLE = ("Mary took the apple.", "Mary went to the kitchen.", "John went to the garden.")
_BAR = 8


def ask_command(
    reader: Annotated[
        Path | None,
        typer.Option(help="From `rarememory babi --save`. [trained on drawn stories, seconds]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Type a story, a sentence on each line, and a question; see the answer and how it was found.

    A line that ends with "?" is a question; an empty line begins a new story. Without --reader, a
    reader is trained on drawn stories of who went where with what, and kept in runs/.
    """
    with errors_as_text():
        torch.set_num_threads(1)
        trained, vocabulary = load_reader(reader) if reader is not None else _of_stories()
    talk = _Talk(trained, vocabulary, as_json)
    if sys.stdin.isatty():
        print_text(f"a story, for example: {' '.join(EXAMPLE)} Where is the apple?")
    for line in _lines(sys.stdin):
        talk.hear(line)
    if not talk.asked:
        print_note('nothing was asked: a question ends with "?"')
    if talk.failed or not talk.asked:
        raise typer.Exit(1)


@dataclass
class _Talk:
    """The story so far, and whether there was a question, and one that could not be answered."""

    reader: MemN2N
    vocabulary: Vocabulary
    as_json: bool
    story: list[str] = field(default_factory=list)
    asked: bool = False
    failed: bool = False

    def hear(self, line: str) -> None:
        """A sentence, a question, or nothing, which begins a new story."""
        if not line:
            self.story.clear()
        elif not line.endswith("?"):
            self.story.append(line)
        else:
            self.asked = True
            try:
                answered = ask(self.reader, self.vocabulary, self.story, line)
            except ValueError as error:
                print_note(str(error))
                self.failed = True
                return
            if self.as_json:
                print(json.dumps({"question": line, **answered._asdict()}))
            else:
                _print(answered)


def _lines(stream: TextIO) -> Iterator[str]:
    """Each line, without spaces around it; several sentences of a line one by one."""
    for line in stream:
        text = line.strip()
        if not text:
            yield ""
        parts = text.replace("?", "?\n").replace(". ", ".\n").splitlines()
        yield from filter(None, (part.strip() for part in parts))


def _print(answered: ReadAnswer) -> None:
    hops = len(answered.attention)
    table = Table("", *(Column(f"hop {hop}", no_wrap=True) for hop in range(1, hops + 1)))
    for place, sentence in enumerate(answered.sentences):
        weights = [hop[place] for hop in answered.attention]
        table.add_row(escape(sentence), *map(_bar, weights))
    Console().print(table)
    if answered.left_out:
        print_note(f"the first {answered.left_out} sentences are beyond its memory, and not read")
    print_text(f"{answered.answer} ({100 * answered.probability:.0f} %)")


def _bar(weight: float) -> str:
    return f"{'█' * round(_BAR * weight):{_BAR}} {100 * weight:3.0f}%"


def _of_stories() -> tuple[MemN2N, Vocabulary]:
    """The reader of drawn stories, trained at the first call."""
    if STORIES.exists():
        return load_reader(STORIES)
    with progress_bar(total=32, description="training on drawn stories", unit="epoch") as bar:
        reader, vocabulary, error = train_on_stories(watch=lambda epoch: bar.update())
    save_reader(STORIES, reader, vocabulary)
    print_note(f"trained on drawn stories: {100 * error:.1f} % of new ones are answered wrongly")
    return reader, vocabulary
