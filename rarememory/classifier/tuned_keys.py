"""Tuned keys: remembered keys are parameters for a while, and go back to what was learnt.

    s_i = q . unit(K_i),   z_y = log sum_{i: V_i = y} exp(s_i / T) + what the host says of y

The keys K of a cache of examples are trained by gradient, from the examples themselves, as
Tip-Adapter-F does (Zhang et al. 2022, section 3.2); z is the formula of
`rarememory.classifier.blend` over the k nearest keys. A tuned key is of all examples that it was
tuned with. So the key that it was learnt with stands beside it, in a buffer with an entry for each
slot, and comes back before anything is learnt or forgotten: what was forgotten is in no key then.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn.functional import normalize

from rarememory.base.state import EMPTY
from rarememory.classifier import blend
from rarememory.classifier.blend import EXCLUDED, BlendWeights, Classes, Evidence
from rarememory.classifier.labelled import LabelledOutputs
from rarememory.memory import Memory
from rarememory.memory.invariants import UNIT
from rarememory.memory.queries import normalized, rows_of

UNTUNED = "untuned"
"""The buffer of the keys that were learnt; zero in a slot whose key is not tuned."""
SAME = 1 - 1e-4
"""An example this near to a key of its class, as a cosine, is the one that the key is of."""

Batches = Callable[[Any], tuple[bool, Iterable[tuple[Tensor, Tensor | None]]]]
Labelled = Callable[[Any, Any], Iterable[LabelledOutputs]]


class TunableKeys(nn.Module):
    """The remembered keys as the parameter of a module that answers by them.

    Rows are of any length: they are scaled to unit length where they are used. The memory itself
    does not change, and others may ask it meanwhile. `MemoryClassifier.tunable_keys` makes it.

    Args:
        memory: whose keys are copied.
        weights: of memory and host.
        classes: that can be answered.
        host_logits: the host's logits from the model's.
        batches: features and the model's logits of inputs; and whether they are one example.
        labelled: the same of inputs with labels, and the integers of these.

    Attributes:
        keys: a row for each occupied slot, in their order.

    Raises:
        ValueError: nothing is remembered.

    Example:
        >>> from rarememory import wrap
        >>> birds = wrap(nn.Identity(), host=False, reader="nearest")
        >>> learnt = birds.learn(torch.eye(3), ["kea", "kea", "weka"])
        >>> with birds.tunable_keys() as keys:
        ...     optimizer = torch.optim.SGD(keys.parameters(), lr=0.1)
        ...     keys.loss(torch.tensor([[0.0, 0.6, 0.8]]), ["kea"]).backward()
        ...     optimizer.step()
        >>> birds.predict(torch.tensor([0.0, 0.6, 0.8]))
        'kea'
        >>> torch.allclose(birds.memory.keys[learnt.slots].norm(dim=1), torch.ones(3))
        True
        >>> birds.untune(), torch.equal(birds.memory.keys[learnt.slots], torch.eye(3))
        (None, True)
    """

    def __init__(
        self,
        memory: Memory,
        weights: BlendWeights,
        classes: Classes,
        host_logits: Callable[[Tensor | None], Tensor | None],
        batches: Batches,
        labelled: Labelled,
    ) -> None:
        super().__init__()
        slots = memory.state.occupied.nonzero().squeeze(1)
        if not len(slots):
            raise ValueError("nothing is remembered, so there are no keys to tune: learn before")
        keys = memory.keys[slots]
        wide = torch.promote_types(keys.dtype, torch.float32)
        self.keys = nn.Parameter(keys.to(wide, copy=True))
        self.slots, self.values = slots, memory.values[slots]
        self._before, self._learnt = keys, learnt_keys(memory)[slots].to(wide)
        self._k = min(memory.k, len(slots))
        # In a tuple, for the projection is not to be tuned.
        self._asked = (keys, memory.projection, memory.validate)
        self._weights, self._classes, self._host_logits = weights, classes, host_logits
        self._batches, self._labelled = batches, labelled

    def forward(self, inputs: Any) -> Float[Tensor, "*batch classes"]:
        """A logit of each of the classifier's classes; inputs are as in `predict`."""
        single, batches = self._batches(inputs)
        rows = torch.cat([self.logits(*batch) for batch in batches])
        return rows[0] if single else rows

    def loss(self, inputs: Any, labels: Any = None) -> Float[Tensor, ""]:
        """The cross-entropy of labelled examples; arguments are as in `learn`.

        Raises:
            ValueError: a label is not known, or there is no example.
        """
        parts = list(self._labelled(inputs, labels))
        if not parts:
            raise ValueError("a loss needs labelled examples, and there is none")
        rows = [self.losses(*part) for part in parts]
        losses: Tensor = torch.cat(rows)
        return losses.mean() if len(losses) else 0 * self.keys.sum()

    def losses(
        self,
        features: Float[Tensor, "batch key_dim"],
        host_logits: Float[Tensor, "batch n_host"] | None,
        ids: Int64[Tensor, " batch"],
    ) -> Float[Tensor, " answered"]:
        """The cross-entropy of each example whose class has any evidence.

        An example that is remembered itself is answered without its own key, which would answer by
        nothing else; if its class has no other key, it is left out.
        """
        z = self.logits(features, host_logits, without=self.own(features, ids))
        columns = self._classes.columns(ids)
        own = z.gather(1, columns.unsqueeze(1)).squeeze(1)
        there = own > EXCLUDED / 2
        return z[there].logsumexp(1) - own[there]

    def logits(
        self,
        features: Float[Tensor, "batch key_dim"],
        host_logits: Float[Tensor, "batch n_host"] | None = None,
        *,
        without: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """The z of every class.

        Args:
            features: of examples.
            host_logits: what the model says of them.
            without: keys that an example is answered without.
        """
        scores = self._queries(features) @ normalize(self.keys, dim=1).T
        if without is not None:
            scores = scores.masked_fill(without, -torch.inf)
        scores, places = scores.topk(self._k, dim=1)
        values = self.values[places].masked_fill(scores == -torch.inf, EMPTY)
        evidence = Evidence(scores, values, self._host_logits(host_logits))
        return blend.class_logits(evidence, self._weights, self._classes)[:, :-1]

    def own(
        self, features: Float[Tensor, "batch key_dim"], ids: Int64[Tensor, " batch"]
    ) -> Bool[Tensor, "batch keys"]:
        """Which keys are of these examples themselves, as they were learnt."""
        same = self._queries(features) @ self._learnt.T >= SAME
        return same & (ids.unsqueeze(1) == self.values)

    def _queries(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            # Copies, for what was made in inference mode has no part in a gradient.
            rows = rows_of(features.clone(), None, None, *self._asked).queries
        return rows.to(self.keys.dtype)

    def write_back(self, memory: Memory) -> None:
        """Let the memory have the keys that have changed, at unit length.

        Raises:
            ValueError: a key is zero or not finite; nothing is written.
            RuntimeError: the memory holds something else than it did; nothing is written.
        """
        memory.require_writable("tune")
        slots = memory.state.occupied.nonzero().squeeze(1)
        same = torch.equal(slots, self.slots) and torch.equal(memory.values[slots], self.values)
        if not same or not torch.equal(memory.keys[slots], self._before):
            raise RuntimeError(
                "what is remembered has changed since its keys were taken, so that these cannot be "
                "written back: tune again"
            )
        keys = self.keys.detach()
        changed = (keys != self._before.to(keys.dtype)).any(1)
        bad = self.slots[~keys.isfinite().all(1) | ~keys.any(1)].tolist()
        if bad:
            raise ValueError(
                f"tuned keys must be finite and not zero; those of slots {bad[:8]} are"
            )
        if changed.any():
            _put(memory, self.slots[changed], normalized(keys[changed], memory.keys.dtype)[0])


@torch.no_grad()
def _put(memory: Memory, slots: Tensor, keys: Tensor) -> None:
    add_untuned(memory)
    untuned = memory.get_buffer(UNTUNED)
    first = slots[~untuned[slots].any(1)]
    untuned[first] = memory.keys[first]
    memory.keys[slots] = keys


def vote_weights(memory: Memory) -> BlendWeights:
    """The weights of a vote over this memory beside a host, before anything is calibrated."""
    numbers = (memory.temperature, blend.FOUND, 1.0, 0.0)
    return BlendWeights(*memory.keys.new_tensor(numbers, dtype=torch.float32))


def add_untuned(memory: Memory) -> bool:
    """Give a memory the buffer, if it has none; return whether it had none.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=3)
        >>> add_untuned(memory), add_untuned(memory), memory.untuned.shape
        (True, False, torch.Size([3, 2]))
    """
    if hasattr(memory, UNTUNED):
        return False
    shape, dtype = memory.keys.shape[1:], memory.keys.dtype
    memory.register_slot_buffer(UNTUNED, tuple(shape), dtype=dtype)
    return True


def learnt_keys(memory: Memory) -> Float[Tensor, "slots key_dim"]:
    """The keys as they were learnt: where none is tuned, the keys themselves."""
    if not hasattr(memory, UNTUNED):
        return memory.keys
    untuned = memory.get_buffer(UNTUNED)
    return untuned.where(untuned.any(1, keepdim=True), memory.keys)


@torch.no_grad()
def untune(memory: Memory) -> None:
    """Take the keys back that were learnt, to the bit; nothing changes where none is tuned.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=3)
        >>> untune(memory)
    """
    if hasattr(memory, UNTUNED):
        memory.require_writable("untune")
        slots = memory.get_buffer(UNTUNED).any(1).nonzero().squeeze(1)
        memory.keys[slots] = memory.get_buffer(UNTUNED)[slots]
        memory.remove_slot_buffer(UNTUNED)


@contextmanager
def untuned(memory: Memory) -> Iterator[None]:
    """Untune for a change in the block; if it is refused, the keys are tuned as before."""
    if not hasattr(memory, UNTUNED):
        yield
        return
    slots = memory.get_buffer(UNTUNED).any(1).nonzero().squeeze(1)
    keys = memory.keys[slots]
    untune(memory)
    try:
        yield
    except BaseException:
        _put(memory, slots, keys)
        raise


def adopt_untuned(memory: Memory, state_dict: dict[str, Tensor], prefix: str) -> bool:
    """Let memory and checkpoint both have the buffer, or neither.

    Args:
        memory: that is to be loaded.
        state_dict: the checkpoint, changed in place.
        prefix: of the memory's names in it.

    Returns:
        Whether the memory has it for this checkpoint.
    """
    name, keys = f"{prefix}{UNTUNED}", state_dict.get(f"{prefix}keys")
    if name in state_dict:
        return add_untuned(memory)
    if hasattr(memory, UNTUNED) and isinstance(keys, Tensor):
        state_dict[name] = torch.zeros_like(keys)
    return False


def check_untuned(stored: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Refuse keys beside tuned ones that no memory has.

    Raises:
        ValueError: they are not like the keys, not of unit length, or of an empty slot.
    """
    untuned, keys = stored.get(UNTUNED), stored["keys"]
    if untuned is None:
        return
    if untuned.shape != keys.shape or not untuned.is_floating_point():
        raise ValueError("its untuned keys must be a float for each number of a key")
    if untuned.is_meta:
        return
    lengths = torch.linalg.vector_norm(
        untuned.to(torch.promote_types(untuned.dtype, torch.float32)), dim=1
    )
    there = lengths > 0
    if (
        not ((lengths[there] - 1).abs() <= UNIT).all()
        or (there & (stored["values"] == EMPTY)).any()
    ):
        raise ValueError("its untuned keys must be of length 1, and zero where a slot is empty")
