"""Training an encoder under a memory, episode by episode, with exact resume."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rarememory.base.files import write_atomically
from rarememory.base.state import EMPTY, Recall
from rarememory.data.episodes import Episode, sightings_of
from rarememory.memory import Memory
from rarememory.memory.losses import vote_loss
from rarememory.training.config import Recipe
from rarememory.training.ema import AveragedWeights
from rarememory.training.hard_classes import HardClassSampler
from rarememory.training.optimizer import MuonAndAdamW
from rarememory.training.precision import encoder_autocast


class Step(NamedTuple):
    """The loss and accuracy of one step of training: `step` are done, this one included.

    `accuracy` is that of the last sighting of the episode. Both numbers stay on the device:
    reading them makes the host wait for a GPU, so read them only now and then.

    Example:
        >>> done = Step(step=7, loss=torch.tensor(0.125), accuracy=torch.tensor(0.5))
        >>> print(f"step {done.step}: loss {float(done.loss)}, {float(done.accuracy):.0%} right")
        step 7: loss 0.125, 50% right
    """

    step: int
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class Training:
    """An encoder, its averaged weights, the memory over them and the optimizer, step by step.

    Args:
        encoder: images [batch, 1, height, width] in [0, 1] to [batch, key_dim].
        memory: at least n_way * n_sightings slots, cleared at every step; with
            `Recipe(cleared=False)`, slots for all classes.
        images: uint8 drawings of the classes to learn from.
        recipe: how to train.
        families: of the classes; two of one family, such as a character and its mirror image, do
            not meet in an episode. If None, each class is a family of its own.

    Raises:
        ValueError: the memory has fewer slots than an episode needs, or there are fewer families
            than an episode has classes.

    Example:
        >>> from rarememory.backbones import Conv4
        >>> from rarememory.data import draw_glyphs
        >>> recipe = Recipe(steps=2, n_way=4)
        >>> training = Training(Conv4(16), Memory(16, 8), draw_glyphs(8, 4).images, recipe)
        >>> training.advance().step
        1
    """

    def __init__(
        self,
        encoder: nn.Module,
        memory: Memory,
        images: UInt8[Tensor, "classes drawings height width"],
        recipe: Recipe,
        families: Int64[Tensor, " classes"] | None = None,
    ) -> None:
        slots, needed = len(memory.values), recipe.n_way * recipe.n_sightings
        if recipe.cleared and slots < needed:
            raise ValueError(
                f"the memory has {slots} slots, and an episode of {recipe.n_way} classes seen "
                f"{recipe.n_sightings} times needs {needed}"
            )
        self.encoder = encoder
        self.averaged = AveragedWeights(encoder, recipe.averaging)
        self.memory = memory
        self.device = next(encoder.parameters()).device
        self.images = images.to(self.device)
        families = torch.arange(len(images)) if families is None else families
        self.hard_classes = HardClassSampler(
            families.cpu(), memory.keys.shape[1], validate=memory.validate
        ).to(self.device)
        digest = hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest()
        self._digest = f"{list(images.shape)} {digest[:12]}"
        self.recipe = recipe
        # LambdaLR multiplies the initial rate, 1, by that of the recipe.
        self.optimizer = MuonAndAdamW(
            [*encoder.parameters(), *memory.parameters()], 1.0, weight_decay=recipe.weight_decay
        )
        self.schedule = LambdaLR(self.optimizer, lambda step: recipe.learning_rate_at(step))
        self.generator = Generator().manual_seed(recipe.seed)
        self.step = 0
        # Spent training, over all interruptions.
        self.seconds = 0.0

    def advance(self) -> Step:
        """Train on one episode."""
        begin = time.perf_counter()
        episode = self._episode()
        self.encoder.train()
        with self._seeded_dropout(), encoder_autocast(self.device, self.recipe.bfloat16):
            embeddings = self.encoder(self._images_of(episode))
        embeddings = embeddings.float().view(*episode.labels.shape, -1)
        labels = episode.labels if self.recipe.cleared else episode.classes
        loss, accuracy = self._episode_loss(embeddings, labels)
        self.hard_classes.write(embeddings, episode.classes)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.encoder)
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return Step(self.step, loss.detach(), accuracy)

    @contextmanager
    def _seeded_dropout(self) -> Iterator[None]:
        """Dropout draws from torch's global generator: here it depends on seed and step alone."""
        with torch.random.fork_rng([] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(1_000_003 * self.recipe.seed + self.step)
            yield

    def _episode(self) -> Episode:
        recipe = self.recipe
        random = self.step < recipe.random_part * recipe.steps
        classes = self.hard_classes.choose(
            recipe.n_way, group=1 if random else recipe.group, generator=self.generator
        )
        n_drawings, n_sightings = self.images.shape[1], recipe.n_sightings
        return sightings_of(classes, n_drawings, n_sightings=n_sightings, generator=self.generator)

    def _images_of(self, episode: Episode) -> Float[Tensor, "batch 1 height width"]:
        images = self.images[episode.classes, episode.drawings].flatten(0, 1).unsqueeze(1) / 255
        jitter = self.recipe.jitter_at(self.step)
        if jitter is not None:
            images = jitter(images, self.generator)
        return images.contiguous(memory_format=torch.channels_last)

    def _episode_loss(
        self,
        embeddings: Float[Tensor, "sightings n_way key_dim"],
        labels: Int64[Tensor, "sightings n_way"],
    ) -> tuple[Tensor, Tensor]:
        """The losses of all sightings, and the accuracy at the last."""
        forward, accuracy = self._pass_loss(embeddings, labels)
        if not self.recipe.both_ways or not self.recipe.cleared:
            return forward, accuracy
        backward, _ = self._pass_loss(embeddings.flip(0), labels.flip(0))
        return (forward + backward) / 2, accuracy

    def _pass_loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the sightings in this order: each is read, and then written."""
        recipe, loss = self.recipe, embeddings.new_zeros(())
        if recipe.cleared:
            self.memory.clear()
        k = len(self.memory.values) if recipe.cleared else recipe.n_neighbors
        for queries, targets in zip(embeddings, labels, strict=True):
            recall = self.memory(queries, targets, k=k)
            scores, values = recall.scores, recall.values
            if not recipe.cleared:
                scores, values = self._with_positive(recall, targets)
            vote = vote_loss(scores, values, targets, recall.temperature)
            loss = loss + recipe.margin_weight * recall.loss + recipe.vote_weight * vote
            hits = self.memory.write(recall, targets).hits
        return loss, hits.float().mean()

    def _with_positive(self, recall: Recall, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and values of the neighbors and, as in the authors' code, the nearest positive."""
        pair = self.memory(recall.queries, labels)
        negative = pair.values != labels.unsqueeze(1)
        positive = pair.slots.masked_fill(negative, EMPTY)
        repeated = (recall.slots.unsqueeze(2) == positive.unsqueeze(1)).any(dim=2)
        scores = (
            pair.scores.masked_fill(negative, -torch.inf),
            recall.scores.masked_fill(repeated, -torch.inf),
        )
        return torch.cat(scores, dim=1), torch.cat([pair.values, recall.values], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs to give the same result to the bit."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "identity": self._identity(),
            **{name: part.state_dict() for name, part in self._parts().items()},
            "generator": self.generator.get_state(),
        }

    def _identity(self) -> dict[str, str]:
        """What must be the same for a training to be the same."""
        return {"recipe": repr(self.recipe), "layers": repr(self.encoder), "images": self._digest}

    def _parts(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "averaged": self.averaged,
            "memory": self.memory,
            "hard_classes": self.hard_classes.memory,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state.

        Raises:
            ValueError: it is of another recipe, another encoder, other images or an older version.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(missing))}: it is of an older version; "
                "start again with another file"
            )
        for name, mine in self._identity().items():
            if state["identity"][name] != mine:
                raise ValueError(
                    f"the checkpoint is of other {name}, {state['identity'][name]}, and this "
                    f"training of {mine}: go on with those, or start again with another file"
                )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]


def train(
    training: Training,
    *,
    checkpoint: Path | None = None,
    every: int = 50,
    watch: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train to the last step, from the checkpoint if there is one.

    A checkpoint is written every `every` steps and at the end, whole or not at all: after an
    interruption (Ctrl-C), the same call resumes from the last one and gives the same result.
    Before each, the weights are checked to be finite.

    Args:
        training: what to train.
        checkpoint: its file; None writes none.
        every: steps between checkpoints.
        watch: called with every step, to show progress.

    Raises:
        ValueError: the checkpoint is of another training.
        RuntimeError: the training has diverged; the last checkpoint is from before.

    Example:
        >>> from rarememory.backbones import Conv4
        >>> from rarememory.data import draw_glyphs
        >>> recipe = Recipe(steps=3, n_way=4)
        >>> training = Training(Conv4(16), Memory(16, 8), draw_glyphs(8, 4).images, recipe)
        >>> train(training, watch=lambda step: print(step.step, "of", recipe.steps))
        1 of 3
        2 of 3
        3 of 3
    """
    if checkpoint is not None and checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    while training.step < training.recipe.steps:
        step = training.advance()
        watch(step)
        if step.step % every == 0 or step.step == training.recipe.steps:
            _check_weights(training)
            if checkpoint is not None:
                save = partial(torch.save, training.state_dict())
                write_atomically(checkpoint, save, parents=True)


def _check_weights(training: Training) -> None:
    weights = training.encoder.parameters()
    if not torch.stack([weight.isfinite().all() for weight in weights]).all():
        raise RuntimeError(
            f"after step {training.step} a weight is not finite: the training has diverged; "
            f"try a lower learning_rate than {training.recipe.learning_rate}"
        )
