"""The settings of a training."""

import math
from dataclasses import dataclass, field

from rarememory.data.jitter import Jitter

FINAL_JITTER_SCALE = 0.4
"""Factor of the jitter in the last steps of a training (`Recipe.gentle_part`)."""


@dataclass(frozen=True)
class Recipe:
    """How to train: the episodes, the losses, the optimizer.

    The memory is cleared for every episode, of n_way classes each seen n_sightings times. The loss
    of a sighting is margin_weight times the memory loss plus vote_weight times the negative
    log-likelihood of the memory's vote. Which classes meet in an episode is chosen by a second
    memory, of all classes (`HardClassSampler`).

    Args:
        cleared: clear the memory before every episode, as the authors' code does. With False one
            memory lasts for the whole training and holds classes, not places in an episode; every
            query is asked among all classes so far, and `both_ways` has no effect.
        n_neighbors: how many vote where `cleared` is False, beside the nearest of the right class.
        group: classes of an episode that are chosen to look alike; with 1 all are random.
        random_part: part of the steps before the first such episode.
        both_ways: show each episode in reverse order too, so that every drawing is a query once.
        warmup: part of the steps in which the learning rate rises; then it falls as a cosine.
        averaging: decay of the exponential average of the weights.
        jitter: of the drawings; None leaves them as they are.
        gentle_part: the last part of the steps, in which the jitter is scaled by
            `FINAL_JITTER_SCALE`, so that training ends on drawings close to the real ones.
        bfloat16: encode under bfloat16 autocast; None does so where the device computes in it.
        seed: of the episodes, the jitter and the encoder's dropout.

    Example:
        >>> from dataclasses import replace
        >>> quick = Recipe(steps=100, n_way=16, jitter=None)
        >>> replace(quick, seed=1).steps
        100
    """

    steps: int = 7200
    n_way: int = 128
    n_sightings: int = 2
    cleared: bool = True
    n_neighbors: int = 256
    group: int = 8
    random_part: float = 0.25
    both_ways: bool = True
    margin_weight: float = 1.0
    vote_weight: float = 1.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    averaging: float = 0.999
    jitter: Jitter | None = field(default_factory=lambda: Jitter(bend=0.025))
    gentle_part: float = 0.2
    bfloat16: bool | None = None
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """A linear rise, then half a cosine down to zero.

        Args:
            step: counted from 0.
        """
        part, warmup = step / self.steps, self.warmup
        if part < warmup:
            return self.learning_rate * part / warmup
        return self.learning_rate * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup))) / 2

    def jitter_at(self, step: int) -> Jitter | None:
        """The jitter; in the last part of the steps, scaled by `FINAL_JITTER_SCALE`.

        Args:
            step: counted from 0.
        """
        if self.jitter is None or step < self.steps * (1 - self.gentle_part):
            return self.jitter
        return self.jitter.scaled(FINAL_JITTER_SCALE)
