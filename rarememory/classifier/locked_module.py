"""A module that is copied, pickled, saved and loaded at one moment, while other threads use it."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from jaxtyping import Shaped
from torch import Tensor, nn

from rarememory.base.locks import ReadersWriterLock
from rarememory.classifier.learning import LabelledFeatures
from rarememory.memory import Memory

Changed = TypeVar("Changed")

OWN_MODULES = ("memory", "ensembler")
"""Modules with state that learning and forgetting change; the others belong to the model."""
OWN_ATTRIBUTES = ("_book",)
"""Attributes that they change in place."""


class LockedModule(nn.Module):
    """A module around a memory, whose own state goes with that of the memory.

    What torch, `copy` and `pickle` take of it is of one moment: no other thread writes meanwhile.

    Attributes:
        memory: whose lock is that of the whole module.

    Example:
        >>> module = LockedModule()
        >>> module.memory = Memory(2, 4)
        >>> deepcopy(module).lock is module.lock
        False
    """

    memory: Memory

    @property
    def lock(self) -> ReadersWriterLock:
        """The lock of the memory: take it to look at several parts of the state at one moment."""
        return self.memory.lock

    def change(
        self,
        change: Callable[[], Changed],
        whole: bool = False,
        examples: LabelledFeatures | None = None,
    ) -> Changed:
        """Change the state: each verb that does comes by here, and a store takes it from here.

        Args:
            change: changes it; it may be undone, and called again on another state.
            whole: whether more than some slots, labels, refs and weights change.
            examples: that are learnt, each in a row of its own, where that is all.
        """
        with self.lock.writing():
            return change()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state, as of any module."""
        with self.lock.reading():
            return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state, as any module does."""
        with self.lock.writing():
            return super().load_state_dict(state_dict, *args, **kwargs)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
        """The buffers of the model, without those of the memory, which `state_dict` has too.

        Averages of weights average all that they find here, and labels have no mean.
        """
        own = tuple(f"{prefix}{'.' * bool(prefix)}{name}." for name in OWN_MODULES)
        found = super().named_buffers(prefix, recurse, remove_duplicate)
        return ((name, buffer) for name, buffer in found if not name.startswith(own))

    def __getstate__(self) -> dict[str, Any]:
        # Who copies or pickles it goes through these parts later, when others may write again.
        with self.lock.reading():
            state = {**self.__dict__, "_modules": dict(self._modules)}
            modules = state["_modules"]
            for parts, names in ((modules, OWN_MODULES), (state, OWN_ATTRIBUTES)):
                parts.update({name: deepcopy(parts[name]) for name in names if name in parts})
            return state
