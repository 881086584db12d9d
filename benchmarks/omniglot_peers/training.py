"""Training a peer by its own loss: the memory's drawings, optimiser and averaging, its episodes."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from benchmarks.omniglot_peers.drawings import Images
from benchmarks.omniglot_peers.tasks import Scores
from rarememory.data import support_query_episode
from rarememory.training import Recipe
from rarememory.training.ema import AveragedWeights
from rarememory.training.optimizer import MuonAndAdamW
from rarememory.training.precision import encoder_autocast

WAY, QUERIES = 60, 5
"""Classes of a training episode, and queries of each, as Snell et al. 2017 train on Omniglot."""
PARTS = 5
"""How often a training is looked at: the curve of its validation."""


class Course(NamedTuple):
    """What a peer learns by: its rule, shots, learning rate, and how many drawings it may see."""

    scores: Scores
    shot: int
    rate: float
    drawings: int

    @property
    def steps(self) -> int:
        """Episodes that these drawings make."""
        return max(1, self.drawings // self.drawings_a_step)

    @property
    def drawings_a_step(self) -> int:
        """Drawings of an episode."""
        return WAY * (self.shot + QUERIES)


class PeerTraining:
    """An encoder, its averaged weights and its optimiser, episode by episode.

    What is no part of a peer's own method is the recipe's: the optimiser, weight decay, warmup,
    averaging, jitter, precision and seed.
    """

    def __init__(self, encoder: nn.Module, images: Images, course: Course, recipe: Recipe) -> None:
        self.encoder = encoder
        self.images = images
        self.course = course
        self.recipe = replace(recipe, steps=course.steps, learning_rate=course.rate)
        self.averaged = AveragedWeights(encoder, recipe.averaging)
        self.optimizer = MuonAndAdamW(encoder.parameters(), 1.0, weight_decay=recipe.weight_decay)
        self.schedule = LambdaLR(self.optimizer, lambda step: self.recipe.learning_rate_at(step))
        self.generator = Generator().manual_seed(recipe.seed)
        self.step = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []

    @property
    def name(self) -> str:
        """Twelve digits that tell trainings apart: none goes on from another's checkpoint."""
        scores, *numbers = self.course
        facts = (_told(scores), numbers, self.recipe, self.encoder, WAY, QUERIES)
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()[:12]

    def advance(self) -> float:
        """Train on one episode; return its loss."""
        begin = time.perf_counter()
        torch.manual_seed(1_000_003 * self.recipe.seed + self.step)
        shot = self.course.shot
        support, query = support_query_episode(
            *self.images.shape[:2],
            n_way=WAY,
            n_shot=shot,
            n_query=QUERIES,
            generator=self.generator,
        )
        drawn = torch.cat([episode.drawings for episode in (support, query)], dim=1)
        classes = support.classes[:, :1].expand_as(drawn)
        embeddings = self._embedded(self.images[classes, drawn])
        scores = self.course.scores(embeddings[:, :shot], embeddings[:, shot:].flatten(0, 1))
        loss = cross_entropy(scores, query.labels.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.encoder)
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return loss.item()

    def _embedded(self, images: Images) -> Tensor:
        self.encoder.train()
        ink = images.flatten(0, 1).unsqueeze(1) / 255
        if self.recipe.jitter is not None:
            ink = self.recipe.jitter(ink, self.generator)
        with encoder_autocast(ink.device, self.recipe.bfloat16):
            embeddings: Tensor = self.encoder(ink.contiguous(memory_format=torch.channels_last))
        return embeddings.float().view(*images.shape[:2], -1)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs to go on to the bit."""
        parts = ("encoder", "averaged", "optimizer", "schedule")
        return {
            **{part: getattr(self, part).state_dict() for part in parts},
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for part in ("optimizer", "encoder", "averaged", "schedule"):
            getattr(self, part).load_state_dict(state[part])
        self.generator.set_state(state["generator"])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]


def train(
    training: PeerTraining,
    name: str,
    validate: Callable[[nn.Module], float],
    folder: Path,
    every: int = 50,
) -> None:
    """To the last step, looked at on the way; a checkpoint in the folder is gone on from.

    Args:
        training: what to train.
        name: what the bar says.
        validate: the accuracy of an encoder on the validation characters.
        folder: of checkpoints.
        every: steps between checkpoints.
    """
    checkpoint = folder / f"peer_{training.name}.pt"
    if checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint, weights_only=True))
    steps = training.course.steps
    looks = {-(-steps * part // PARTS) for part in range(1, PARTS + 1)}
    with tqdm(total=steps, initial=training.step, desc=name, unit="step") as bar:
        while training.step < steps:
            loss = training.advance()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            if training.step in looks:
                seen = training.step * training.course.drawings_a_step
                training.curve.append((seen, validate(training.averaged.module)))
            if training.step % every == 0 or training.step in looks:
                _keep(training.state_dict(), checkpoint)


def _keep(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    torch.save(state, draft)
    draft.replace(path)


def _told(scores: Scores) -> str:
    """The rule by name, and by its numbers if it has been given some."""
    rule = getattr(scores, "func", scores)
    return f"{rule.__name__} {getattr(scores, 'keywords', {})}"
