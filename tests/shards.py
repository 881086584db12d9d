"""What a process of tests/distributed/test_sharded.py does: imported by processes that are spawned.

Each process has a sharded memory and a `Memory` that is told what all processes do; after each step
it compares what both say.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from ranks import join
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rarememory import AverageOrReplace, AverageOrReplaceRandom, FirstInFirstOut, Memory, wrap
from rarememory.base.state import Recall
from rarememory.distributed import broadcast_state, shard
from rarememory.lookup import TorchLookup
from rarememory.memory.updates import LeastRecentlyUsed, LeastUsed

PROCESSES, STEPS = 4, 6
WORLDS = range(1, PROCESSES + 1)


@dataclass(frozen=True)
class OldestEvenSlots:
    """A policy that is none of the package's."""

    def averages(self, hits):
        return hits

    def eviction(self, ages, noise):
        return ages.div(2, rounding_mode="floor") + (noise > 0)


CASES: dict[str, dict[str, object]] = {
    "paper": {},
    "five slots": {"memory_size": 5, "k": 3},
    "three slots": {"memory_size": 3, "lookup": "torch"},
    "many slots": {"memory_size": 300, "k": 4},
    "many slots in torch": {"memory_size": 300, "lookup": "torch"},
    "queue": {"update": FirstInFirstOut(), "memory_size": 9},
    "at random": {"update": AverageOrReplaceRandom(), "memory_size": 17},
    "without noise": {"update": AverageOrReplace(age_noise=0.0)},
    "least recently used": {"update": LeastRecentlyUsed(), "memory_size": 21},
    "least used": {"update": LeastUsed(average=False), "memory_size": 21},
    "own policy": {"update": OldestEvenSlots()},
    "float16": {"key_dtype": torch.float16, "memory_size": 10},
    "bfloat16": {"key_dtype": torch.bfloat16},
    "float64": {"key_dtype": torch.float64},
    "half-precision copy": {"half_precision_copy": True},
    "projection": {"projection": True},
    "subtract margin": {"subtract_margin": True, "margin": 0.3},
    "not validated": {"validate": False},
    "usage": {"count_usage": True, "memory_size": 40},
    "prices": {"memory_size": 21},
}
HISTORIES = [
    (world, case)
    for number, case in enumerate(CASES)
    for world in WORLDS
    # The first cases with any number of processes, the others with one.
    if number < 2 or world == 2 + number % 3
]


def new_memory(case: str, device: str | None = None) -> Memory:
    torch.manual_seed(0)
    memory = Memory(7, **{"memory_size": 33, "seed": 3, "device": device, **CASES[case]})
    if case == "prices":
        memory.register_slot_buffer("prices", (2,), fill=-1, wide=True)
    return memory


def batches(seed: int) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Rows, labels and masks of all processes: some without a row, some rows again, one zero."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.nn.functional.normalize(torch.randn(6, 7, generator=generator))
    while True:
        parts = []
        for rank in range(PROCESSES):
            count = int(torch.randint(0, 8, (), generator=generator)) * (rank != seed % 5)
            rows = torch.randn(count, 7, generator=generator)
            again = torch.rand(count, generator=generator) < 0.3
            rows[again] = known[torch.randint(6, (int(again.sum()),), generator=generator)]
            labels = torch.randint(5, (count,), generator=generator)
            parts.append((rows, labels, torch.rand(count, generator=generator) < 0.8))
        yield parts


class History:
    """A sharded memory and its twin, and where they differ."""

    def __init__(self, case: str, mesh: DeviceMesh, seed: int) -> None:
        self.one = new_memory(case)
        self.many = shard(new_memory(case, "meta"), mesh)
        self.rank, self.world = mesh.get_rank(), mesh.size()
        self.batches = batches(seed)
        self.differences: list[str] = []

    def compare(self, what: str, one: object, other: object) -> None:
        same = one == other
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            same = one.dtype == other.dtype and torch.equal(one, other)
        if not same:
            self.differences.append(f"{what}: {one} and sharded {other}")

    def step(self, number: int) -> None:
        parts = next(self.batches)[: self.world]
        masked = number % 3 == 0
        if "prices" in self.one.state_dict():
            for memory, first in ((self.one, 0), (self.many, self.many.first)):
                there = memory.state.occupied
                memory.prices[there] = 1e5 * (first + there.nonzero()).float().expand(-1, 2)
        rows, labels, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        first = sum(len(part[0]) for part in parts[: self.rank])
        own = slice(first, first + len(parts[self.rank][0]))
        masks = (mask, mask[own]) if masked else (None, None)
        for right, k, gradient in (
            (None, None, False),
            (None, 2, True),
            (labels[own], None, True),
            (labels[own], 4, number % 2 == 0),
        ):
            self.read(rows[own], right, k, masks[1], gradient)
        # What a projection makes of a row may depend on the rows beside it, by rounding.
        if number % 2 or self.one.projection is not None:
            mine = self.many(parts[self.rank][0], mask=masks[1])
            recalls = self.recalled(parts, masked), mine
            if self.one.usage is not None:
                self.one.record(recalls[0])
                self.many.record(recalls[1])
            written = self.one.write(recalls[0], labels), self.many.write(recalls[1], labels[own])
        else:
            written = (
                self.one.write(rows, labels, mask=masks[0]),
                self.many.write(rows[own], labels[own], mask=masks[1]),
            )
        for name in written[0]._fields:
            whole, part = (getattr(write, name) for write in written)
            self.compare(f"write {name}", whole[own], part)
        self.forget(number)
        self.state()

    def recalled(self, parts: list[tuple[Tensor, Tensor, Tensor]], masked: bool) -> Recall:
        """What the rows of all processes recall, those of each by themselves."""
        each = [self.one(rows, mask=mask if masked else None) for rows, _, mask in parts]
        found = (torch.cat([recall[field] for recall in each]) for field in range(4))
        return Recall(*found, self.one.temperature)

    def read(
        self, rows: Tensor, labels: Tensor | None, k: int | None, mask: Tensor | None, grad: bool
    ) -> None:
        what = f"read labels={labels is not None} k={k} gradient={grad}"
        asked = [rows.clone().requires_grad_(grad) for _ in range(2)]
        recalls = [
            memory(queries, labels, k=k, mask=mask)
            for memory, queries in zip((self.one, self.many), asked, strict=True)
        ]
        for name in ("slots", "scores", "values", "queries", "loss"):
            self.compare(f"{what} {name}", *(getattr(recall, name) for recall in recalls))
        if grad and len(rows):
            for recall in recalls:
                total = recall.weights.sum() + recall.scores.masked_fill(recall.slots < 0, 0).sum()
                (total if recall.loss is None else total + 3 * recall.loss).backward()
            self.compare(f"{what} gradient", *(queries.grad for queries in asked))
            if self.one.projection is not None:
                weights = [memory.projection.weight for memory in (self.one, self.many)]
                self.compare(f"{what} weights", *(weight.grad for weight in weights))

    def forget(self, number: int) -> None:
        conditions = [{"labels": 1}, {"slots": [0, self.one.memory_size - 1]}, {"older_than": 3}]
        if number in range(2, 5):
            given = conditions[number - 2]
            self.compare("forgotten", self.one.forget(**given), self.many.forget(**given))
        if number == 1:
            self.compare("stats", self.one.stats(), self.many.stats())
        if number in (3, 4):
            size = self.one.memory_size // 2 + 1 if number == 3 else 2 * self.one.memory_size + 5
            self.compare("resized", self.one.resize(size), self.many.resize(size))
        if number == 5:
            for memory in (self.one, self.many):
                with memory.snapshot():
                    memory.clear()
                    assert len(memory) == 0

    def state(self) -> None:
        self.compare("len", len(self.one), len(self.many))
        held = slice(self.many.first, self.many.first + len(self.many.keys))
        for name, part in self.many.state_dict().items():
            whole = self.one.state_dict()[name]
            if whole.dim() and name != "projection.weight":
                self.compare(f"state {name} shape", whole.shape, part.shape)
                self.compare(f"state {name}", whole[held], part.to_local())
            else:
                self.compare(f"state {name}", whole, part)


def lived(case: str, mesh: DeviceMesh) -> list[str]:
    """How a memory and its sharded twin differ after a history."""
    history = History(case, mesh, seed=sorted(CASES).index(case))
    # To the end, whatever differs: the other processes wait for this one.
    for number in range(STEPS):
        history.step(number)
    if case == "prices":
        # These stay what they are, and the keys do not.
        history.one.half(), history.many.half()
        history.state()
    return history.differences


def loaded(meshes: dict[int, DeviceMesh], rank: int, folder: str) -> dict[str, bool]:
    """Whether memories answer alike after a checkpoint of four shards was loaded into them."""
    history = History("usage", meshes[PROCESSES], seed=0)
    for number in range(2):
        history.step(number)
    checkpoint.save(history.many.state_dict(), checkpoint_id=f"{folder}/checkpoint")
    distributed.barrier()
    queries, found = torch.randn(9, 7, generator=torch.Generator().manual_seed(1)), {}
    expected = history.one(queries, k=9)
    for world, mesh in meshes.items():
        if rank < world:
            memory = shard(new_memory("usage", "meta"), mesh)
            state = memory.state_dict()
            checkpoint.load(
                state, checkpoint_id=f"{folder}/checkpoint", process_group=mesh.get_group()
            )
            memory.load_state_dict(state)
            recall = memory(queries, k=9)
            same = all(map(torch.equal, recall[:4], expected[:4]))
            found[f"{world} processes"] = same and memory.clock == history.one.clock
            # The tensors of a Memory, whole, are taken too.
            memory.load_state_dict(history.one.state_dict())
            found[f"a Memory into {world}"] = torch.equal(
                memory(queries, k=9).slots, expected.slots
            )
    memory = new_memory("usage")
    state = memory.state_dict()
    checkpoint.load(state, checkpoint_id=f"{folder}/checkpoint", no_dist=True)
    memory.load_state_dict(state)
    found["a Memory"] = all(
        torch.equal(part, memory.state_dict()[name])
        for name, part in history.one.state_dict().items()
    )
    return found


class Under(nn.Module):
    """An encoder and the sharded memory over it."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(7, 7)
        options = {"projection": True, "half_precision_copy": True, "count_usage": True}
        self.memory = shard(Memory(7, 33, device="meta", **options), mesh)

    def forward(self, images: Tensor, labels: Tensor) -> Recall:
        return self.memory(self.encoder(images), labels)


def trained(
    mesh: DeviceMesh, rank: int, wrap: Callable[[nn.Module], nn.Module]
) -> dict[str, object]:
    """What is left of a model that was trained under a wrapper."""
    model = Under(mesh)
    memory = model.memory
    names = {name for name, _ in model.named_buffers()}
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    everything = batches(seed=1)
    for _ in range(4):
        images, labels, _ = next(everything)[rank]
        recall = wrapped(images, labels)
        optimizer.zero_grad()
        recall.loss.backward()
        optimizer.step()
        memory.write(recall, labels)
    weight = model.encoder.weight.detach()
    weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    shapes = {name: list(part.shape) for name, part in model.state_dict().items()}
    parts = {name: part.clone() for name, part in memory.state._asdict().items()}
    return {"weight": weight, "buffers": names, "shapes": shapes, "parts": parts}


class Raising(TorchLookup):
    """A search that fails."""

    def nearest(self, *args, **options):
        raise MemoryError("no room for the scores")


def misuses(memory: Memory, rank: int) -> dict[str, Callable[[], object]]:
    """What goes wrong on process 1 only, or differs from what the others do."""
    wrong = rank == 1
    rows, labels = torch.ones(2, 7), torch.ones(2).long()
    bad = rows / 0 if wrong else rows

    def searched() -> None:
        memory.lookup = Raising() if wrong else TorchLookup()
        try:
            memory(rows)
        finally:
            memory.lookup = TorchLookup()

    def written() -> None:
        memory.lookup = Raising() if wrong else TorchLookup()
        try:
            memory.write(rows, labels)
        finally:
            memory.lookup = TorchLookup()

    def kept() -> None:
        with memory.read_only() if wrong else nullcontext():
            memory.write(rows, labels)

    state = memory.state_dict()
    return {
        "queries": lambda: memory(bad),
        "rows": lambda: memory.write(bad, labels),
        "labels": lambda: memory.write(rows, labels[:1] if wrong else labels),
        "k": lambda: memory(rows, k=0 if wrong else 3),
        "another k": lambda: memory(rows, k=2 if wrong else 3),
        "loss of some": lambda: memory(rows, None if wrong else labels),
        "filter": lambda: memory(rows, among=[1] if wrong else None),
        "another verb": lambda: memory.clear() if wrong else memory.write(rows, labels),
        "forget": lambda: memory.forget(labels=1 + wrong),
        "no slot": lambda: memory.forget(slots=99 if wrong else 1),
        "negative age": lambda: memory.forget(older_than=-1),
        "size": lambda: memory.resize(40 + wrong),
        "record": lambda: memory.record(memory(rows)._replace(slots=99 * labels.view(2, 1))),
        "search": searched,
        "search for a write": written,
        "read-only": kept,
        "checkpoint": lambda: memory.load_state_dict(
            {**state, "clock": torch.tensor(-1 if wrong else 5)}
        ),
        "broadcast": lambda: broadcast_state(memory),
        "classifier": lambda: wrap(nn.Linear(7, 3), host=False, memory=memory),
        "made differently": lambda: shard(Memory(7, 33, seed=int(wrong)), None),
    }


def refused(rank: int) -> dict[str, object]:
    """What each process says of a misuse, the seconds until it does, and whether any row stays."""
    memory = shard(Memory(7, 33, device="meta", lookup="torch", count_usage=True))
    memory.write(torch.randn(3, 7), torch.arange(3))
    before = [part.clone() for part in memory.state]
    said_of = {name: said(work) for name, work in misuses(memory, rank).items()}
    kept = all(map(torch.equal, before, memory.state))
    return {"said": said_of, "kept": kept, "rows": len(memory)}


def said(work: Callable[[], object]) -> tuple[str, float]:
    """The error of this work, and the seconds until it is raised."""
    distributed.barrier()
    start = time.perf_counter()
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.perf_counter() - start
    return "nothing", time.perf_counter() - start


def work(rank: int, folder: str) -> None:
    join(rank, folder, PROCESSES)
    meshes = {world: DeviceMesh("cpu", list(range(world))) for world in WORLDS}
    done: dict[str, object] = {}
    for world, case in HISTORIES:
        if rank < world:
            try:
                done[f"{world} {case}"] = lived(case, meshes[world])
            except Exception:
                done[f"{world} {case}"] = [traceback.format_exc()]
                break
    done["loaded"] = loaded(meshes, rank, folder)
    mesh = meshes[PROCESSES]
    done["ddp"] = trained(mesh, rank, DistributedDataParallel)
    done["fsdp"] = trained(mesh, rank, lambda model: fully_shard(model, mesh=mesh))
    done["refused"] = refused(rank)
    torch.save(done, Path(folder) / f"{rank}.pt")
    distributed.barrier()
    os._exit(0)
