"""What a process of tests/distributed/test_replicated.py does, in processes that are spawned."""

import datetime
import os
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rarememory import FirstInFirstOut, Memory, wrap
from rarememory.distributed import broadcast_state, gathered
from rarememory.lookup import LocalitySensitiveHashing, NativeLookup

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


def misuses(rank: int) -> dict[str, tuple[object, object, object]]:
    """Arguments of `gathered` that are wrong on process 1, or differ from those of process 0."""
    rows, labels = torch.ones(2, KEY_DIM), torch.ones(2).long()
    mask = torch.ones(2, dtype=torch.bool)
    if not rank:
        names = [*misuses(1)]
        return dict.fromkeys(names, (rows, labels, None))
    return {
        "number": (rows, labels[:1], None),
        "mask": (rows, labels, mask[:1]),
        "mask of integers": (rows, labels, mask.long()),
        "labels of floats": (rows, labels + 0.5, None),
        "labels of booleans": (rows, mask, None),
        "labels below 0": (rows, -labels, None),
        "labels in a list": (rows, [1, 1], None),
        "queries in a list": (rows.tolist(), labels, None),
        "queries of integers": (rows.long(), labels, None),
        "queries of zeros": (rows * 0, labels, None),
        "queries not finite": (rows / 0, labels, None),
        "queries sparse": (rows.to_sparse(), labels, None),
        "queries nested": (
            torch.nested.as_nested_tensor([*rows], layout=torch.jagged),
            labels,
            None,
        ),
        "queries without width": (rows.sum(), labels, None),
        "nothing": (None, None, None),
        "another device": (rows.to("meta"), labels, None),
        "width": (rows[:, 1:], labels, None),
        "type": (rows.double(), labels, None),
    }


def refused(rank: int) -> dict[str, tuple[str, float]]:
    """What each process says of a misuse, and the seconds it takes to."""
    said = {}
    for name, case in misuses(rank).items():
        distributed.barrier()
        start = time.perf_counter()
        try:
            gathered(*case)
        except Exception as error:
            said[name] = str(error), time.perf_counter() - start
    return said


def overwritten(rank: int) -> dict[str, bool]:
    """Whether searches that keep something of the keys see a broadcast over them."""
    torch.manual_seed(rank)
    found = {}
    for name, make in (("native", NativeLookup), ("hashing", LocalitySensitiveHashing)):
        memory = Memory(KEY_DIM, 2048, k=5, lookup=make(), update=FirstInFirstOut())
        memory.write(torch.randn(2048, KEY_DIM), torch.arange(2048))
        queries = torch.randn(1, KEY_DIM)
        for _ in range(40):
            memory(queries)
        distributed.broadcast(memory.keys, 0)
        with warnings.catch_warnings(record=True, action="always") as seen:
            slots = memory(queries).slots
        twin = Memory(KEY_DIM, 2048, k=5, lookup="torch")
        twin.load_state_dict(memory.state_dict())
        found[name] = torch.equal(slots, twin(queries).slots)
        found[f"{name} warns"] = bool(seen) == (rank > 0)
    return found


def started_alike(rank: int) -> dict[str, object]:
    """States after a broadcast of that of process 1, and what is said where one cannot take it."""
    torch.manual_seed(rank)
    memory = Memory(KEY_DIM, 32)
    classifier = wrap(torch.nn.Linear(KEY_DIM, 4), host=False)
    if rank:
        memory.write(torch.randn(8, KEY_DIM), torch.arange(8))
        classifier.learn(torch.randn(3, KEY_DIM), ["kea", "weka", "kea"], ["a", "b", "c"])
    broadcast_state(memory, source=1)
    broadcast_state(classifier, source=1)
    said = ""
    try:
        broadcast_state(Memory(KEY_DIM + rank, 32))
    except RuntimeError as error:
        said = str(error)
    return {
        "memory": memory.state_dict(),
        "classes": classifier.classes,
        "refs": [list(one.refs) for one in classifier.examples()],
        "features": classifier.features(torch.ones(1, KEY_DIM)),
        "said": said,
    }


def join(rank: int, folder: str, processes: int) -> None:
    """Meet the other processes in this folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(minutes=5),
    )


def work(rank: int, folder: str) -> None:
    join(rank, folder, WORLD)
    done = {
        "written": {name: written(rank, dtype) for name, dtype in TYPES.items()},
        "trained": {broadcast: trained(rank, broadcast) for broadcast in (False, True)},
        "gathered": gathered(*batch(rank, 6)),
        "refused": refused(rank),
        "overwritten": overwritten(rank),
        "started": started_alike(rank),
    }
    torch.save(done, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
    # torch 2.15 keeps a group alive that DistributedDataParallel has used, and a thread of it that
    # lets go of a tensor while the interpreter shuts down aborts the process: do not shut down.
    os._exit(0)
