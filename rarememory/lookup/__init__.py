"""Searches for the nearest keys, and how one is chosen: by name, by object or by "auto"."""

from collections.abc import Callable
from contextlib import suppress

from torch import Tensor

from rarememory.base.shapes import (
    Keys,
    Labels,
    Neighbors,
    Occupied,
    Pair,
    Queries,
    SlotList,
    Values,
)
from rarememory.lookup.base import Lookup as Lookup
from rarememory.lookup.faiss import FaissLookup as FaissLookup
from rarememory.lookup.indexed import IndexedLookup as IndexedLookup
from rarememory.lookup.ivf import FaissIVF as FaissIVF
from rarememory.lookup.lsh import LocalitySensitiveHashing as LocalitySensitiveHashing
from rarememory.lookup.native import NativeLookup as NativeLookup
from rarememory.lookup.torch import TorchLookup as TorchLookup
from rarememory.lookup.triton import TritonLookup as TritonLookup

LOOKUPS: dict[str, Callable[[], Lookup]] = {
    "triton": TritonLookup,
    "native": NativeLookup,
    "faiss": FaissLookup,
    "torch": TorchLookup,
}
"""Exact searches by name, the fastest first: the order in which "auto" tries them."""


class AutoLookup(Lookup):
    """The first search of `LOOKUPS` that supports the call.

    Searches whose package is not installed are left out. The choice is made at every call, so a
    memory that moves to a GPU is searched by a search for GPUs.

    Example:
        >>> import torch
        >>> keys = torch.eye(3, dtype=torch.float16)
        >>> AutoLookup().first(keys, keys, k=1).name
        'torch'
    """

    name = "auto"

    def __init__(self) -> None:
        self.lookups: list[Lookup] = []
        for make in LOOKUPS.values():
            with suppress(ImportError):
                self.lookups.append(make())

    def nearest(self, queries: Queries, keys: Keys, occupied: Occupied, k: int) -> Neighbors:
        return self.first(queries, keys, k).nearest(queries, keys, occupied, k)

    def nearest_pair(self, queries: Queries, keys: Keys, values: Values, labels: Labels) -> Pair:
        return self.first(queries, keys, 2).nearest_pair(queries, keys, values, labels)

    def uncached(self) -> "AutoLookup":
        auto = AutoLookup()
        auto.lookups = [lookup.uncached() for lookup in self.lookups]
        return auto

    def before_write(self, keys: Keys) -> None:
        for lookup in self.lookups:
            lookup.before_write(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        for lookup in self.lookups:
            lookup.after_write(keys, slots)

    def first(self, queries: Tensor, keys: Tensor, k: int) -> Lookup:
        """The first search that supports this call.

        Raises:
            ValueError: there is none; the reason of every search is listed.
        """
        reasons = []
        for lookup in self.lookups:
            reason = lookup.why_not(queries, keys, k)
            if reason is None:
                return lookup
            reasons.append(reason)
        raise ValueError("no lookup supports this call: " + "; ".join(reasons))

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        try:
            self.first(queries, keys, k)
        except ValueError as error:
            return str(error)
        return None


def choose_lookup(lookup: str | Lookup) -> Lookup:
    """The search called `lookup`, or the object itself.

    Raises:
        ValueError: there is no search of that name.
        ImportError: the search needs a package that is not installed.

    Example:
        >>> choose_lookup("torch").name, choose_lookup("auto").name
        ('torch', 'auto')
        >>> list(LOOKUPS)
        ['triton', 'native', 'faiss', 'torch']
    """
    if isinstance(lookup, Lookup):
        return lookup
    if lookup == "auto":
        return AutoLookup()
    if lookup not in LOOKUPS:
        names = ", ".join(f'"{name}"' for name in ["auto", *LOOKUPS])
        raise ValueError(f"no lookup is called {lookup!r}; choose {names}, or pass a Lookup object")
    return LOOKUPS[lookup]()
