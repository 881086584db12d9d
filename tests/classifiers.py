"""Classifiers to test: features that one can draw on paper, hosts that answer as they are told."""

import torch
from memories import bits
from torch import Tensor, nn

from rarememory import Memory, MemoryClassifier


def at(*degrees: float) -> Tensor:
    """Unit vectors of the plane at these angles."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def bare(memory_size: int = 8, **options: object) -> MemoryClassifier:
    """A classifier of the plane without a host: what goes in are the features."""
    of_memory = {
        name: options.pop(name) for name in ("k", "temperature", "update") if name in options
    }
    memory = Memory(2, memory_size, **of_memory)
    return MemoryClassifier(nn.Identity(), host=False, memory=memory, **options)


def hosted(weight: Tensor, memory_size: int = 8, **options: object) -> MemoryClassifier:
    """A classifier of the plane whose host answers with the logits weight @ x."""
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data.copy_(weight)
    return MemoryClassifier(nn.Sequential(nn.Identity(), head), memory_size=memory_size, **options)


def everything(classifier: MemoryClassifier) -> tuple[object, ...]:
    """The whole state of the classifier, except its model."""
    buffers = {name: b.tolist() for name, b in classifier.ensembler.named_buffers()}
    return bits(classifier.memory), buffers, bytes(classifier.get_extra_state().tolist())
