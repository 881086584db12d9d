"""Checkpoints of a memory in shards: tensors of all slots, of which each process has a part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from rarememory.memory.spans import Span


def of_all_slots(part: Tensor, memory_size: int, mesh: DeviceMesh | None) -> Tensor:
    """A tensor of all slots, of which this is the part of this process."""
    if mesh is None:
        return part
    # It takes seconds to import, and only checkpoints need it.
    from torch.distributed.tensor import DTensor, Shard

    whole = torch.empty((memory_size, *part.shape[1:]), device="meta")
    return DTensor.from_local(
        part, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )


def parts_of(stored: Mapping[str, Any], own: Mapping[str, Tensor], span: Span) -> dict[str, Tensor]:
    """What stored tensors of all slots have for those of this process.

    Args:
        stored: by their names; each a DTensor, or all of it.
        own: the parts that they are for.
        span: where these are in the memory.

    Raises:
        ValueError: they are of another number of slots, or parts of other processes.
    """
    parts: dict[str, Tensor] = {}
    for name, part in own.items():
        whole, wanted = stored[name], (span.memory_size, *part.shape[1:])
        if whole.shape != wanted:
            raise ValueError(
                f"the checkpoint's {name} are {list(whole.shape)}, and those of this sharded "
                f"memory {[*wanted]}: make it as large as what is loaded"
            )
        if hasattr(whole, "to_local"):
            parts[name] = whole.to_local()
        else:
            parts[name] = whole[span.first : span.first + len(part)]
        if parts[name].shape != part.shape:
            raise ValueError(
                f"the {name} are those of {len(parts[name])} slots, and this process has "
                f"{len(part)}: load them by torch.distributed.checkpoint"
            )
    return parts
