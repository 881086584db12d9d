"""What the benchmarks' commands share: how they end, and what they say of their options."""

import argparse
import sys
from collections.abc import Callable, Sequence

SPLITS = ("hashed", "folders", "five")
"""Splits that have names; any other is a folder of lists."""


def exit_status(run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Run; say in a sentence what went wrong, and that an interrupted run can go on."""
    try:
        run(options)
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        # Python shows the text of a KeyError in quotes.
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def add_omniglot(parser: argparse.ArgumentParser) -> None:
    """The options of where Omniglot is, and how it is split."""
    parser.add_argument(
        "--data", help="folder with Omniglot's zips or folders (default: download into data/)"
    )
    parser.add_argument(
        "--split", default="hashed", help=f"{', '.join(SPLITS)}, or a folder of lists"
    )


def at_defaults(
    parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str]
) -> bool:
    """Whether none of these options was changed: then the result is one to publish."""
    return all(getattr(options, name) == parser.get_default(name) for name in names)


def told(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The options that decide the figures; folders by what they hold, not by where they are."""
    said = ["--data", "<omniglot>"] if options.data else []
    said += ["--split", options.split if options.split in SPLITS else "<lists>"]
    for name in names:
        value = getattr(options, name)
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            said += [option] if value else []
        else:
            said += [option, *map(str, value if isinstance(value, list) else [value])]
    return said
