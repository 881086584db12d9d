"""Finding the nearest keys: the searches, and choosing one by name, by object or by "auto"."""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

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
"""In the order of "auto": the fastest first."""


class AutoLookup(Lookup):
    """The first search of an ordered list that can serve the call.

    The list is that of `LOOKUPS`, less those whose package is not installed; it is asked at every
    call, so a memory that moves to a GPU is searched there by what searches there.

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
            try:
                self.lookups.append(make())
            except ImportError:
                continue

    def nearest(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        occupied: Bool[Tensor, " slots"],
        k: int,
    ) -> Int64[Tensor, "batch found"]:
        return self.first(queries, keys, k).nearest(queries, keys, occupied, k)

    def nearest_pair(
        self,
        queries: Float[Tensor, "batch key_dim"],
        keys: Float[Tensor, "slots key_dim"],
        values: Int64[Tensor, " slots"],
        labels: Int64[Tensor, " batch"],
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        return self.first(queries, keys, 2).nearest_pair(queries, keys, values, labels)

    def uncached(self) -> "AutoLookup":
        auto = AutoLookup()
        auto.lookups = [lookup.uncached() for lookup in self.lookups]
        return auto

    def before_write(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        for lookup in self.lookups:
            lookup.before_write(keys)

    def after_write(
        self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, " rows"]
    ) -> None:
        for lookup in self.lookups:
            lookup.after_write(keys, slots)

    def first(self, queries: Tensor, keys: Tensor, k: int) -> Lookup:
        """The search that serves this call.

        Raises:
            ValueError: there is none; every refusal is listed.
        """
        reasons = []
        for lookup in self.lookups:
            reason = lookup.why_not(queries, keys, k)
            if reason is None:
                return lookup
            reasons.append(reason)
        raise ValueError("no lookup can serve this: " + "; ".join(reasons))

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
