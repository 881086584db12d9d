"""Training a translator, step by step, with exact resume."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.sequence.lessons import Lesson, lessons
from benchmarks.sequence.lstm import LSTM
from benchmarks.sequence.measuring import accuracy, remember
from benchmarks.sequence.modern import Modern
from benchmarks.sequence.task import Examples, Task
from benchmarks.sequence.translator import Translator
from rarememory import Memory

NETWORKS = {"lstm": LSTM, "modern": Modern}


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


def built(name: str, remembers: bool, task: Task, recipe: Recipe) -> Translator:
    """An untrained translator; with or without a memory, from the same seed."""
    torch.manual_seed(recipe.seed)
    network = NETWORKS[name](recipe.token_width, reach=task.digits)
    memory = None
    if remembers:
        memory = Memory(recipe.key_dim, recipe.memory_size, k=recipe.k, seed=recipe.seed)
    return Translator(network, task.n_tokens, recipe.token_width, memory)


class Training:
    """A translator, its optimiser, and how far they are.

    Args:
        translator: what to train.
        examples: to train on.
        held_out: examples whose accuracy is measured after each epoch, with the memory filled anew.
        recipe: how to train.
    """

    def __init__(
        self, translator: Translator, examples: Examples, held_out: Examples, recipe: Recipe
    ) -> None:
        self.translator, self.recipe = translator, recipe
        self.examples, self.held_out = examples, held_out
        self.optimizer = torch.optim.AdamW(
            translator.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.lessons = lessons(examples, parts=recipe.parts, batch=recipe.batch, seed=recipe.seed)
        self.steps = len(self.lessons)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=self.steps, pct_start=0.1
        )
        self.step = 0
        # Spent training, over all interruptions.
        self.seconds = 0.0
        # Of the held-out examples, epoch by epoch.
        self.curve: list[float] = []

    def remaining(self) -> Iterator[float]:
        """Train to the last step, giving the loss of each."""
        for lesson in self.lessons[self.step :]:
            with self._timed():
                loss = self._advance(lesson)
            if lesson.ends_epoch:
                remember(self.translator, self.examples)
                self.curve.append(accuracy(self.translator, self.held_out).mean)
            yield loss

    def _advance(self, lesson: Lesson) -> float:
        examples, memory = self.examples.at(lesson.rows), self.translator.memory
        if memory is not None and lesson.starts:
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
        self.step += 1
        return loss.item()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.seconds += time.process_time() - begin

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs to go on to the bit."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "recipe": repr(self.recipe),
            "translator": self.translator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name in ("translator", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]


def train(
    training: Training,
    checkpoint: Path,
    *,
    every: int = 50,
    watch: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train to the last step; go on from the checkpoint if there is one, and keep it.

    It is written every so many steps and at the end, whole or not at all.

    Raises:
        ValueError: the checkpoint is of another recipe.
    """
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != repr(training.recipe):
            raise ValueError(
                f"{str(checkpoint)!r} is of {state['recipe']}, and this training of "
                f"{training.recipe!r}: go on with that, or remove the file"
            )
        training.load_state_dict(state)
    for loss in training.remaining():
        watch(loss)
        if training.step % every == 0 or training.step == training.steps:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            draft = checkpoint.with_suffix(".part")
            torch.save(training.state_dict(), draft)
            os.replace(draft, checkpoint)
