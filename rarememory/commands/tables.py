"""`rarememory export` and `rarememory import`: what is remembered as a table, and back."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rarememory.classifier import MemoryClassifier
from rarememory.commands.output import AsJson, errors_as_text, print_text
from rarememory.integrations.tables import read_table, write_table

MemoryFile = Annotated[Path, typer.Argument(help="The file of the memory.")]
Table = Annotated[Path, typer.Argument(help="The table: a file .parquet, or .npz of NumPy.")]


def export(memory: MemoryFile, table: Table, as_json: AsJson = False) -> None:
    """Write what is remembered as a table: a row of label, refs, age and key for each example."""
    with errors_as_text():
        classifier = MemoryClassifier.load(memory, None)
        write_table(classifier, table)
    rows = len(classifier.memory)
    print_text(json.dumps({"rows": rows}) if as_json else f"wrote {rows} rows into {table}")


def import_table(table: Table, memory: MemoryFile, as_json: AsJson = False) -> None:
    """Add the rows of such a table to a memory, whose file must exist.

    The keys have to be of the same encoder. Where there is no room for all, the youngest are kept.
    """
    with errors_as_text():
        classifier = MemoryClassifier.load(memory, None)
        taken = read_table(classifier, table)
        classifier.save(memory)
    count = len(classifier.memory)
    if as_json:
        print_text(json.dumps({"taken": taken, "examples": count}))
    else:
        print_text(f"took over {taken} examples; {memory} has {count} now")
