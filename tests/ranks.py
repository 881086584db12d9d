"""What a process of tests/test_distributed.py does: imported by processes that are spawned."""

import datetime
import os
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rarememory import Memory
from rarememory.distributed import gathered

WORLD, STEPS, KEY_DIM = 2, 20, 8
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def new_memory(dtype: torch.dtype = torch.float32) -> Memory:
    """So small that old slots are replaced all the time."""
    return Memory(KEY_DIM, 24, k=4, key_dtype=dtype, lookup="torch")


def batch(rank: int, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of a process at a step: as many as it happens, now and then none, or masked ones."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    rows = 0 if (step + rank) % 5 == 0 else 1 + int(torch.randint(9, (), generator=generator))
    if step == 7:
        rows = 0
    queries = torch.randn(rows, KEY_DIM, generator=generator)
    labels = torch.randint(6, (rows,), generator=generator)
    mask = torch.rand(rows, generator=generator) < 0.7
    return queries, labels, mask if step % 3 == 0 else None


def written(rank: int, dtype: torch.dtype) -> dict[str, Tensor]:
    memory = new_memory(dtype)
    for step in range(STEPS):
        memory.write(*gathered(*batch(rank, step)))
    return memory.state_dict()


class Under(nn.Module):
    """An encoder and the memory over it, in one module for DistributedDataParallel to wrap."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(KEY_DIM, KEY_DIM)
        self.memory = new_memory()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.encoder(images)
        return self.memory(embeddings, labels).loss, embeddings


def trained(rank: int, broadcast_buffers: bool) -> dict[str, Tensor]:
    model = DistributedDataParallel(Under(), broadcast_buffers=broadcast_buffers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        images, labels, mask = batch(rank, step)
        loss, embeddings = model(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.module.memory.write(*gathered(embeddings, labels, mask))
    return model.module.state_dict()


def refused(rank: int) -> dict[str, str]:
    """What each process says of rows that do not fit on process 1."""
    rows, labels = torch.ones(2, KEY_DIM), torch.ones(2).long()
    cases = {
        "number": (rows, labels[: 2 - rank], None),
        "mask": (rows, labels, torch.ones(2 - rank, dtype=torch.bool)),
        "width": (rows[:, : KEY_DIM - rank], labels, None),
        "type": (rows.to(torch.float64 if rank else torch.float32), labels, None),
    }
    said = {}
    for name, case in cases.items():
        try:
            gathered(*case)
        except ValueError as error:
            said[name] = str(error)
    return said


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(minutes=5),
    )
    done = {
        "written": {name: written(rank, dtype) for name, dtype in TYPES.items()},
        "trained": {broadcast: trained(rank, broadcast) for broadcast in (False, True)},
        "gathered": gathered(*batch(rank, 6)),
        "refused": refused(rank),
    }
    torch.save(done, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
    # torch 2.15 keeps a group alive that DistributedDataParallel has used, and a thread of it that
    # lets go of a tensor while the interpreter shuts down aborts the process: do not shut down.
    os._exit(0)
