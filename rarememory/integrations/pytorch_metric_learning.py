"""pytorch-metric-learning: a memory as its `knn_func`, and its keys as references of its losses.

Nothing of that package is imported here: it takes any callable.
"""

from os import PathLike
from typing import TypedDict

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from rarememory.base.files import write_atomically
from rarememory.base.validation import check_count
from rarememory.integrations.neighbors import without_self
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.queries import normalized

# Most numbers of keys that one read gathers for its scores.
_AT_ONCE = 2**24

Found = tuple[Float[Tensor, "queries k"], Int64[Tensor, "queries k"]]


class References(TypedDict):
    """Keys and values under the argument names of its miners and losses.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> for name, rows in references(memory).items():
        ...     print(name, rows.tolist())
        ref_emb [[1.0, 0.0], [0.0, 1.0]]
        ref_labels [7, 9]
    """

    ref_emb: Float[Tensor, "occupied key_dim"]
    ref_labels: Int64[Tensor, " occupied"]


def references(memory: Memory) -> References:
    """Keys and values for miners and losses: `loss(embeddings, labels, **references(memory))`.

    They are copies, in the order of the slots and in at least float32: gradients reach the
    embeddings and never the keys, and the memory may be written before `backward`. If the memory
    has a projection, give the losses projected embeddings.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> references(memory)["ref_labels"]
        tensor([7, 9])
    """
    with memory.lock.reading():
        occupied = memory.state.occupied
        keys, labels = memory.keys[occupied], memory.values[occupied]
    wide = torch.promote_types(keys.dtype, torch.float32)
    return {"ref_emb": keys.to(wide), "ref_labels": labels}


class MemoryKNN:
    """A `knn_func` for `AccuracyCalculator` and `InferenceModel` that searches by cosine.

    Distances are |q - r|^2 = 2 - 2 cos(q, r) of the unit vectors, as the package's own search gives
    them for normalised embeddings. Of equal references the one with the lower index comes first.

    Args:
        memory: the memory to search. Indices are its slots, so `memory.values[indices]` are the
            labels. If None, `train` and `add` set the references.
        lookup: the search among references that are not a memory's, as in `Memory`.

    Example:
        >>> knn = MemoryKNN()
        >>> distances, indices = knn(torch.tensor([[3.0, 0.1]]), 1, torch.eye(2))
        >>> indices
        tensor([[0]])
    """

    def __init__(self, memory: Memory | None = None, *, lookup: str | Lookup = "auto") -> None:
        self.memory = memory
        self.lookup = lookup
        self._given_memory = memory is not None

    def __call__(
        self,
        query: Float[Tensor, "queries key_dim"],
        k: int,
        reference: Float[Tensor, "references key_dim"] | None = None,
        ref_includes_query: bool = False,
    ) -> Found:
        """Squared distances and indices of the k nearest references of each query, nearest first.

        Args:
            query: rows, none of them zero.
            k: how many.
            reference: rows to search; the memory or the stored references if None.
            ref_includes_query: whether the first references are the queries themselves; a query is
                then not its own neighbour.

        Raises:
            ValueError: there are fewer than k references; or a row is zero or not finite.
        """
        check_count("k", k)
        memory = self._references() if reference is None else _memory_of(reference, self.lookup)
        most = len(memory) - ref_includes_query
        if k > most:
            raise ValueError(f"k is {k}, and there are {most} references: ask for fewer")
        k += ref_includes_query
        rows = max(1, _AT_ONCE // (k * memory.keys.shape[1]))
        with torch.no_grad():
            recalls = [memory(some, k=k) for some in query.to(memory.keys.device).split(rows)]
        scores = torch.cat([recall.scores for recall in recalls])
        slots = torch.cat([recall.slots for recall in recalls])
        if ref_includes_query:
            own = torch.arange(len(slots), device=slots.device)
            scores, slots = without_self(scores, slots, own)
        return (2 - 2 * scores).clamp(min=0).to(query.device), slots.to(query.device)

    def train(self, embeddings: Float[Tensor, "references key_dim"]) -> None:
        """Replace the references by these."""
        self._refuse_for_given_memory("train")
        self.memory = _memory_of(embeddings, self.lookup)

    def add(self, embeddings: Float[Tensor, "references key_dim"]) -> None:
        """Add references; their indices follow those of the others."""
        self._refuse_for_given_memory("add")
        memory = self._references()
        size = len(memory.keys)
        more = _memory_of(embeddings.to(memory.keys.device), self.lookup)
        memory.resize(size + len(embeddings))
        with torch.no_grad():
            memory.keys[size:], memory.values[size:] = more.keys, more.values + size

    def save(self, filename: str | PathLike[str]) -> None:
        """Write the references to a safetensors file."""
        self._refuse_for_given_memory("save")
        tensors = {"references": self._references().keys.cpu()}
        write_atomically(filename, lambda path: save_file(tensors, path))

    def load(self, filename: str | PathLike[str]) -> None:
        """Replace the references by those of a file that `save` wrote.

        Raises:
            ValueError: the file has no references.
        """
        self._refuse_for_given_memory("load")
        keys = load_file(filename).get("references")
        if keys is None:
            raise ValueError(f"{str(filename)!r} has no references: give a file that save() wrote")
        self.memory = _memory_of_units(keys, self.lookup)

    def reset(self) -> None:
        """Remove the references."""
        self._refuse_for_given_memory("reset")
        self.memory = None

    def _references(self) -> Memory:
        if self.memory is None:
            raise ValueError("there are no references yet: train() with some, or pass reference=")
        return self.memory

    def _refuse_for_given_memory(self, verb: str) -> None:
        if self._given_memory:
            raise ValueError(
                f"{verb} changes references, and this search reads a memory: use the memory's own "
                "write, forget and state_dict"
            )


def _memory_of(embeddings: Float[Tensor, "references key_dim"], lookup: str | Lookup) -> Memory:
    """A memory with one embedding per slot, in their order; the values are the slots.

    Raises:
        ValueError: there are no rows, or a row is zero or not finite.
    """
    keys, good = normalized(embeddings.detach(), torch.float32)
    if good is not None and not good.all():
        bad = good.logical_not().nonzero().squeeze(1)[:8].tolist()
        raise ValueError(f"references must be finite and not zero, and these rows are not: {bad}")
    return _memory_of_units(keys, lookup)


def _memory_of_units(keys: Tensor, lookup: str | Lookup) -> Memory:
    memory = Memory(keys.shape[1], len(keys), lookup=lookup).to(keys.device)
    with torch.no_grad():
        memory.keys.copy_(keys)
        memory.values.copy_(torch.arange(len(keys)))
    return memory
