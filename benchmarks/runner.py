"""What all benchmarks share: their options, exit status, result file and tables."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import results
from rarememory.evaluation import Bar

SPLITS = ("hashed", "folders", "five")
"""Splits that have names; any other is a folder of lists."""
OMNIGLOT = "folder with Omniglot's zips or folders; downloaded into data/ if it is left out"


class Run:
    """One call of a benchmark.

    Attributes:
        options: as they were parsed.
        published: whether every option that decides the figures has its default.
        command: what reproduces it; folders by what they hold, not by where they are.
    """

    def __init__(self, options: argparse.Namespace, command: str, *, published: bool) -> None:
        self.options, self.command, self.published = options, command, published
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._begin

    def write(self, name: str, figures: dict[str, float], **details: Any) -> Path:
        """Write `<name>.json`: the figures, what reproduces them, and further details."""
        seed = details.pop("seed", getattr(self.options, "seed", 0))
        details = {"wall_seconds": round(self.seconds), **details}
        # A run with other options does not replace a published result.
        runs = Path(getattr(self.options, "runs", results.RUNS))
        given = {"folder": results.RESULTS if self.published else runs, "seed": seed}
        return results.write_result(name, figures, command=self.command, **given, **details)


class Benchmark:
    """The command line of `python -m module`; `--help` shows the description."""

    def __init__(self, module: str, description: str | None) -> None:
        self.module = module
        self.parser = argparse.ArgumentParser(f"python -m {module}", description=description)
        self.parser.formatter_class = argparse.RawDescriptionHelpFormatter
        self._decisive: list[argparse.Action] = []
        self._data = "omniglot"

    def add(self, *flags: str, decisive: bool = True, **settings: Any) -> None:
        """Add an option, as argparse does; a `decisive` one decides the figures."""
        help_ = settings.get("help", "")
        if settings.get("default") is not None and "%(default)s" not in help_:
            settings["help"] = f"{help_} (default: %(default)s)".lstrip()
        action = self.parser.add_argument(*flags, **settings)
        if decisive:
            self._decisive.append(action)

    def add_data(self, of: str = "omniglot", text: str = OMNIGLOT) -> None:
        """Add the option of where the data are."""
        self._data = of
        self.add("--data", decisive=False, help=text)

    def add_omniglot(self) -> None:
        """Add the options of where Omniglot is and how it is split."""
        self.add_data()
        text = f"{', '.join(SPLITS)}, or a folder of lists"
        self.add("--split", decisive=False, default="hashed", help=text)

    def parse(self, arguments: Sequence[str] | None = None) -> Run:
        """Parse the options."""
        options = self.parser.parse_args(arguments)
        command = ["python -m", self.module]
        if getattr(options, "data", None):
            command += ["--data", f"<{self._data}>"]
        if hasattr(options, "split"):
            command += ["--split", options.split if options.split in SPLITS else "<lists>"]
        for action in self._decisive:
            command += _words(action, getattr(options, action.dest))
        published = all(getattr(options, one.dest) == one.default for one in self._decisive)
        return Run(options, " ".join(command), published=published)

    def __call__(self, run: Callable[[Run], None]) -> Callable[..., int]:
        """Make the function a command: options are parsed, and the exit status is returned.

        The status is 1 after an error, which is one sentence on stderr, and 130 after Ctrl-C.
        """

        @wraps(run)
        def command(arguments: Sequence[str] | None = None) -> int:
            call = self.parse(arguments)
            try:
                run(call)
            except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
                # Python shows the text of a KeyError in quotes.
                print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                text = "interrupted; the same command goes on from what is finished"
                print(f"\n{text}", file=sys.stderr)
                return 130
            return 0

        return command


def bar(name: str, unit: str = "episode") -> Bar:
    """A progress bar of this name that is removed when it is full."""
    return partial(tqdm, desc=name, unit=unit, leave=False)


def print_figures(figures: dict[str, float]) -> None:
    """One figure per line."""
    for key, figure in figures.items():
        print(f"{key:64} {figure:8.2f}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str) -> None:
    """A table in the terminal."""
    # MAML runs in an environment without rich.
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def _words(action: argparse.Action, value: Any) -> list[str]:
    """The option and its value as they are typed; nothing for one that is left out."""
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [flag] if value == action.const else []
    if value is None:
        return []
    if isinstance(value, tuple):
        return [flag, ",".join(map(str, value))]
    return [flag, *map(str, value if isinstance(value, list) else [value])]
