"""One memory on several processes: each holds all of it, and all write the same rows.

If each process wrote only its own rows, the memories would differ, and DistributedDataParallel,
which sends the buffers of process 0 to all processes, would overwrite what the others wrote. So the
rows are gathered before a write:

    embeddings = encoder(images)                          # encoder: DistributedDataParallel(...)
    memory(embeddings, labels).loss.backward()            # its own rows; gradients are averaged
    memory.write(*gathered(embeddings, labels))           # the rows of all

The result of a write does not depend on the order of its rows, and its noise comes from the
memory's own seed and clock, so the memories stay equal to the bit, on devices of one kind with the
same lookup. Keep the memory outside of the module that DistributedDataParallel wraps, or set
`broadcast_buffers=False`: sending keys that are equal already only takes time. A memory with
`projection=True` has weights whose gradients are averaged: it belongs inside. A `MemoryClassifier`
also has labels and refs: let every process learn the same batches.

`broadcast_state(memory)` or `broadcast_state(classifier)` starts all processes from the state of
one of them.
"""

from pickle import PicklingError
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, distributed, nn

from rarememory.base.validation import FLOATS
from rarememory.distributed.layout import Layout
from rarememory.distributed.ranks import Ranks, device_of_group, is_started
from rarememory.memory.queries import check_floats, rows_of


@torch.no_grad()
def gathered(
    queries: Float[Tensor, "*batch key_dim"],
    labels: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> tuple[Float[Tensor, "rows key_dim"], Int64[Tensor, " rows"]]:
    """The rows of all processes, in the same order on each of them, without gradient.

    All processes of the default group have to call it the same number of times; a process without
    rows passes queries [0, key_dim]. Batches may differ in size, so the host waits for the GPU
    once. A program of one process gets its own rows back.

    Args:
        queries: embeddings of this process's batch, as for `memory.write`.
        labels: integers >= 0, one for each query.
        mask: rows to gather; the others are left out.

    Returns:
        The queries and labels to write: those of process 0, then those of process 1, and so on.

    Raises:
        ValueError: `memory.write` would refuse these rows on one of the processes, or they differ
            in width, dtype or kind of device between processes. All processes raise it, so that
            none waits for ever.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8)
        >>> queries, labels = torch.eye(2), torch.tensor([7, 9])
        >>> memory.write(*gathered(queries, labels, mask=labels != 7))
        Write(slots=tensor([0]), hits=tensor([False]), overwritten=tensor([-1]))
    """
    ranks = Ranks(device_of_group())

    def told() -> tuple[tuple[Tensor, Tensor], list[int]]:
        rows, right = _masked_rows(queries, labels, mask)
        return (rows, right), [len(rows), rows.shape[1], FLOATS.index(rows.dtype), _kind(rows)]

    (rows, right), every = ranks.tell(told, 4)
    _check_alike(every)
    layout = Layout.of(rows, right)
    counts = [count for count, *_ in every]
    found = Ranks(rows.device).gather_rows(layout.pack(rows, right), counts)
    rows, right = layout.unpack(found)
    return rows, right


def broadcast_state(module: nn.Module, source: int = 0) -> None:
    """Give a module on every process the state that it has on one, as a checkpoint would.

    The state goes through `load_state_dict`, which checks it and keeps caches in step; another
    `memory_size` is kept. All processes of the default group have to call it. In a program of one
    process it does nothing.

    Args:
        module: a memory, a classifier, or anything with such a module in it.
        source: the process whose state the others get.

    Raises:
        ValueError: there is no such process, or each has parts of its own, as of a sharded memory.
        RuntimeError: the state could not be sent, or not be loaded on some process. All processes
            raise it.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8)
        >>> broadcast_state(memory)  # the others of a group would have its state now
        >>> len(memory)
        0
    """
    if not is_started():
        return
    size, own = distributed.get_world_size(), distributed.get_rank()
    if not 0 <= source < size:
        raise ValueError(f"source must be 0 to {size - 1}, one of the processes, not {source}")
    if any(hasattr(part, "to_local") for part in module.state_dict().values()):
        raise ValueError(
            "a module with parts of its own on each process, such as a sharded memory, does not "
            "start from one: load a checkpoint by torch.distributed.checkpoint"
        )
    sent: list[Any] = [None]
    failed: Exception | None = None
    if own == source:
        try:
            sent = [_on_cpu(module.state_dict())]
        except (PicklingError, RuntimeError, TypeError, ValueError) as error:
            failed = error
    distributed.broadcast_object_list(sent, source)
    if own != source and sent[0] is not None:
        try:
            module.load_state_dict(sent[0])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            failed = error
    _, states = Ranks(device_of_group()).tell(lambda: (None, [failed is not None]), 1)
    bad = [place for place, (state,) in enumerate(states) if state]
    if bad:
        raise RuntimeError(
            f"the state of process {source} could not be used on processes {bad}, which say why; "
            "the modules must be made alike"
        ) from failed


def _masked_rows(queries: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows in the mask, with the leading axes flattened.

    Raises:
        ValueError: `memory.write` would refuse them.
    """
    if not isinstance(queries, Tensor) or queries.dim() == 0:
        kind = "a number" if isinstance(queries, Tensor) else f"a {type(queries).__name__}"
        raise ValueError(f"queries must be a tensor [..., key_dim], not {kind}")
    # Only dense ones have rows.
    check_floats("queries", queries)
    rows = queries.reshape(-1, queries.shape[-1])
    checked = rows_of(queries, labels, mask, keys=rows, projection=None, validate=True)
    assert checked.labels is not None
    if mask is None:
        return rows, checked.labels
    return rows[mask.reshape(-1)], checked.labels[mask.reshape(-1)]


def _check_alike(every: list[list[int]]) -> None:
    """Raise ValueError if the kinds of rows differ between processes."""
    kinds = [(width, FLOATS[dtype], _DEVICES[device]) for _, width, dtype, device in every]
    if len(set(kinds)) > 1:
        raise ValueError(
            f"all processes must give queries of one width, dtype and device, not {kinds}"
        )


_DEVICES = ("cpu", "cuda", "another device")


def _kind(rows: Tensor) -> int:
    """The place of the rows' kind of device among `_DEVICES`."""
    return _DEVICES.index(rows.device.type) if rows.device.type in _DEVICES else len(_DEVICES) - 1


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """The state, with tensors that any process can take."""
    return {name: part.cpu() if isinstance(part, Tensor) else part for name, part in state.items()}
