"""The classifier that exists already: torchvision's resnet18, trained with softmax."""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor, nn
from torchvision.models import resnet18
from tqdm import tqdm

from benchmarks.generalised.drawings import TRAIN, drawn, pixels
from benchmarks.generalised.rivals import Task, balanced, class_means, grown
from rarememory.data import Characters, Jitter
from rarememory.training.precision import encoder_autocast

BATCH = 128


def trained_host(old: Characters, checkpoint: Path, *, epochs: int, seed: int) -> nn.Module:
    """A resnet18 for these classes, in evaluation mode; a checkpoint is gone on from.

    It is trained by AdamW on a one-cycle schedule, in bfloat16 where the chip computes in it, on
    drawings jittered anew in every epoch.
    """
    torch.manual_seed(seed)
    model: nn.Module = resnet18(num_classes=len(old)).to(memory_format=torch.channels_last)
    images = drawn(old, TRAIN).images
    labels = torch.arange(len(old)).repeat_interleave(len(images) // len(old))
    training = SoftmaxTraining(model, len(labels), epochs=epochs, rate=2e-3, seed=seed)
    for _ in training.epochs_of(checkpoint, "training the host"):
        order = torch.randperm(len(labels), generator=training.generator)
        training.epoch(images[order], labels[order])
    return model.eval()


def tuned_host(
    host: nn.Module,
    images: UInt8[Tensor, "examples height width"],
    task: Task,
    checkpoint: Path,
    *,
    epochs: int,
    seed: int,
) -> tuple[nn.Module, float]:
    """The rival that trains everything on: the whole host, over all classes; and its seconds.

    Its head begins as it is imprinted, and in each epoch every class, old or new, is seen equally
    often, jittered anew. It changes the host that it is given.

    Args:
        host: as it was trained; it is changed.
        images: of the examples that the task teaches.
        task: the classes of those, and what the host makes of them.
        checkpoint: gone on from if it is there.
        epochs: of as many examples of each class as the largest has.
        seed: of order and jitter.
    """
    host.fc = grown(task.head, class_means(task)[task.n_old :])
    labels: Int64[Tensor, " examples"] = task.taught.classes
    rows_an_epoch = int(labels.bincount().max()) * task.n_classes
    training = SoftmaxTraining(host, rows_an_epoch, epochs=epochs, rate=1e-3, seed=seed)
    for _ in training.epochs_of(checkpoint, "fine-tuning everything"):
        rows = balanced(labels, training.generator)
        training.epoch(images[rows], labels[rows])
    return host.eval(), training.seconds


class SoftmaxTraining:
    """Training of a classifier by cross-entropy, an epoch at a time."""

    def __init__(
        self, model: nn.Module, examples: int, *, epochs: int, rate: float, seed: int
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.generator = Generator().manual_seed(seed)
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=epochs * -(-examples // BATCH)
        )

    def epochs_of(self, checkpoint: Path, name: str) -> "tqdm[int]":
        """The epochs that are still to come, each kept in the checkpoint when it is over."""
        start = self._resumed(checkpoint)

        def each() -> Any:
            for epoch in range(start, self.epochs):
                yield epoch
                self._keep(checkpoint, epoch + 1)

        return tqdm(each(), name, initial=start, total=self.epochs, unit="epoch")

    def epoch(self, images: UInt8[Tensor, "examples height width"], labels: Tensor) -> None:
        """One pass over the examples, jittered anew."""
        begin = time.perf_counter()
        self.model.train()
        jitter = Jitter()
        for some, right in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            ink = jitter(some.unsqueeze(1).float(), self.generator).squeeze(1)
            with encoder_autocast(some.device):
                logits = self.model(pixels(ink))
            loss = nn.functional.cross_entropy(logits.float(), right)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        self.seconds += time.perf_counter() - begin

    def _keep(self, checkpoint: Path, epochs: int) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".partial")
        torch.save({"epochs": epochs, **self._state()}, partial)
        partial.replace(checkpoint)

    def _resumed(self, checkpoint: Path) -> int:
        """Go on from a checkpoint, if there is one; the number of epochs that it has had."""
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, weights_only=True)
        if state["schedule"]["total_steps"] != self.schedule.total_steps:
            raise ValueError(f"{str(checkpoint)!r} is of a run of other epochs: remove it")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.seconds = state["seconds"]
        return int(state["epochs"])

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "seconds": self.seconds,
        }
