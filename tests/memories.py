"""Memories to test, and what to compare them by."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rarememory import Memory

LOOKUPS = ["torch", "faiss", "native"]


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
