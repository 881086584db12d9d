"""Train an encoder of Omniglot's characters under a memory, with checkpoints and a progress bar."""

import hashlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from rarememory import Memory
from rarememory.backbones import BACKBONES, Backbone, Ensemble
from rarememory.backbones.whitening import append_projection, whitening
from rarememory.data import Characters, Split, checksum, families, is_upright
from rarememory.evaluation import embed, sighting_accuracy
from rarememory.training import Recipe, Step, Training, train

KEY_DIM = 256
TEMPERATURE = 0.1
SHRINKAGE = 0.5


class Trained(NamedTuple):
    """An encoder with the weights that are in its file, and how it was trained."""

    encoder: Backbone
    recipe: Recipe
    parameters: int
    seconds: float
    weights_sha256: str


def trained(characters: Characters, split: Split, options: Namespace, seed: int) -> Trained:
    """Train an encoder, or resume from its checkpoint; its weights are written beside that.

    With `options.validate` 0 it is trained on the validation characters as well. It ends in a
    whitening map: drawings of one training character then vary equally in every direction.
    """
    torch.manual_seed(seed)
    chosen = characters.select(split.train + (() if options.validate else split.validation))
    training = _training(chosen.mirrored(), options, seed)
    # One for each split: no encoder may be tested on what it was trained on.
    checkpoint = Path(f"runs/omniglot_{checksum(split)}_{options.backbone}_{seed}.pt")
    validation = characters.select(split.validation)

    def validate(step: int) -> None:
        if options.validate and step % options.validate == 0:
            found = _validated(training, validation, min(100, options.episodes))
            tqdm.write(f"step {step}: validation, {found}")

    train_with_bar(training, checkpoint, after=validate)
    encoder = cast(Backbone, training.averaged.module)
    _whiten(encoder, chosen)
    # What is tested is what is written.
    encoder.load_state_dict(_halved(encoder))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    digest = save_weights(encoder, checkpoint.with_suffix(".safetensors"))
    return Trained(encoder, training.recipe, parameters, training.seconds, digest)


def side_by_side(encoders: Sequence[Backbone]) -> Backbone | Ensemble:
    """All of them as one encoder."""
    return Ensemble(encoders) if len(encoders) > 1 else encoders[0]


def save_weights(encoder: nn.Module, path: Path) -> str:
    """Write its weights in half precision, and return the SHA-256 of the file."""
    content = save(_halved(encoder))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _training(characters: Characters, options: Namespace, seed: int) -> Training:
    recipe = Recipe(steps=options.steps, n_way=options.train_ways, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    slots = recipe.n_way * recipe.n_sightings
    # Validation makes the host wait for the GPU, and these inputs are valid.
    memory = Memory(KEY_DIM, slots, temperature=TEMPERATURE, validate=False, seed=seed).to(device)
    encoder: nn.Module = BACKBONES[options.backbone](KEY_DIM)
    encoder = encoder.to(device).to(memory_format=torch.channels_last)
    return Training(encoder, memory, characters.images, recipe, families(characters.names))


def train_with_bar(
    training: Training,
    checkpoint: Path,
    name: str = "training",
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Train, or resume from the checkpoint, and show loss and accuracy; call `after` every step."""
    with tqdm(total=training.recipe.steps, desc=name, unit="step", smoothing=0.05) as shown:

        def watch(step: Step) -> None:
            shown.update(step.step - shown.n)
            if step.step % 20 == 0:
                # Reading them makes the host wait for the GPU.
                loss, accuracy = f"{float(step.loss):.3f}", f"{float(step.accuracy):.1%}"
                shown.set_postfix(loss=loss, accuracy=accuracy)
            after(step.step)

        train(training, checkpoint=checkpoint, watch=watch)


def _validated(training: Training, validation: Characters, episodes: int) -> str:
    embeddings = embed(training.averaged, validation.images)
    by_sighting = sighting_accuracy(Memory(KEY_DIM, 120), embeddings, n_way=20, n_episodes=episodes)
    return f"20-way 1-shot {by_sighting[1]}, 5-shot {by_sighting[5]}"


def _halved(encoder: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in encoder.state_dict().items()
    }


def _whiten(encoder: nn.Module, characters: Characters) -> None:
    upright = characters.select([name for name in characters.names if is_upright(name)])
    embeddings = normalize(embed(encoder, upright.images), dim=-1)
    labels = [name for name in upright.names for _ in range(upright.drawings)]
    append_projection(encoder, whitening(embeddings.flatten(0, 1), labels, SHRINKAGE))
