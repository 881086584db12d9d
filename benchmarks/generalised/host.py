"""The classifier that exists already: torchvision's resnet18, trained with softmax."""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor, nn
from torchvision.models import resnet18
from tqdm import tqdm

from benchmarks.generalised.drawings import TRAIN, examples, pixels
from rarememory.data import Jitter

BATCH = 128


def trained_host(
    images: UInt8[Tensor, "classes drawings height width"],
    checkpoint: Path,
    *,
    epochs: int,
    seed: int,
) -> nn.Module:
    """A resnet18 for these classes, in evaluation mode; a checkpoint is gone on from.

    It is trained by AdamW on a one-cycle schedule, in bfloat16, on drawings jittered anew in every
    epoch.
    """
    torch.manual_seed(seed)
    model: nn.Module = resnet18(num_classes=len(images)).to(memory_format=torch.channels_last)
    drawings, classes = examples(images, TRAIN)
    labels = torch.tensor(classes)
    training = SoftmaxTraining(model, len(labels), epochs=epochs, rate=2e-3, seed=seed)
    start = training.resumed(checkpoint)
    rounds = tqdm(range(start, epochs), "training", initial=start, total=epochs, unit="epoch")
    for epoch in rounds:
        order = torch.randperm(len(labels), generator=training.generator)
        training.epoch(drawings[order], labels[order])
        training.keep(checkpoint, epoch + 1)
    return model.eval()


class SoftmaxTraining:
    """Training of a classifier by cross-entropy, an epoch at a time."""

    def __init__(
        self, model: nn.Module, examples: int, *, epochs: int, rate: float, seed: int
    ) -> None:
        self.model = model
        self.generator = Generator().manual_seed(seed)
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=epochs * -(-examples // BATCH)
        )

    def epoch(self, drawings: UInt8[Tensor, "examples height width"], labels: Tensor) -> None:
        """One pass over the examples, jittered anew."""
        begin = time.perf_counter()
        self.model.train()
        jitter = Jitter()
        for some, right in zip(drawings.split(BATCH), labels.split(BATCH), strict=True):
            ink = jitter(some.unsqueeze(1).float(), self.generator).squeeze(1)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.model(pixels(ink))
            loss = nn.functional.cross_entropy(logits.float(), right)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        self.seconds += time.perf_counter() - begin

    def keep(self, checkpoint: Path, epochs: int) -> None:
        """Write down where training is."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_suffix(".partial")
        torch.save({"epochs": epochs, **self._state()}, partial)
        partial.replace(checkpoint)

    def resumed(self, checkpoint: Path) -> int:
        """Go on from a checkpoint, if there is one; the number of epochs that it has had."""
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, weights_only=True)
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
