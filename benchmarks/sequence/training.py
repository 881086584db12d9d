"""Training a translator."""

from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.resumable import ResumableTraining
from benchmarks.sequence.batches import ordered_batches
from benchmarks.sequence.measuring import accuracy, fill_memory
from benchmarks.sequence.networks import NETWORKS as NETWORKS
from benchmarks.sequence.task import Examples, Task
from benchmarks.sequence.translator import Translator
from rarememory import Memory


@dataclass(frozen=True)
class Recipe:
    """How to build and train.

    Args:
        parts: of each epoch; the memory is cleared before each part.
        batch: examples of a step.
        learning_rate: the highest; it rises for a tenth of the steps, then falls as a cosine.
        token_width: of an embedded output token.
        key_dim: of the memory.
        memory_size: of the memory.
        k: neighbours that are read.
        seed: of the weights, the order of the examples, and the memory.
    """

    parts: tuple[int, ...] = (16, 1)
    batch: int = 64
    learning_rate: float = 2e-3
    token_width: int = 64
    key_dim: int = 64
    memory_size: int = 24_000
    k: int = 16
    seed: int = 0


def untrained(name: str, with_memory: bool, task: Task, recipe: Recipe) -> Translator:
    """An untrained translator; with or without a memory, from the same seed."""
    torch.manual_seed(recipe.seed)
    network = NETWORKS[name](recipe.token_width, reach=task.digits)
    memory = None
    if with_memory:
        memory = Memory(recipe.key_dim, recipe.memory_size, k=recipe.k, seed=recipe.seed)
    return Translator(network, task.n_tokens, recipe.token_width, memory)


class Training(ResumableTraining):
    """A translator and its optimiser; a step is one batch."""

    parts = ("translator", "optimizer", "schedule")

    def __init__(
        self, translator: Translator, examples: Examples, held_out: Examples, recipe: Recipe
    ) -> None:
        self.translator, self.examples, self.held_out = translator, examples, held_out
        self.optimizer = torch.optim.AdamW(
            translator.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        parts, size = recipe.parts, recipe.batch
        self.batches = ordered_batches(examples, parts=parts, size=size, seed=recipe.seed)
        super().__init__(facts=repr(recipe), steps=len(self.batches), seed=recipe.seed)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=self.steps, pct_start=0.1
        )

    @property
    def epoch_ends(self) -> set[int]:
        """The steps after which an epoch ends."""
        return {step for step, batch in enumerate(self.batches, 1) if batch.ends_epoch}

    def held_out_accuracy(self) -> float:
        """With the memory filled anew."""
        fill_memory(self.translator, self.examples)
        return accuracy(self.translator, self.held_out).mean

    def advance(self) -> float:
        """Train on one batch and return its loss."""
        batch, memory = self.batches[self.step], self.translator.memory
        examples = self.examples.at(batch.rows)
        if memory is not None and batch.clears:
            memory.clear()
        steps = self.translator(examples, learn=True)
        loss = self.translator.loss(steps, examples)
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.translator.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        if memory is not None and steps.recall is not None:
            memory.write(steps.recall, examples.targets)
        return loss.item()
