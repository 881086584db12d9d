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
also has labels and refs: let every process learn the same batches, or let one learn and save, and
the others load.
"""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, distributed

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INVALID = -1


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
        labels: integers, one for each query.
        mask: rows to gather; the others are left out.

    Returns:
        The queries and labels to write: those of process 0, then those of process 1, and so on.

    Raises:
        ValueError: queries, labels and mask do not match, or differ in width or dtype between
            processes. All processes raise it, so that none waits for ever.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8)
        >>> queries, labels = torch.eye(2), torch.tensor([7, 9])
        >>> memory.write(*gathered(queries, labels, mask=labels != 7))
        Write(slots=tensor([0]), hits=tensor([False]), overwritten=tensor([-1]))
    """
    try:
        rows, labels = _masked_rows(queries, labels, mask)
    except ValueError:
        # The other processes wait for the number of rows.
        _gather(queries.new_tensor([_INVALID, 0, 0], dtype=torch.int64))
        raise
    facts = [len(rows), rows.shape[1], _DTYPES.index(rows.dtype)]
    every = [one.tolist() for one in _gather(labels.new_tensor(facts))]
    _check_alike(every)
    counts = [count for count, _, _ in every]
    return _gather_rows(rows, counts), _gather_rows(labels, counts)


def _masked_rows(queries: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows in the mask, with the leading axes flattened.

    Raises:
        ValueError: queries, labels and mask do not match.
    """
    if queries.dtype not in _DTYPES or queries.dim() == 0:
        raise ValueError(
            f"queries must be a float tensor [..., key_dim], not {queries.dtype} of shape "
            f"{list(queries.shape)}"
        )
    for name, given in (("labels", labels), ("mask", mask)):
        if given is not None and given.shape != queries.shape[:-1]:
            raise ValueError(
                f"{name} of shape {list(given.shape)} for queries that ask for "
                f"{list(queries.shape[:-1])}: give one a query"
            )
    rows, labels = queries.reshape(-1, queries.shape[-1]), labels.reshape(-1).long()
    if mask is None:
        return rows, labels
    return rows[mask.reshape(-1)], labels[mask.reshape(-1)]


def _check_alike(every: list[list[int]]) -> None:
    """Raise ValueError if a process has invalid rows, or width and dtype differ between them."""
    for process, (count, _, _) in enumerate(every):
        if count == _INVALID:
            raise ValueError(
                f"process {process} has rows that do not fit each other; it says which"
            )
    kinds = [(width, _DTYPES[dtype]) for _, width, dtype in every]
    if len(set(kinds)) > 1:
        raise ValueError(f"all processes must give queries of one width and type, not {kinds}")


def _gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of every process, gathered with padding: not every backend takes uneven sizes."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([some[:count] for some, count in zip(_gather(padded), counts, strict=True)])


def _gather(tensor: Tensor) -> list[Tensor]:
    """This tensor of every process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, tensor)
    return found
