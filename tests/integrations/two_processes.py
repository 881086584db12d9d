"""A Lightning run in two processes, each of which writes its results to a file.

    python tests/integrations/two_processes.py folder

Run by test_lightning.py; Lightning starts the second process itself.
"""

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rarememory.integrations.lightning import MemoryCallback
from rarememory.integrations.torchmetrics import Forgetting, OpenSetAUROC, SightingAccuracy


def examples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def loader_of(count: int, seed: int, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(*examples(count, seed)), batch_size)


class Classifier(LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.calls = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.body(inputs).tanh())

    def training_step(self, batch: list, index: int) -> torch.Tensor:
        return 0 * self(batch[0]).sum()

    def validation_step(self, batch: list, index: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def validated(support: DataLoader | None, processes: int) -> dict[str, object]:
    """The accuracy, the keys of the memory, and the calls of the module in this process."""
    callback, module = MemoryCallback(support), Classifier()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[callback],
    )
    trainer.fit(module, loader_of(24, 1, 4), loader_of(40, 2, 5))
    return {
        "accuracy": trainer.callback_metrics["memory/accuracy"].item(),
        "calls": module.calls,
        "keys": sorted(callback.memory.keys[callback.memory.state.occupied].tolist()),
    }


def counted(processes: int) -> list[object]:
    """The three metrics over the same rows; the last process has no rows."""
    preds, target, third = (torch.arange(24) % n for n in (2, 3, 4))
    mine = slice(0, 24) if processes == 1 else slice(24 * rank(), 24 * rank() + 24)
    preds, target, third = preds[mine], target[mine], third[mine]
    sightings, forgetting, auroc = SightingAccuracy(4), Forgetting(), OpenSetAUROC()
    # torchmetrics warns of empty updates.
    if len(preds):
        sightings.update(preds, target, third)
        forgetting.update(target, target, third)
    forgetting.next_stage()
    if len(preds):
        forgetting.update(preds, target, third)
        auroc.update(target / 3, preds.bool())
    return [metric.compute().tolist() for metric in (sightings, forgetting, auroc)]


def found(processes: int) -> dict[str, object]:
    supports = {
        "given": loader_of(13, 3, 4),
        # The second process encodes none of it.
        "a batch": loader_of(4, 3, 4),
        "training": None,
    }
    results = {name: validated(support, processes) for name, support in supports.items()}
    return {**results, "counted": counted(processes)}


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


if __name__ == "__main__":
    (Path(sys.argv[1]) / f"{rank()}.json").write_text(json.dumps(found(processes=2)))
    # Wait until both have written; why they exit without shutting down: see tests/ranks.py.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)
