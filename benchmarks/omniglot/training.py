"""One-shot learning of Omniglot's characters: train an encoder under a memory, test it by episodes.

    python -m benchmarks.omniglot --data <folder> --split <folder of lists>

Without --data Omniglot is downloaded through torchvision. Training keeps a checkpoint: interrupt it
with Ctrl-C, and the same command goes on from there. The result file and the curve of accuracy by
sighting land in benchmarks/results, or in runs/ if any number differs from its default.
"""

import argparse
import hashlib
import sys
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.curves import draw_sightings
from benchmarks.results import RESULTS, write_result
from rarememory import Memory
from rarememory.backbones import BACKBONES
from rarememory.data import (
    Characters,
    Omniglot,
    Split,
    checksum,
    download_omniglot,
    families,
    read_omniglot,
    split_called,
)
from rarememory.evaluation import Accuracy, Bar, both_protocols, embed, sighting_accuracy
from rarememory.training import Recipe, Step, Training, train

KEY_DIM = 128
WAYS = (5, 20)
SHOTS = (1, 5)
DECISIVE = ("backbone", "validate", "steps", "train_ways", "episodes", "sharing", "seed")
"""Options that decide the figures: a result with all of them at their defaults is published."""


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    options = _options(arguments)
    try:
        _run(options)
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        # Python shows the text of a KeyError in quotes.
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    if options.episodes < 2:
        raise ValueError(f"--episodes is {options.episodes}: an interval needs at least 2")
    torch.manual_seed(options.seed)
    name, split, characters = _data(options)
    learnt = split.train + (() if options.validate else split.validation)
    training = _training(options, characters.select(learnt).mirrored())
    # One checkpoint for each split, so that none is tested on what another has trained on.
    checkpoint = options.checkpoint or (
        f"runs/omniglot_{checksum(split)}_{options.backbone}_{options.seed}.pt"
    )
    _train(training, characters.select(split.validation), options, Path(checkpoint))
    encoder = _rounded(training.averaged.module)
    weights = save(_halved(encoder))
    if options.weights:
        Path(options.weights).parent.mkdir(parents=True, exist_ok=True)
        Path(options.weights).write_bytes(weights)
    figures, sightings = _test(encoder, characters.select(split.test), name, options)
    for key, figure in figures.items():
        print(f"{key:44} {figure:7.2f}")
    stem = f"omniglot_{name}_{options.backbone}"
    # A quick try is no result to publish: it does not replace one.
    folder = RESULTS if options.published else Path("runs")
    write_result(
        stem,
        figures,
        folder=folder,
        command=" ".join(["python -m benchmarks.omniglot", *_told(options)]),
        seed=options.seed,
        split=checksum(split),
        episodes=options.episodes,
        recipe=repr(training.recipe),
        backbone=options.backbone,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        training_seconds=round(training.seconds),
        wall_seconds=round(time.perf_counter() - begin),
        accuracy_by_sighting={f"{way}-way": [a.mean for a in s] for way, s in sightings.items()},
    )
    print(f"drew {draw_sightings(sightings, folder / f'{stem}.png')}")


def _data(options: argparse.Namespace) -> tuple[str, Split, Characters]:
    """The split, its name, and all characters with their rotations."""
    background, evaluation = (
        part.rotated()
        for part in read_omniglot(
            options.data or download_omniglot("data"), BACKBONES[options.backbone](KEY_DIM).size
        )
    )
    omniglot = Omniglot(background, evaluation)
    return *split_called(options.split, omniglot), omniglot.characters


def _training(options: argparse.Namespace, characters: Characters) -> Training:
    recipe = Recipe(steps=options.steps, n_way=options.train_ways, seed=options.seed)
    slots = recipe.n_way * recipe.n_sightings
    memory = Memory(KEY_DIM, slots, temperature=0.1, seed=options.seed)
    encoder = BACKBONES[options.backbone](KEY_DIM).to(memory_format=torch.channels_last)
    return Training(encoder, memory, characters.images, recipe, families(characters.names))


def _train(
    training: Training, validation: Characters, options: argparse.Namespace, checkpoint: Path
) -> None:
    bar = tqdm(total=options.steps, desc="training", unit="step", smoothing=0.05)
    recent: dict[str, float] = {}

    def watch(step: Step) -> None:
        bar.update(step.step - bar.n)
        for name in ("loss", "accuracy"):
            now = getattr(step, name)
            recent[name] = recent.get(name, now) + 0.05 * (now - recent.get(name, now))
        bar.set_postfix(loss=f"{recent['loss']:.3f}", accuracy=f"{100 * recent['accuracy']:.1f}")
        if options.validate and step.step % options.validate == 0:
            episodes = min(100, options.episodes)
            answered = _validated(training, validation, episodes)
            tqdm.write(f"step {step.step}: validation, {answered}")

    train(training, checkpoint=checkpoint, watch=watch)
    bar.close()


def _validated(training: Training, validation: Characters, episodes: int) -> str:
    embeddings = embed(training.averaged, validation.images)
    by_sighting = sighting_accuracy(Memory(KEY_DIM, 120), embeddings, n_way=20, n_episodes=episodes)
    return f"20-way 1-shot {by_sighting[1]}, 5-shot {by_sighting[5]}"


def _test(
    encoder: nn.Module, characters: Characters, name: str, options: argparse.Namespace
) -> tuple[dict[str, float], dict[int, list[Accuracy]]]:
    found = both_protocols(
        embed(encoder, characters.images),
        ways=WAYS,
        shots=SHOTS,
        n_episodes=options.episodes,
        n_sharing=options.sharing,
        seed=options.seed,
        bar=_bar,
    )
    figures: dict[str, float] = {}
    for (way, shot), answered in found.support.items():
        key = f"omniglot.{name}.{{}}.{way}w{shot}s"
        figures |= _percent(key.format("sighting"), found.sighting[way][shot])
        figures |= _percent(key.format("support"), answered)
    return figures, found.sighting


def _percent(key: str, accuracy: Accuracy) -> dict[str, float]:
    return {key: 100 * accuracy.mean, f"{key}.interval": 100 * accuracy.interval}


def _bar(name: str, unit: str) -> Bar:
    return partial(tqdm, desc=name, unit=unit)


def _halved(encoder: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in encoder.state_dict().items()
    }


def _rounded(encoder: nn.Module) -> nn.Module:
    """The encoder as it ships, with the weights of half precision, so that is what is tested."""
    encoder.load_state_dict(_halved(encoder))
    return encoder


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="folder with Omniglot's zips or folders (default: download into data/)")
    add("--split", default="hashed", help="hashed, folders, or a folder of lists (default: hashed)")
    add("--backbone", choices=BACKBONES, default="residual")
    add("--steps", type=int, default=9000)
    add("--train-ways", type=int, default=Recipe.n_way, help="classes of a training episode")
    add("--episodes", type=int, default=6000, help="to test by (default: %(default)s)")
    add("--sharing", type=int, default=1, help="sighting episodes that share a memory (16: harder)")
    add("--validate", type=int, default=1000, help="steps between validations; 0 trains on those characters too")
    add("--seed", type=int, default=0)
    add("--checkpoint", help="file to keep it in (default: one for each split in runs/)")
    add("--weights", help="also write the encoder here, in half precision (safetensors)")
    options = parser.parse_args(arguments)
    options.published = all(getattr(options, name) == parser.get_default(name) for name in DECISIVE)
    return options


def _told(options: argparse.Namespace) -> list[str]:
    """The options that decide the figures; folders by what they hold, not by where they are."""
    told = ["--data", "<omniglot>"] if options.data else []
    told += ["--split", options.split if options.split in ("hashed", "folders") else "<lists>"]
    for name in DECISIVE:
        told += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.weights:
        told += ["--weights", "<file>"]
    return told
