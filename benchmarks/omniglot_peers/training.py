"""Training a peer by its own loss: the memory's drawings, optimiser and averaging, its episodes."""

import hashlib
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.omniglot_peers.drawings import Images
from benchmarks.omniglot_peers.tasks import Scores
from benchmarks.resumable import ResumableTraining
from rarememory.data import support_query_episode
from rarememory.training import Recipe
from rarememory.training.ema import AveragedWeights
from rarememory.training.optimizer import MuonAndAdamW
from rarememory.training.precision import encoder_autocast

WAY, QUERIES = 60, 5
"""Classes of a training episode, and queries of each, as Snell et al. 2017 train on Omniglot."""


class Setting(NamedTuple):
    """What a peer is trained by: its rule, shots, learning rate, and a budget of drawings."""

    scores: Scores
    shot: int
    rate: float
    drawings: int

    @property
    def steps(self) -> int:
        """Episodes that these drawings make."""
        return max(1, self.drawings // self.drawings_per_step)

    @property
    def drawings_per_step(self) -> int:
        """Drawings of an episode."""
        return WAY * (self.shot + QUERIES)


class PeerTraining(ResumableTraining):
    """An encoder, its averaged weights and its optimiser, episode by episode.

    What is no part of a peer's own method is the recipe's: the optimiser, weight decay, warmup,
    averaging, jitter, precision and seed.
    """

    parts = ("optimizer", "encoder", "averaged", "schedule")

    def __init__(
        self, encoder: nn.Module, images: Images, setting: Setting, recipe: Recipe
    ) -> None:
        self.encoder, self.images, self.setting = encoder, images, setting
        self.recipe = replace(recipe, steps=setting.steps, learning_rate=setting.rate)
        self.averaged = AveragedWeights(encoder, recipe.averaging)
        self.optimizer = MuonAndAdamW(encoder.parameters(), 1.0, weight_decay=recipe.weight_decay)
        self.schedule = LambdaLR(self.optimizer, lambda step: self.recipe.learning_rate_at(step))
        rule, *numbers = setting
        facts = (_described(rule), numbers, self.recipe, encoder, WAY, QUERIES)
        super().__init__(facts=repr(facts), steps=setting.steps, seed=recipe.seed)

    @property
    def digest(self) -> str:
        """Names the checkpoint: none is resumed by a training with other facts or images."""
        digest = hashlib.sha256(self.facts.encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()[:12]

    def advance(self) -> float:
        """Train on one episode and return its loss."""
        torch.manual_seed(1_000_003 * self.recipe.seed + self.step)
        shot = self.setting.shot
        sizes = {"n_way": WAY, "n_shot": shot, "n_query": QUERIES}
        chosen = support_query_episode(*self.images.shape[:2], **sizes, generator=self.generator)
        support, query = chosen
        drawings = torch.cat([episode.drawings for episode in (support, query)], dim=1)
        classes = support.classes[:, :1].expand_as(drawings)
        embeddings = self._embedded(self.images[classes, drawings])
        scores = self.setting.scores(embeddings[:, :shot], embeddings[:, shot:].flatten(0, 1))
        loss = cross_entropy(scores, query.labels.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.encoder)
        return loss.item()

    def _embedded(self, images: Images) -> Tensor:
        self.encoder.train()
        ink = images.flatten(0, 1).unsqueeze(1) / 255
        if self.recipe.jitter is not None:
            ink = self.recipe.jitter(ink, self.generator)
        with encoder_autocast(ink.device, self.recipe.bfloat16):
            embeddings: Tensor = self.encoder(ink.contiguous(memory_format=torch.channels_last))
        return embeddings.float().view(*images.shape[:2], -1)


def _described(scores: Scores) -> str:
    """The rule by name, with its keyword arguments if it is a `partial`."""
    rule = getattr(scores, "func", scores)
    return f"{rule.__name__} {getattr(scores, 'keywords', {})}"
