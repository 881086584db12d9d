"""Trainings that go on from a checkpoint, to the bit."""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator

from rarememory.base.files import write_atomically
from rarememory.base.progress import progress_bar


class ResumableTraining:
    """A training, `step` of `steps`; a subclass defines `advance`.

    Attributes:
        parts: names of attributes with a `state_dict` of their own, in the order of loading.
        facts: what a checkpoint must have in common with a training that goes on from it.
        generator: draws the examples.
        seconds: spent in steps, over all interruptions.
        curve: what `evaluate` returned.
        clock: what seconds are read from, before a step and after it.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        facts: str,
        steps: int,
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.facts, self.steps, self.clock = facts, steps, clock
        self.generator = Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        self.curve: list[Any] = []

    def advance(self) -> float:
        """Train for one step and return its loss."""
        raise NotImplementedError

    def train(
        self,
        checkpoint: Path,
        name: str,
        *,
        every: int = 1,
        unit: str = "step",
        evaluate: Callable[[], Any] | None = None,
        evaluate_at: Collection[int] = (),
    ) -> None:
        """Train to the last step, from the checkpoint if there is one.

        The checkpoint is written after every so many steps, after an evaluation and at the end;
        what `evaluate` returns after the steps `evaluate_at` is appended to `curve`. The progress
        bar has the name and the unit.

        Raises:
            ValueError: the checkpoint is of a training with other facts.
        """
        if checkpoint.exists():
            self._resume(checkpoint)
        bar = progress_bar(total=self.steps, initial=self.step, description=name, unit=unit)
        with bar:
            while self.step < self.steps:
                begin = self.clock()
                loss = self.advance()
                self.seconds += self.clock() - begin
                self.step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                evaluated = evaluate is not None and self.step in evaluate_at
                if evaluate is not None and evaluated:
                    self.curve.append(evaluate())
                if evaluated or self.step % every == 0 or self.step == self.steps:
                    self._save(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            **{part: getattr(self, part).state_dict() for part in self.parts},
            "facts": self.facts,
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def _save(self, checkpoint: Path) -> None:
        state = self.state_dict()
        write_atomically(checkpoint, lambda path: torch.save(state, path), parents=True)

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)
        if state["facts"] != self.facts:
            mine, theirs = self.facts, state["facts"]
            raise ValueError(
                f"{str(checkpoint)!r} is of {theirs}, and this training is of {mine}: "
                "use the options of that one, or remove the file"
            )
        for part in self.parts:
            getattr(self, part).load_state_dict(state[part])
        self.generator.set_state(state["generator"])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]


def evenly_spaced(steps: int, parts: int) -> set[int]:
    """The steps at which so many equal parts end."""
    return {-(-steps * part // parts) for part in range(1, parts + 1)}
