"""What a memory, and a model that is not there, are in a file; and tensors by their older names."""

from typing import Any

import torch
from torch import Tensor, nn

from rarememory.base.files import StrPath
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import (
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Update,
)
from rarememory.variants.mean import MeanMemory

POLICIES = {p.__name__: p for p in (AverageOrReplace, AverageOrReplaceRandom, FirstInFirstOut)}
MEMORIES: dict[str, type[Memory]] = {kind.__name__: kind for kind in (Memory, MeanMemory)}

OLD_NAMES = {
    "weighing": "ensembler.weights",
    "threshold": "ensembler.threshold",
    "host_ids": "ensembler.host_ids",
    "host.": "extractor.",
}
"""Names of tensors, or beginnings of them, until version 0.1; and what they are now."""


def rename_old(tensors: dict[str, Any], prefix: str = "") -> None:
    """Give tensors that have names of version 0.1 their present names, in place."""
    for name in list(tensors):
        for old, new in OLD_NAMES.items():
            whole = name == prefix + old
            if whole or (old.endswith(".") and name.startswith(prefix + old)):
                tensors[prefix + new + name[len(prefix + old) :]] = tensors.pop(name)


def memory_settings(memory: Memory) -> dict[str, Any]:
    """What a memory is beside its tensors, as JSON; without its lookup."""
    settings = {
        "key_dim": memory.keys.shape[1],
        "memory_size": memory.keys.shape[0],
        "k": memory.k,
        "margin": memory.margin,
        "temperature": memory.temperature,
        "projection": memory.projection is not None,
        "subtract_margin": memory.subtract_margin,
        "validate": memory.validate,
        "half_precision_copy": memory.half_precision_copy is not None,
    }
    policy = memory.update
    fields = vars(policy) if isinstance(policy, tuple(POLICIES.values())) else {}
    return {
        "memory_class": type(memory).__name__,
        "memory": settings,
        "update": {"name": type(policy).__name__, "fields": fields},
    }


def empty_memory(
    settings: dict[str, Any],
    tensors: dict[str, Tensor],
    update: Update | None,
    lookup: str | Lookup,
    memory_class: type[Memory] | None = None,
) -> Memory:
    """An empty memory with these settings, whose tensors have the dtypes of the given ones.

    Raises:
        ValueError: the class of the memory or its policy is not of this package, and not given.
    """
    # Version 1 did not name the class; only a memory of means has lengths.
    kind = settings.get("memory_class", "MeanMemory" if "lengths" in tensors else "Memory")
    memory_class = MEMORIES.get(kind) if memory_class is None else memory_class
    if memory_class is None:
        raise ValueError(f"the memory is a {kind}, which is not ours: give memory_class=")
    policy = settings["update"]
    if update is None and policy["name"] not in POLICIES:
        raise ValueError(f"it was learnt by a {policy['name']}, which is not ours: give update=")
    update = POLICIES[policy["name"]](**policy["fields"]) if update is None else update
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    key_dtype = dtypes.get("keys", torch.float32)
    own = dict(settings["memory"])
    if "shadow" in own:
        # Files of an older version say it so.
        own["half_precision_copy"] = own.pop("shadow")
    memory = memory_class(**own, update=update, lookup=lookup, key_dtype=key_dtype)
    if memory.projection is not None:
        memory.projection.to(dtypes.get("projection.weight"))
    return memory


def own_tensors(memory: nn.Module, ensembler: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a classifier except its model's, by its name in a state_dict; no copies."""
    own = {f"memory.{name}": tensor for name, tensor in memory.state_dict().items()}
    return own | {f"ensembler.{name}": part for name, part in ensembler.state_dict().items()}


def copy_own_state(_: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Put copies of the tensors of memory and ensembler in place of them, in a state_dict.

    An average of weights that goes through a state_dict writes into it, and finds copies.
    """
    for name, tensor in state.items():
        if name.startswith((f"{prefix}memory.", f"{prefix}ensembler.")):
            state[name] = tensor.clone()


def copy_tensors(own: dict[str, Tensor], stored: dict[str, Tensor], path: StrPath) -> None:
    """Copy what was stored into our own tensors, all of it or nothing.

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    for name, tensor in own.items():
        if name not in stored or stored[name].shape != tensor.shape:
            there = list(stored[name].shape) if name in stored else "nothing"
            raise ValueError(
                f"{str(path)!r} has {there} for {name}, and it must be {list(tensor.shape)}: the "
                "file is damaged, or belongs to another model"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])


class _MissingModel(nn.Module):
    def forward(self, _: Any) -> Tensor:
        raise ValueError("this classifier was loaded without its model, and cannot take inputs")


def missing_model(at: str | None) -> nn.Module:
    """A model that refuses every input, with a layer of this name."""
    model = layer = _MissingModel()
    for name in at.split(".") if at else ():
        layer.add_module(name, deeper := _MissingModel())
        layer = deeper
    return model
