"""Training an encoder under a memory, episode by episode, with exact resume."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

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
    """What one step of training saw: `step` are done, this one included.

    `accuracy` is that of the last sighting of the episode. Both numbers stay on the device: a GPU
    is waited for only when they are looked at, so look at them now and then.

    Example:
        >>> done = Step(step=7, loss=torch.tensor(0.125), accuracy=torch.tensor(0.5))
        >>> print(f"step {done.step}: loss {float(done.loss)}, {float(done.accuracy):.0%} right")
        step 7: loss 0.125, 50% right
    """

    step: int
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class Training:
    """An encoder, its averaged weights, the memory over them and the optimiser, step by step.

    Args:
        encoder: images [batch, 1, height, width] in [0, 1] to [batch, key_dim].
        memory: of at least n_way * n_sightings slots; it is cleared at every step, or else has
            room for all classes.
        images: uint8 drawings of the classes to learn from.
        recipe: how to train.
        families: of the classes; two of one family, such as a character and its mirror image, do
            not meet in an episode. Each class is one of its own if None.

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
        # LambdaLR multiplies: of a rate of 1, what is left is the recipe's own, to the bit.
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
        with self._own_dropout(), encoder_autocast(self.device, self.recipe.bfloat16):
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
        done = Step(self.step, loss.detach(), accuracy)
        self.seconds += time.perf_counter() - begin
        return done

    @contextmanager
    def _own_dropout(self) -> Iterator[None]:
        """Dropout draws from torch's own generator: here it depends on seed and step alone."""
        with torch.random.fork_rng([] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(1_000_003 * self.recipe.seed + self.step)
            yield

    def _episode(self) -> Episode:
        recipe = self.recipe
        random = self.step < recipe.random_part * recipe.steps
        classes = self.hard_classes.choose(
            recipe.n_way, group=1 if random else recipe.group, generator=self.generator
        )
        return sightings_of(
            classes,
            self.images.shape[1],
            n_sightings=recipe.n_sightings,
            generator=self.generator,
        )

    def _images_of(self, episode: Episode) -> Float[Tensor, "batch 1 height width"]:
        shown = self.images[episode.classes, episode.drawings].flatten(0, 1).unsqueeze(1) / 255
        jitter = self.recipe.jitter_at(self.step)
        if jitter is not None:
            shown = jitter(shown, self.generator)
        return shown.contiguous(memory_format=torch.channels_last)

    def _episode_loss(
        self,
        embeddings: Float[Tensor, "sightings n_way key_dim"],
        labels: Int64[Tensor, "sightings n_way"],
    ) -> tuple[Tensor, Tensor]:
        """The losses of all sightings, and the accuracy at the last."""
        forth, accuracy = self._pass_loss(embeddings, labels)
        if not self.recipe.both_ways or not self.recipe.cleared:
            return forth, accuracy
        back, _ = self._pass_loss(embeddings.flip(0), labels.flip(0))
        return (forth + back) / 2, accuracy

    def _pass_loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        recipe, loss = self.recipe, embeddings.new_zeros(())
        if recipe.cleared:
            self.memory.clear()
        for queries, right in zip(embeddings, labels, strict=True):
            k = len(self.memory.values) if recipe.cleared else recipe.n_neighbors
            recall = self.memory(queries, right, k=k)
            scores, values = recall.scores, recall.values
            if not recipe.cleared:
                scores, values = self._with_nearest_right(recall, right)
            vote = vote_loss(scores, values, right, recall.temperature)
            loss = loss + recipe.margin_weight * recall.loss + recipe.vote_weight * vote
            hits = self.memory.write(recall, right).hits
        return loss, hits.float().mean()

    def _with_nearest_right(self, recall: Recall, right: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours to vote, the nearest right one always among them, as in the authors' code."""
        pair = self.memory(recall.queries, right)
        wrong = pair.values != right.unsqueeze(1)
        own = pair.slots.masked_fill(wrong, EMPTY)
        again = (recall.slots.unsqueeze(2) == own.unsqueeze(1)).any(dim=2)
        scores = (
            pair.scores.masked_fill(wrong, -torch.inf),
            recall.scores.masked_fill(again, -torch.inf),
        )
        return torch.cat(scores, dim=1), torch.cat([pair.values, recall.values], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs to go on to the bit."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "identity": self._identity(),
            **{name: part.state_dict() for name, part in self._parts().items()},
            "generator": self.generator.get_state(),
        }

    def _parts(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "averaged": self.averaged,
            "memory": self.memory,
            "hard_classes": self.hard_classes.memory,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def _identity(self) -> dict[str, str]:
        """What must be the same for a training to be the same."""
        return {"recipe": repr(self.recipe), "layers": repr(self.encoder), "images": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state.

        Raises:
            ValueError: it is of another recipe, another encoder, other images or an older version.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(missing))}: it is of an older version; "
                "begin anew elsewhere"
            )
        for name, mine in self._identity().items():
            if state["identity"][name] != mine:
                raise ValueError(
                    f"the checkpoint is of other {name}, {state['identity'][name]}, and this "
                    f"training of {mine}: go on with those, or begin anew elsewhere"
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
    """Train to the last step; go on from the checkpoint if there is one, and keep it.

    It is written every so many steps and at the end, whole or not at all: an interruption (Ctrl-C)
    leaves the last one in place, and the same call goes on from there to the same result. As often
    it is looked whether the weights are still finite.

    Args:
        training: what to train.
        checkpoint: where to keep it; nowhere if None.
        every: steps between checkpoints.
        watch: is told of every step, to show progress.

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
                _save(training.state_dict(), checkpoint)


def _check_weights(training: Training) -> None:
    weights = training.encoder.parameters()
    if not torch.stack([weight.isfinite().all() for weight in weights]).all():
        raise RuntimeError(
            f"after step {training.step} a weight is not finite: the training has diverged; "
            f"try a lower learning_rate than {training.recipe.learning_rate}"
        )


def _save(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(path.suffix + ".part")
    torch.save(state, draft)
    os.replace(draft, path)
