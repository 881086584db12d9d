"""What is remembered beside a key: the length of its features, and what the host said of them.

A memory has keys of unit length. One that a classifier makes itself has more of each example, in
buffers with an entry for each slot. With the length of its features a reader has the features
themselves: columns of a table may tell classes by it. With the probability that a host of other
classes gave its likeliest class, a reader finds out how its scores compare with the host's; with
its highest logit, whether an example is like those that the host was trained on.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from rarememory.base.state import wants_gradient
from rarememory.memory import Memory
from rarememory.native import empty_output, is_floats, library

NORMS = "norms"
CONFIDENCES = "confidences"
MAX_LOGITS = "max_logits"
BUFFERS = {NORMS: 1.0, CONFIDENCES: 1.0, MAX_LOGITS: -1.0}
"""What each is of an empty slot, and where it is not known."""
UNKNOWN = BUFFERS[CONFIDENCES], BUFFERS[MAX_LOGITS]
"""The certainty of a host where it is not known; any negative number stands for the second."""
_SHORTEST, _LONGEST = 1e-15, 1e15
"""Between these, squares are float32 too; what is shorter or longer counts as so long."""


class BesideKeys(NamedTuple):
    """What is remembered beside the keys of some rows.

    Attributes:
        norms: lengths of features.
        certainty: the host's highest probability of each, and its highest logit less the mean of
            its logits, over the length of the features; None without a host.
    """

    norms: Float[Tensor, " rows"]
    certainty: Float[Tensor, "rows 2"] | None

    @classmethod
    def of(
        cls, features: Float[Tensor, "rows key_dim"], certainty: Float[Tensor, "rows 2"] | None
    ) -> "BesideKeys":
        """Of features, and of what `Ensembler.certainty` says of the host's logits."""
        norms = norms_of(features)
        if certainty is None:
            return cls(norms, None)
        confidences, max_logits = certainty.unbind(1)
        return cls(norms, torch.stack([confidences, max_logits / norms], 1))

    def at(self, rows: slice | list[int] | Int64[Tensor, " some"]) -> "BesideKeys":
        """Of some of the rows."""
        some = None if self.certainty is None else self.certainty[rows]
        return BesideKeys(self.norms[rows], some)

    def means(self, places: Int64[Tensor, " rows"]) -> "BesideKeys":
        """The means of rows of the same place."""
        some = None if self.certainty is None else _means(self.certainty, places)
        return BesideKeys(_means(self.norms.unsqueeze(1), places).squeeze(1), some)


def _means(numbers: Tensor, places: Tensor) -> Tensor:
    counts = places.bincount().to(numbers.dtype).unsqueeze(1)
    sums = counts.new_zeros(len(counts), numbers.shape[1]).index_add_(0, places, numbers)
    return sums / counts


def norms_of(features: Float[Tensor, "rows key_dim"]) -> Float[Tensor, " rows"]:
    """The length of each row, within what can be squared; NaN and zero rows are not of this kind.

    Example:
        >>> norms_of(torch.tensor([[3.0, 4.0], [3e38, 3e38]]))
        tensor([5.0000e+00, 1.0000e+15])
    """
    if is_floats(features) and not wants_gradient(features):
        found = empty_output(len(features), dtype=torch.float32)
        limits = (_SHORTEST, _LONGEST, torch.get_num_threads())
        library().norms(features, *features.shape, *limits, found)
        return found
    wide = features
    if features.dtype != torch.float32:
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
    norms: Tensor = torch.linalg.vector_norm(wide, dim=1).clamp(_SHORTEST, _LONGEST)
    return norms


def add_buffers(memory: Memory) -> None:
    """Give a memory the buffers; of what it holds already nothing is known.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=3)
        >>> add_buffers(memory)
        >>> slots = memory.write(torch.tensor([[3.0, 4.0]]), torch.tensor([7])).slots
        >>> put_beside(memory, slots, BesideKeys(torch.tensor([5.0]), torch.tensor([[0.9, 2.0]])))
        >>> remembered_features(memory, slots), remembered_certainty(memory, slots)
        (tensor([[3., 4.]]), tensor([[0.9000, 2.0000]]))
    """
    match_buffers(memory, BUFFERS)


def buffers_of(memory: Memory) -> list[str]:
    """The names of those of the buffers that a memory has."""
    return [name for name in BUFFERS if hasattr(memory, name)]


def match_buffers(memory: Memory, names: Collection[str]) -> None:
    """Let a memory have those of the buffers that have these names, and no others."""
    for name, unknown in BUFFERS.items():
        if name in names and not hasattr(memory, name):
            # A length may be more than half precision holds.
            memory.register_slot_buffer(name, fill=unknown, wide=True)
        elif name not in names and hasattr(memory, name):
            memory.remove_slot_buffer(name)


def has_norms(memory: Memory) -> bool:
    """Whether the memory remembers lengths of features; one that projects them has other keys."""
    return hasattr(memory, NORMS) and memory.projection is None


def put_beside(memory: Memory, slots: Int64[Tensor, " rows"] | int, beside: BesideKeys) -> None:
    """Remember this of what was written into the slots, as far as the memory does."""
    put_into_rows(memory, {n: getattr(memory, n) for n in buffers_of(memory)}, slots, beside)


def put_into_rows(
    memory: Memory,
    rows: Mapping[str, Shaped[Tensor, "..."]],
    places: Int64[Tensor, " rows"] | int,
    beside: BesideKeys,
) -> None:
    """The same into rows that the buffers of the memory hold, or would hold after a write."""
    if has_norms(memory):
        _put(rows[NORMS], places, beside.norms)
    if beside.certainty is None:
        return
    for name, numbers in zip((CONFIDENCES, MAX_LOGITS), beside.certainty.unbind(1), strict=True):
        if hasattr(memory, name):
            _put(rows[name], places, numbers)


def _put(buffer: Tensor, slots: Tensor | int, numbers: Tensor) -> None:
    if isinstance(slots, Tensor):
        buffer[slots] = numbers.to(buffer.dtype)
    else:
        # On a GPU without a wait.
        buffer[slots] = numbers.item() if numbers.is_cpu else numbers[0]


def remembered_features(
    memory: Memory, slots: Int64[Tensor, " slots"]
) -> Float[Tensor, "slots key_dim"]:
    """The features that were written into the slots; their keys where lengths are not known."""
    keys = memory.keys[slots]
    return keys * memory.get_buffer(NORMS)[slots].unsqueeze(1) if has_norms(memory) else keys


def remembered_certainty(
    memory: Memory, slots: Int64[Tensor, " slots"]
) -> Float[Tensor, "slots 2"]:
    """The host's certainty of what was written into the slots; `UNKNOWN` where it is not known."""
    columns = [
        memory.get_buffer(name)[slots]
        if hasattr(memory, name)
        else torch.full((len(slots),), BUFFERS[name], device=slots.device)
        for name in (CONFIDENCES, MAX_LOGITS)
    ]
    return torch.stack(columns, 1)


def adopt_buffers(memory: Memory, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Give a checkpoint what the memory has beside keys and it has not, or take it from there.

    Args:
        memory: that is to be loaded.
        state_dict: the checkpoint, changed in place.
        prefix: of the memory's names in it.
    """
    keys = state_dict.get(f"{prefix}keys")
    for buffer, unknown in BUFFERS.items():
        name = f"{prefix}{buffer}"
        if not hasattr(memory, buffer):
            state_dict.pop(name, None)
        elif isinstance(keys, Tensor) and name not in state_dict:
            state_dict[name] = torch.full((len(keys),), unknown, device=keys.device)


def check_buffers(stored: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Refuse lengths that no features have, and what is no probability.

    Raises:
        ValueError: a length is not positive and finite, a probability is not greater than 0 and at
            most 1, or there is not one for each slot.
    """
    for name in BUFFERS:
        numbers = stored.get(name)
        if numbers is None:
            continue
        if numbers.shape != stored["values"].shape or not numbers.is_floating_point():
            raise ValueError(f"its {name} must be a float for each slot")
        if numbers.is_meta:
            continue
        if name == NORMS and not ((numbers > 0) & numbers.isfinite()).all():
            raise ValueError(f"its {name} must be positive and finite")
        if name == CONFIDENCES and not ((numbers > 0) & (numbers <= 1)).all():
            raise ValueError(f"its {name} must be greater than 0 and at most 1")
