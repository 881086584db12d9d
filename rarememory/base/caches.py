"""What is derived from the keys and kept up to date at the cost of the rows that are written."""

from abc import ABC, abstractmethod

from rarememory.base.shapes import Keys, SlotList
from rarememory.base.versions import VersionTracker


class Cache(ABC):
    """Data derived from the keys of a memory, which is updated with every write and never saved.

    The memory calls `before_write` and `after_write` around a change. If the keys were unchanged
    until then, only the slots that changed are updated. Otherwise the cache stays out of date,
    which its owner sees by `tracker` when it next reads it: so is every change that is not
    reported (a checkpoint, the end of a snapshot, an edit by hand).

    Example:
        >>> import torch
        >>> class Doubled(Cache):
        ...     def __init__(self, keys):
        ...         super().__init__()
        ...         self.keys = 2 * keys
        ...         self.tracker.record(keys)
        ...     def update(self, keys, slots):
        ...         self.keys[slots] = 2 * keys[slots]
        >>> keys, slots = torch.zeros(2, 1), torch.tensor([1])
        >>> cache = Doubled(keys)
        >>> cache.before_write(keys)
        >>> keys[slots] = 3.0
        >>> cache.after_write(keys, slots)
        >>> cache.keys.tolist(), cache.tracker.is_unchanged(keys)
        ([[0.0], [6.0]], True)
    """

    def __init__(self) -> None:
        self.tracker = VersionTracker()
        self._up_to_date = False

    @abstractmethod
    def update(self, keys: Keys, slots: SlotList) -> None:
        """Derive the data of these slots again; EMPTY stands for no slot."""

    def before_write(self, keys: Keys) -> None:
        """Called before the memory changes some of its keys."""
        self._up_to_date = self.tracker.is_unchanged(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        """Called when the memory has changed these slots and no others; EMPTY is no slot."""
        if self._up_to_date:
            self.update(keys, slots)
            self.tracker.record(keys)
