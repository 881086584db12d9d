"""Test the encoder that ships with the package, by the same protocols; nothing is trained.

    python -m benchmarks.omniglot.shipped --data <folder>

Its characters are the test characters of the Vinyals split, which it has not seen. What is kept of
its training was written by the run that trained it.
"""

import argparse
import hashlib
import json
import sys
from importlib.resources import files
from pathlib import Path

from benchmarks.commands import at_defaults, exit_status
from benchmarks.omniglot.testing import at_once, tested
from benchmarks.results import RESULTS, named, percent, write_result
from rarememory.backbones import omniglot_encoder, unseen_characters
from rarememory.data import download_omniglot, read_omniglot

STEM = "omniglot_shipped"
DECISIVE = ("episodes", "sharing", "copies")


def main(arguments: list[str] | None = None) -> int:
    """Test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    encoder = omniglot_encoder()
    drawings = read_omniglot(options.data or download_omniglot("data"), encoder.size)
    characters = drawings.characters.select(unseen_characters()).rotated()
    found = tested(encoder, characters, options)
    weights = (files("rarememory") / "weights" / "omniglot.safetensors").read_bytes()
    trained = json.loads((RESULTS / f"{STEM}.json").read_text(encoding="utf-8"))["training"]
    write_result(
        STEM,
        percent(named("omniglot.shipped", found.accuracies)),
        folder=RESULTS if options.published else Path("runs"),
        command=f"python -m benchmarks.omniglot.shipped --episodes {options.episodes}",
        seed=0,
        episodes=options.episodes,
        episodes_of_all_at_once=at_once(options),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        training=trained,
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot.shipped",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="folder with Omniglot's zips or folders (default: download into data/)")
    add("--episodes", type=int, default=2000, help="to test by (default: %(default)s)")
    add("--sharing", type=int, default=1, help="sighting episodes that share a memory")
    add("--copies", type=int, default=4, help="jittered, to average a drawing with; 0: no such row")
    options = parser.parse_args(arguments)
    options.published = at_defaults(parser, options, DECISIVE)
    return options


if __name__ == "__main__":
    sys.exit(main())
