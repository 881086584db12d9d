"""Gathers every committed result into one flat file, and fills the tables of the pages from it.

    python -m benchmarks.summary            write benchmarks/results/summary.json and the pages
    python -m benchmarks.summary --check    say whether they are what the results make them

A result file is a JSON object: `command`, `commit`, `device` and `seed` say where it came from,
`figures` maps dotted keys to numbers, and anything else is free; but a `report` of trainings, or
each of its `reports`, adds the minutes that they took. A page has a table between
`<!-- table:NAME -->` and `<!-- end:NAME -->`, and a single figure, such as one in a sentence,
between `<!-- figure:KEY -->` and `<!-- end -->`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/concepts/memory-networks.md",
    "docs/howto/shard-a-memory.md",
    "docs/promises.md",
)
PROVENANCE = ("command", "commit", "device", "seed")
# Lower case, but for the millions of a cell such as b16_m1M_k256.
DOTTED = re.compile(r"(?:[a-z0-9_]|(?<=\d)M)+(?:\.(?:[a-z0-9_]|(?<=\d)M)+)+")
BLOCK = re.compile(r"<!-- table:(\w+) -->\n((?:.*?\n)?)<!-- end:\1 -->", re.DOTALL)
CELL = re.compile(r"\{([\w.]+)(?:\[([\w,]+)\]([\w.]*))?(?::([+\d.]*f))?\}")
INLINE = re.compile(r"<!-- figure:([\w.]+) -->.*?<!-- end -->")
TEMPLATE = Path(__file__).with_name("tables.md").read_text(encoding="utf-8")
TABLES: dict[str, str] = dict(BLOCK.findall(TEMPLATE))


class Entry(TypedDict):
    """One figure of the summary, and the result file it came from."""

    value: float
    source: str


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the summary and the pages, or with `--check` only compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(arguments).check
    try:
        stale = outdated(root)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if check and stale:
        names = " and ".join(path.relative_to(root).as_posix() for path in stale)
        print(f"out of date with benchmarks/results: {names}; run make summary", file=sys.stderr)
        return 1
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(root).as_posix()}")
    return 0


def outdated(root: Path, tables: Mapping[str, str] = TABLES) -> dict[Path, str]:
    """The files that are not what the results make them, each with the text it should have."""
    results = root / "benchmarks" / "results"
    summary = collect(results)
    pages = {root / page: (root / page).read_text(encoding="utf-8") for page in PAGES}
    _check_tables(pages, tables)
    wanted = {results / "summary.json": json.dumps(summary, indent=2) + "\n"}
    wanted |= {path: fill(text, summary, tables) for path, text in pages.items()}
    there = {path: path.read_text(encoding="utf-8") for path in wanted if path.exists()}
    return {path: text for path, text in wanted.items() if there.get(path) != text}


def collect(results: Path) -> dict[str, Entry]:
    """Every figure of every result file, sorted by key; a doubtful file is refused."""
    summary: dict[str, Entry] = {}
    for path in sorted({*results.glob("*.json")} - {results / "summary.json"}):
        for key, value in _figures(path).items():
            if key in summary:
                raise ValueError(f"{path.name} and {summary[key]['source']} both hold {key}")
            summary[key] = Entry(value=value, source=path.name)
    return dict(sorted(summary.items()))


def fill(page: str, summary: Mapping[str, Entry], tables: Mapping[str, str]) -> str:
    """A page with every table and every single figure written anew."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- table:{name} -->\n{render(tables[name], summary)}<!-- end:{name} -->"

    def inline(found: re.Match[str]) -> str:
        return f"<!-- figure:{found[1]} -->{_number(found[1], summary)}<!-- end -->"

    return INLINE.sub(inline, BLOCK.sub(block, page))


def _check_tables(pages: Mapping[Path, str], tables: Mapping[str, str]) -> None:
    """Refuse pages that do not hold every declared table exactly once, opened and then closed."""
    text = "\n".join(pages.values())
    names = " and ".join(PAGES)
    opened = sorted(re.findall(r"<!-- table:(\w+) -->", text))
    closed = sorted(re.findall(r"<!-- end:(\w+) -->", text))
    if not opened == closed == sorted(tables):
        raise ValueError(
            f"{names} open the tables {opened} and close {closed}, "
            f"but benchmarks/tables.md declares {sorted(tables)}"
        )
    whole = sum(len(BLOCK.findall(page)) for page in pages.values())
    if whole != len(tables):
        raise ValueError(f"{names}: {len(tables) - whole} of the tables end before they start")


def render(table: str, summary: Mapping[str, Entry]) -> str:
    """The table with the number of every key.

    Raises:
        ValueError: a row has more or fewer cells than there are columns, or a brace is no key.
    """

    def cells(found: re.Match[str]) -> str:
        start, names, rest, form = found.groups()
        keys = [f"{start}{name}{rest}" for name in names.split(",")] if names else [start]
        return " | ".join(_number(key, summary, form or ".2f") for key in keys)

    text = CELL.sub(cells, table)
    head, *rows = (line.split("|")[1:-1] for line in text.splitlines())
    for row in rows:
        if len(row) != len(head):
            name = row[0].strip()
            raise ValueError(f"the row {name!r} has {len(row)} cells for {len(head)} columns")
    if "{" in text:
        raise ValueError(f"{text[text.index('{') :].partition(' |')[0]} is no key of a figure")
    return text


def _number(key: str, summary: Mapping[str, Entry], form: str = ".2f") -> str:
    if key not in summary:
        return "not run"
    keys = [one for one in (key, f"{key}.interval") if one in summary]
    return " ± ".join(format(summary[one]["value"], form) for one in keys)


def _figures(path: Path) -> dict[str, float]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(result, dict) or not isinstance(result.get("figures"), dict):
        raise ValueError(f"{path.name} has no object of figures")
    missing = [name for name in PROVENANCE if name not in result]
    if missing:
        raise ValueError(f"{path.name} does not say its {', '.join(missing)}")
    figures: dict[str, float] = result["figures"]
    for key, value in figures.items():
        if not DOTTED.fullmatch(key):
            raise ValueError(f"{path.name}: {key!r} is no dotted key such as memory.write.ratio")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{path.name}: {key} is {value!r}, not a finite number")
    return figures | _minutes(path.stem, result)


def _minutes(name: str, result: dict[str, Any]) -> dict[str, float]:
    """How long the trainings of a result took, also where it was written by a resumed run."""
    reports = {"report": result.get("report")}
    reports |= {f"reports.{one}": report for one, report in result.get("reports", {}).items()}
    return {
        f"{name}.{one}.minutes": round(report["seconds"] / 60, 2)
        for one, report in reports.items()
        if report and "seconds" in report
    }


if __name__ == "__main__":
    sys.exit(main())
