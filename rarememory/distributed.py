"""One memory on many processes: each holds it whole, and all write the same rows.

A process that wrote only what it saw would soon remember something else than its neighbours, and
DistributedDataParallel, which sends the buffers of process 0 to all, would undo what they wrote. So
the rows travel, and not the memory:

    embeddings = encoder(images)                          # encoder: DistributedDataParallel(...)
    memory(embeddings, labels).loss.backward()            # its own rows; gradients are averaged
    memory.write(*gathered(embeddings, labels))           # the rows of all

A write is a set of rows, and its noise is the memory's own (one seed, one count of writes), so the
memories stay the same to the bit, on chips of one kind that search alike. Keep the memory out of
what DistributedDataParallel wraps, or give that `broadcast_buffers=False`: it is only slow to send
keys that are the same already. A memory with `projection=True` has weights to be averaged, and
belongs inside. A `MemoryClassifier` has names and refs besides: let every process learn the same
batches, or one learn and save, and the others load.
"""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, distributed

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MISFIT = -1


@torch.no_grad()
def gathered(
    queries: Float[Tensor, "*batch key_dim"],
    labels: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> tuple[Float[Tensor, "rows key_dim"], Int64[Tensor, " rows"]]:
    """The rows of all processes, the same and in the same order on each of them, without gradient.

    All processes of the default group have to call it, equally often; one that has no rows gives
    queries [0, key_dim]. Batches may be uneven, for which the host waits once for a GPU. In a
    program of one process it returns the rows that it was given.

    Args:
        queries: what the encoder made of this process's batch, as `memory.write` takes it.
        labels: integers, one a query.
        mask: rows to send; the others stay behind.

    Returns:
        The queries and labels to write: those of process 0, then those of process 1, and so on.

    Raises:
        ValueError: the rows of a process do not fit each other, or those of the others. All
            processes raise it, so that none waits for ever.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8)
        >>> queries, labels = torch.eye(2), torch.tensor([7, 9])
        >>> memory.write(*gathered(queries, labels, mask=labels != 7))
        Write(slots=tensor([0]), hits=tensor([False]), overwritten=tensor([-1]))
    """
    try:
        rows, right = _kept(queries, labels, mask)
    except ValueError:
        # The others wait to hear how many rows come.
        _each(queries.new_tensor([_MISFIT, 0, 0], dtype=torch.int64))
        raise
    facts = [len(rows), rows.shape[1], _DTYPES.index(rows.dtype)]
    every = [one.tolist() for one in _each(right.new_tensor(facts))]
    _check_alike(every)
    counts = [count for count, _, _ in every]
    return _from_all(rows, counts), _from_all(right, counts)


def _kept(queries: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows that count, in a line.

    Raises:
        ValueError: they do not fit each other.
    """
    if queries.dtype not in _DTYPES or queries.dim() == 0:
        raise ValueError(
            f"queries must be a float tensor [..., key_dim], not {queries.dtype} of shape "
            f"{list(queries.shape)}"
        )
    for name, rows in (("labels", labels), ("mask", mask)):
        if rows is not None and rows.shape != queries.shape[:-1]:
            raise ValueError(
                f"{name} of shape {list(rows.shape)} for queries that ask for "
                f"{list(queries.shape[:-1])}: give one a query"
            )
    rows, right = queries.reshape(-1, queries.shape[-1]), labels.reshape(-1).long()
    if mask is None:
        return rows, right
    return rows[mask.reshape(-1)], right[mask.reshape(-1)]


def _check_alike(every: list[list[int]]) -> None:
    """Refuse rows whose number, width and type, as each process says, are not of one kind."""
    for process, (count, _, _) in enumerate(every):
        if count == _MISFIT:
            raise ValueError(
                f"process {process} has rows that do not fit each other; it says which"
            )
    kinds = [(width, _DTYPES[dtype]) for _, width, dtype in every]
    if len(set(kinds)) > 1:
        raise ValueError(f"all processes must give queries of one width and type, not {kinds}")


def _from_all(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of every process; they travel padded, since not every backend can be uneven."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([some[:count] for some, count in zip(_each(padded), counts, strict=True)])


def _each(tensor: Tensor) -> list[Tensor]:
    """This tensor as every process has it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, tensor)
    return found
