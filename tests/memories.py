"""Memories to test, and what to compare them by."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rarememory import Memory

LOOKUPS = ["torch", "faiss", "native"]
# What no checkpoint has in place of a tensor.
SPOILT = {
    "nothing": lambda part: None,
    "a number": lambda part: 7,
    "an array": lambda part: part.numpy(),
    "sparse": lambda part: part.float().to_sparse(),
    "without numbers": lambda part: part.to("meta"),
    "of another shape": lambda part: part[None].expand(5, *part.shape),
    "complex": lambda part: part.to(torch.complex64),
    "NaN": lambda part: torch.full(part.shape, torch.nan),
}


def bits(memory: Memory) -> dict[str, tuple[tuple[int, ...], torch.dtype, bytes]]:
    """Everything the memory knows, to the bit."""
    return {
        name: (tuple(buffer.shape), buffer.dtype, buffer.detach().cpu().numpy().tobytes())
        for name, buffer in memory.state_dict().items()
    }


def holding(keys: Tensor, values: list[int], **options: object) -> Memory:
    """A memory that holds these keys and values in slots 0, 1, ..., as they are."""
    memory = Memory(keys.shape[1], options.pop("memory_size", len(keys)), **options)
    memory.to(keys.dtype).keys[: len(keys)] = torch.nn.functional.normalize(keys, dim=1)
    memory.values[: len(keys)] = torch.tensor(values)
    return memory


def fresh(memory_size: int = 33, **options: object) -> Memory:
    """An empty one of keys of width 7."""
    return Memory(7, memory_size, k=5, seed=3, **options)


def steps(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and labels of so many writes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        batch = int(torch.randint(1, 60, (), generator=generator))
        rows = torch.randn(batch, 7, generator=generator)
        yield rows, torch.randint(0, 9, (batch,), generator=generator)


def alike_rows(count: int, key_dim: int, seed: int) -> Tensor:
    """Rows of few different numbers, so that many are equally near."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (count, key_dim), generator=generator) + torch.tensor(0.5)


def lived(memory: Memory, count: int = 6, seed: int = 0) -> Memory:
    """The same, after so many writes and forgettings."""
    for rows, labels in steps(count, seed):
        memory.write(rows, labels)
        memory.forget(labels=8)
    return memory


class NewTensors(TorchDispatchMode):
    """Sees every tensor that is made inside the block, other than views of what was there."""

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self.largest = 0
        self.shapes: set[tuple[int, ...]] = set()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.there:
                self.largest = max(self.largest, tensor.numel())
                self.shapes.add(tuple(tensor.shape))
                self.dtypes.add(tensor.dtype)
        return made


def assert_waits(
    verbs: Mapping[str, Callable[[Any], object]], make: Callable[[], Any], held: str
) -> None:
    """That each verb, on something new in a thread, ends (or begins its block) only after ours."""
    ended = set()

    def run(name: str, subject: Any) -> None:
        done = verbs[name](subject)
        with done if isinstance(done, AbstractContextManager) else nullcontext():
            ended.add(name)

    with ExitStack() as blocks:
        threads = []
        for name in verbs:
            subject = make()
            blocks.enter_context(getattr(subject.lock, held)())
            threads.append(Thread(target=run, args=(name, subject), daemon=True))
            threads[-1].start()
        time.sleep(0.3)
        assert not ended
    for thread in threads:
        thread.join(30)
    assert ended == verbs.keys()
