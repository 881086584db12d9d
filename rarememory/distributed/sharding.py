"""Sharding: each process keeps a range of the slots of a memory that all have made alike."""

import re

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rarememory.distributed.agreement import fingerprint
from rarememory.distributed.policies import check_per_slot
from rarememory.distributed.ranks import Ranks, device_of_group, device_of_kind, is_started
from rarememory.distributed.sharded import ShardedMemory
from rarememory.memory import Memory


def shard(memory: Memory, mesh: DeviceMesh | None = None) -> ShardedMemory:
    """Let each process of a mesh hold a range of the memory's slots, in place; return the memory.

    Every process reads and writes its own rows, and the answers, the losses, the gradients and what
    is remembered are to the bit those of one memory that is written the rows of all:

        memory = shard(Memory(256, 10**8, device="meta"), mesh)    # each makes its own slots only
        memory(embeddings, labels).loss.backward()                 # its own rows, all slots
        memory.write(embeddings, labels)                           # the rows of all, as one set

    All processes have to call the same methods, in one order, also `len(memory)`, `forget` and
    `load_state_dict`; `state_dict` has the slots as a DTensor each, for
    `torch.distributed.checkpoint`. If one fails, all raise. Each process has
    ceil(slots / processes) slots, the last ones fewer or none. What travels with each query are the
    k best of each shard and, where a gradient or a write needs them, the keys that were found.

    Slots that are filled already have to be the same on all processes. DistributedDataParallel and
    `fully_shard` may wrap the module in which the memory is: they leave its slots alone.

    Args:
        memory: a `Memory`, perhaps with `device="meta"`.
        mesh: of one dimension; all processes if None, or one where there is no group.

    Raises:
        ValueError: the memory is of another class, its policy does not look at each slot by itself,
            the mesh has several dimensions, or the memories of the processes differ.

    Example:
        >>> memory = shard(Memory(key_dim=2, memory_size=8, device="meta"))
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> memory(torch.eye(2)).prediction
        tensor([7, 9])
    """
    if type(memory) is not Memory:
        raise ValueError(f"a {type(memory).__name__} cannot be sharded: give a Memory")
    if memory.clock.is_meta:
        raise ValueError('give Memory(..., device="meta"), which keeps its clock and its seed')
    device = _device(memory, mesh)
    if mesh is None and is_started():
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    if mesh is not None and mesh.ndim != 1:
        raise ValueError(
            f"a memory is sharded along one dimension, and this mesh has {mesh.ndim}: give a part "
            'of it, such as mesh["shard"]'
        )
    ranks = Ranks(device, None if mesh is None else mesh.get_group())
    _, every = ranks.tell(lambda: (None, _numbers(memory)), 3)
    if len({tuple(numbers) for numbers in every}) > 1:
        raise ValueError(
            "the memories of all processes must be made alike, and slots, width and a fingerprint "
            f"of the rest are {every}"
        )
    memory.__class__ = ShardedMemory
    assert isinstance(memory, ShardedMemory)
    memory.hold(mesh, device, ranks)
    return memory


def _device(memory: Memory, mesh: DeviceMesh | None) -> torch.device:
    """Where the memory is or, if it is nowhere yet, where the mesh or its backend computes."""
    if not memory.keys.is_meta:
        return memory.keys.device
    if mesh is None:
        return device_of_group()
    return device_of_kind(mesh.device_type)


def _numbers(memory: Memory) -> list[int]:
    """Numbers by which memories that must be alike are told apart.

    Raises:
        ValueError: it cannot be sharded.
    """
    check_per_slot(memory.update)
    state = memory.state_dict()
    if "vectors" in state:
        raise ValueError("the memory of a VectorMemory cannot be sharded: give one of its own")
    entries = [(name, part.dtype, part.shape) for name, part in state.items()]
    numbers = [int(part) for part in state.values() if part.dim() == 0]
    options = (memory.k, memory.margin, memory.temperature, memory.subtract_margin)
    # A policy that has no repr of its own has its address there.
    text = re.sub(" at 0x[0-9a-f]+", "", repr((entries, numbers, options, memory.update)))
    return [*memory.keys.shape, fingerprint(text)]
