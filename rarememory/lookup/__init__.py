"""Finding the nearest keys: the searches, and choosing one by name, by object or by "auto"."""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.lookup.base import Lookup as Lookup
from rarememory.lookup.faiss import FaissLookup as FaissLookup
from rarememory.lookup.torch import TorchLookup as TorchLookup
from rarememory.lookup.triton import TritonLookup as TritonLookup

LOOKUPS: dict[str, Callable[[], Lookup]] = {
    "triton": TritonLookup,
    "faiss": FaissLookup,
    "torch": TorchLookup,
}


class AutoLookup(Lookup):
    """The first search of an ordered list that can serve the call."""

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
        for lookup in self.lookups:
            if lookup.why_not(queries, keys, k) is None:
                return lookup.nearest(queries, keys, occupied, k)
        raise ValueError(self.why_not(queries, keys, k))

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        reasons = [lookup.why_not(queries, keys, k) for lookup in self.lookups]
        if None in reasons:
            return None
        return "no lookup can serve this: " + "; ".join(str(reason) for reason in reasons)


def choose_lookup(lookup: str | Lookup) -> Lookup:
    """The search called `lookup`, or the object itself.

    Raises:
        ValueError: there is no search of that name.
        ImportError: the search needs a package that is not installed.
    """
    if isinstance(lookup, Lookup):
        return lookup
    if lookup == "auto":
        return AutoLookup()
    if lookup not in LOOKUPS:
        names = ", ".join(f'"{name}"' for name in ["auto", *LOOKUPS])
        raise ValueError(f"no lookup is called {lookup!r}; choose {names}, or pass a Lookup object")
    return LOOKUPS[lookup]()
