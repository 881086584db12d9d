"""The classifier that exists already: torchvision's resnet18, trained with softmax."""

import time
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.generalised.drawings import TRAIN, drawn, pixels
from benchmarks.generalised.rivals import Task, balanced, class_means, grown
from benchmarks.resumable import ResumableTraining
from rarememory.data import Characters, Jitter
from rarememory.training.precision import encoder_autocast

BATCH = 128
Images = UInt8[Tensor, "examples height width"]


def trained_host(old: Characters, checkpoint: Path, *, epochs: int, seed: int) -> nn.Module:
    """Train a resnet18 for these classes, or resume from the checkpoint; in evaluation mode."""
    torch.manual_seed(seed)
    model: nn.Module = resnet18(num_classes=len(old)).to(memory_format=torch.channels_last)
    images = drawn(old, TRAIN).images
    labels = torch.arange(len(old)).repeat_interleave(len(images) // len(old))
    training = HostTraining(model, images, labels, epochs=epochs, rate=2e-3, seed=seed)
    training.train(checkpoint, "training the host", unit="epoch")
    return model.eval()


def tuned_host(
    host: nn.Module, images: Images, task: Task, checkpoint: Path, *, epochs: int, seed: int
) -> tuple[nn.Module, float]:
    """The rival that fine-tunes the whole host, over all classes; and its processor seconds.

    Its head starts from imprinted weights; in each epoch every class is seen as often as the
    largest. The host that is given is changed; `images` are of the examples of the task.
    """
    host.fc = grown(task.head, class_means(task)[task.n_old :])
    labels = task.examples.classes
    training = HostTraining(host, images, labels, epochs=epochs, rate=1e-3, seed=seed, balance=True)
    training.train(checkpoint, "fine-tuning everything", unit="epoch")
    return host.eval(), training.seconds


class HostTraining(ResumableTraining):
    """Training of a classifier by cross-entropy, one step an epoch.

    AdamW on a one-cycle schedule up to `rate`, in bfloat16 where the device computes in it;
    drawings are jittered anew in every epoch. With `balance` every class is seen as often as the
    largest, else every example once. Its seconds are those of processors.
    """

    parts = ("model", "optimizer", "schedule")

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        labels: Int64[Tensor, " examples"],
        *,
        epochs: int,
        rate: float,
        seed: int,
        balance: bool = False,
    ) -> None:
        self.model, self.images, self.labels, self.balance = model, images, labels, balance
        counts = labels.bincount()
        rows = int(counts.max()) * len(counts) if balance else len(labels)
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=epochs * -(-rows // BATCH)
        )
        facts = repr((epochs, rate, seed, balance, rows))
        super().__init__(facts=facts, steps=epochs, seed=seed, clock=time.process_time)

    def advance(self) -> float:
        """One epoch; return the loss of its last batch."""
        self.model.train()
        rows, jitter, loss = self._order(), Jitter(), torch.tensor(0.0)
        for some in rows.split(BATCH):
            images = self.images[some].unsqueeze(1).float()
            ink = jitter(images, self.generator).squeeze(1)
            with encoder_autocast(images.device):
                logits = self.model(pixels(ink))
            loss = nn.functional.cross_entropy(logits.float(), self.labels[some])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        return loss.item()

    def _order(self) -> Int64[Tensor, " rows"]:
        if self.balance:
            return balanced(self.labels, self.generator)
        return torch.randperm(len(self.labels), generator=self.generator)
