"""One-shot learning of Omniglot's characters: train encoders under a memory, test them by episodes.

    python -m benchmarks.omniglot --data <folder> --split <folder of lists> --seeds 0 1 2

Without --data Omniglot is downloaded through torchvision. One encoder is trained for each seed:
side by side they are the encoder that is tested, and each is tested alone as well. Training keeps
checkpoints and weights in runs/: interrupt it with Ctrl-C, and the same command goes on from there.
Commands of one seed each, with --untested, may train at the same time; the whole command then tests
what they made. The result file and the curve of accuracy by sighting land in benchmarks/results, or
in runs/ if any number differs from its default.
"""

import argparse
import time
from pathlib import Path

from benchmarks.commands import add_omniglot, at_defaults, exit_status, told
from benchmarks.curves import draw_sightings
from benchmarks.omniglot.testing import alone, at_once, tested
from benchmarks.omniglot.training import KEY_DIM, keep, together, trained
from benchmarks.results import RESULTS, named, percent, write_result
from rarememory.backbones import BACKBONES
from rarememory.data import (
    Characters,
    Omniglot,
    Split,
    checksum,
    download_omniglot,
    read_omniglot,
    split_called,
)
from rarememory.training import Recipe

DECISIVE = ("backbone", "validate", "steps", "train_ways", "episodes", "sharing", "copies", "seeds")
"""Options that decide the figures: a result with all of them at their defaults is published."""


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    if options.episodes < 2:
        raise ValueError(f"--episodes is {options.episodes}: an interval needs at least 2")
    name, split, characters = _data(options)
    encoders = [trained(characters, split, options, seed) for seed in options.seeds]
    encoder = together([one.encoder for one in encoders])
    if options.weights:
        keep(encoder, Path(options.weights))
    if options.untested:
        return
    test = characters.select(split.test)
    found = tested(encoder, test, options)
    accuracies, by_seed = dict(found.accuracies), []
    if len(encoders) > 1:
        every = alone([one.encoder for one in encoders], test, options)
        accuracies |= every.mean
        by_seed = [percent(each) for each in every.by_encoder]
    figures = percent(named(f"omniglot.{name}", accuracies))
    for key, figure in figures.items():
        print(f"{key:44} {figure:7.2f}")
    # A quick try is no result to publish: it does not replace one.
    folder = RESULTS if options.published else Path("runs")
    stem = f"omniglot_{name}"
    write_result(
        stem,
        figures,
        folder=folder,
        command=" ".join(["python -m benchmarks.omniglot", *told(options, DECISIVE)]),
        seed=options.seeds[0],
        seeds=options.seeds,
        split=checksum(split),
        episodes=options.episodes,
        episodes_of_all_at_once=at_once(options),
        recipe=repr(encoders[0].recipe),
        backbone=options.backbone,
        parameters=sum(one.parameters for one in encoders),
        weights_sha256=[one.weights_sha256 for one in encoders],
        training_seconds=[round(one.seconds) for one in encoders],
        wall_seconds=round(time.perf_counter() - begin),
        by_seed=by_seed,
        accuracy_by_sighting={
            f"{way}-way": [a.mean for a in s] for way, s in found.sighting.items()
        },
    )
    print(f"drew {draw_sightings(found.sighting, folder / f'{stem}.png')}")


def _data(options: argparse.Namespace) -> tuple[str, Split, Characters]:
    """The split, its name, and all characters with their rotations."""
    size = BACKBONES[options.backbone](KEY_DIM).size
    background, evaluation = (
        part.rotated() for part in read_omniglot(options.data or download_omniglot("data"), size)
    )
    omniglot = Omniglot(background, evaluation)
    return *split_called(options.split, omniglot), omniglot.characters


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_omniglot(parser)
    add("--backbone", choices=BACKBONES, default="residual56")
    add("--steps", type=int, default=7200)
    add("--train-ways", type=int, default=Recipe.n_way, help="classes of a training episode")
    add("--episodes", type=int, default=2000, help="to test by (default: %(default)s)")
    add("--sharing", type=int, default=1, help="sighting episodes that share a memory (16: harder)")
    add("--copies", type=int, default=4, help="jittered, to average a drawing with; 0: no such row")
    add(
        *("--validate", "-v"),
        type=int,
        default=0,
        help="steps between validations; 0 learns the characters that are there to choose by too",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one encoder each (default: 0 1 2)")
    add("--weights", help="also write the encoder here, in half precision (safetensors)")
    add("--untested", action="store_true", help="train and write the weights, no more")
    options = parser.parse_args(arguments)
    options.published = at_defaults(parser, options, DECISIVE)
    return options
