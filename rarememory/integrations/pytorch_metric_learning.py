"""The door to pytorch-metric-learning: our search as its `knn_func`, our keys as its references.

Nothing of that package is imported here: it asks for callables, and is given them.
"""

from os import PathLike
from typing import TypedDict

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from rarememory.base.validation import check_count
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.queries import normalized

# Numbers that the scores of one piece of the queries may gather.
_AT_ONCE = 2**24

Found = tuple[Float[Tensor, "queries k"], Int64[Tensor, "queries k"]]


class References(TypedDict):
    """Keys and values under the names that its miners and losses have for them.

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
    """What is remembered, for miners and losses: `loss(embeddings, labels, **references(memory))`.

    The two are copies, in the order of the slots and in at least float32: gradients reach the
    embeddings and never the keys, and a write before `backward` does no harm. Where the memory has
    a projection, give the losses projected embeddings.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=4)
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 9]))
        >>> references(memory)["ref_labels"]
        tensor([7, 9])
    """
    occupied = memory.state.occupied
    keys = memory.keys[occupied]
    wide = torch.promote_types(keys.dtype, torch.float32)
    return {"ref_emb": keys.to(wide), "ref_labels": memory.values[occupied]}


class MemoryKNN:
    """A `knn_func` for `AccuracyCalculator` and `InferenceModel`: our search, by cosine.

    It finds the nearest references, and says |q - r|^2 = 2 - 2 cos(q, r) of the unit vectors: the
    distance that the package's own search gives for normalised embeddings. Of equal references the
    one with the lower number comes first.

    Args:
        memory: search what this memory remembers. The indices are its slots, so that
            `memory.values[indices]` are the labels. Without, `train` and `add` give the references.
        lookup: the search of references that come without a memory, as in `Memory`.

    Example:
        >>> knn = MemoryKNN()
        >>> distances, indices = knn(torch.tensor([[3.0, 0.1]]), 1, torch.eye(2))
        >>> indices
        tensor([[0]])
    """

    def __init__(self, memory: Memory | None = None, *, lookup: str | Lookup = "auto") -> None:
        self.memory = memory
        self.lookup = lookup
        self._given = memory is not None

    def __call__(
        self,
        query: Float[Tensor, "queries key_dim"],
        k: int,
        reference: Float[Tensor, "references key_dim"] | None = None,
        ref_includes_query: bool = False,
    ) -> Found:
        """Squared distances and numbers of the k nearest references of each query, nearest first.

        Args:
            query: rows of any length but zero.
            k: how many.
            reference: rows to search; without it, what was added or is remembered.
            ref_includes_query: whether the first references are the queries themselves; none of
                them is then its own neighbour.

        Raises:
            ValueError: there are no references, or fewer than k; or a row has no direction.
        """
        check_count("k", k)
        memory = self._known() if reference is None else _holding(reference, self.lookup)
        there = len(memory) - ref_includes_query
        if k > there:
            raise ValueError(f"k is {k}, and there are {there} references: ask for fewer")
        wanted = k + ref_includes_query
        piece = max(1, _AT_ONCE // (wanted * memory.keys.shape[1]))
        asked = query.to(memory.keys.device).split(piece)
        with torch.no_grad():
            read = [memory(some, k=wanted) for some in asked]
        scores = torch.cat([recall.scores for recall in read])
        slots = torch.cat([recall.slots for recall in read])
        if ref_includes_query:
            scores, slots = _without_themselves(scores, slots)
        return (2 - 2 * scores).clamp(min=0).to(query.device), slots.to(query.device)

    def train(self, embeddings: Float[Tensor, "references key_dim"]) -> None:
        """Forget the references, and take these."""
        self._refuse_if_given("train")
        self.memory = _holding(embeddings, self.lookup)

    def add(self, embeddings: Float[Tensor, "references key_dim"]) -> None:
        """Take these references too; numbers go on where they were."""
        self._refuse_if_given("add")
        known = self._known()
        size = len(known.keys)
        more = _holding(embeddings.to(known.keys.device), self.lookup)
        known.resize(size + len(embeddings))
        with torch.no_grad():
            known.keys[size:], known.values[size:] = more.keys, more.values + size

    def save(self, filename: str | PathLike[str]) -> None:
        """Write the references to a safetensors file."""
        self._refuse_if_given("save")
        save_file({"references": self._known().keys.cpu()}, filename)

    def load(self, filename: str | PathLike[str]) -> None:
        """Take the references of a file that `save` wrote.

        Raises:
            ValueError: it has none.
        """
        self._refuse_if_given("load")
        keys = load_file(filename).get("references")
        if keys is None:
            raise ValueError(f"{str(filename)!r} has no references: give a file that save() wrote")
        self.memory = _of(keys, self.lookup)

    def reset(self) -> None:
        """Forget the references."""
        self._refuse_if_given("reset")
        self.memory = None

    def _known(self) -> Memory:
        if self.memory is None:
            raise ValueError("there are no references yet: train() with some, or pass reference=")
        return self.memory

    def _refuse_if_given(self, verb: str) -> None:
        if self._given:
            raise ValueError(
                f"{verb} is for references of its own, and this search reads a memory of yours: "
                "write, forget and save there"
            )


def _holding(embeddings: Float[Tensor, "references key_dim"], lookup: str | Lookup) -> Memory:
    """A memory that holds one embedding a slot, in their order; the values are the slots.

    Raises:
        ValueError: there is none, or a row is zero or not finite.
    """
    keys, good = normalized(embeddings.detach(), torch.float32)
    if good is not None and not good.all():
        bad = good.logical_not().nonzero().squeeze(1)[:8].tolist()
        raise ValueError(f"references must be finite and not zero, and these rows are not: {bad}")
    return _of(keys, lookup)


def _of(keys: Tensor, lookup: str | Lookup) -> Memory:
    memory = Memory(keys.shape[1], len(keys), lookup=lookup).to(keys.device)
    with torch.no_grad():
        memory.keys.copy_(keys)
        memory.values.copy_(torch.arange(len(keys)))
    return memory


def _without_themselves(scores: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """The neighbours of row i without reference i."""
    own = torch.arange(len(slots), device=slots.device).unsqueeze(1)
    others = slots != own
    # One behind more than k equal references is not among its own neighbours: then the last goes.
    others[:, -1] &= ~others.all(dim=1)
    return scores[others].view(len(slots), -1), slots[others].view(len(slots), -1)
