"""In Lightning: train an encoder, and see at each validation how many new glyphs it would know.

    python examples/lightning_memory.py

The encoder learns to name 60 drawn glyphs. What it is for is another matter: at each validation 40
glyphs that it never learns are remembered from one drawing each and asked about, and that number
decides when to stop. The best one is then shown glyph after glyph, each answered, then remembered.
"""

import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from rarememory import Memory
from rarememory.data import draw_glyphs
from rarememory.integrations.lightning import MemoryCallback
from rarememory.integrations.torchmetrics import OpenSetAUROC, SightingAccuracy

torch.manual_seed(0)
glyphs = draw_glyphs(130, n_drawings=10)
LEARNT, NEW, NEWER = range(60), range(60, 100), range(100, 130)


class Drawings:
    """A loader: batches of drawings of these glyphs; a DataLoader would do as well."""

    def __init__(self, classes: range, which: range, batch_size: int = 60) -> None:
        images = glyphs.images[classes.start : classes.stop, which.start : which.stop]
        self.images = images.flatten(0, 1).unsqueeze(1) / 255
        self.labels = torch.tensor(classes).repeat_interleave(len(which))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        for rows in torch.randperm(len(self.labels)).split(self.batch_size):
            yield self.images[rows], self.labels[rows]


class Namer(LightningModule):
    """An ordinary classifier: an encoder, and a Linear trained by softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 6 * 6, 64),
        )  # fmt: skip
        self.head = nn.Linear(64, len(LEARNT))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self(batch[0])  # the callback listens: what enters the last Linear are the features

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


with tempfile.TemporaryDirectory() as folder:
    best = ModelCheckpoint(folder, monitor="memory/accuracy", mode="max")
    patience = EarlyStopping(monitor="memory/accuracy", mode="max", patience=2)
    trainer = Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[MemoryCallback(support=Drawings(NEW, range(1))), patience, best],
    )
    namer, asked = Namer(), Drawings(NEW, range(1, 6))
    [logged] = trainer.validate(namer, asked, verbose=False)
    print(f"untrained: {logged['memory/accuracy']:.0%} of new drawings known")
    trainer.fit(namer, Drawings(LEARNT, range(10)), asked)
    print(f"stopped after {trainer.current_epoch} epochs; best: {best.best_model_score:.0%}")
    namer = Namer.load_from_checkpoint(best.best_model_path).eval()

# A memory of its own, and glyphs as they come: each drawing is answered, then remembered.
memory = Memory(key_dim=64, memory_size=256)
by_sighting, strangers = SightingAccuracy(n_sightings=4), OpenSetAUROC()
seen = torch.zeros(len(glyphs), dtype=torch.int64)
for images, labels in Drawings(NEWER, range(10), batch_size=1):
    with torch.no_grad():
        recall = memory(namer.encoder(images), k=1)
    by_sighting.update(recall.prediction, labels, seen[labels])
    strangers.update(recall.scores[:, 0], known=seen[labels] > 0)
    memory.write(recall, labels)
    seen[labels] += 1
print("known by how often it was seen:", " ".join(f"{a:.0%}" for a in by_sighting.compute()))
print(f"the nearest cosine tells new from seen with AUROC {strangers.compute():.2f}")
