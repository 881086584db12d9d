"""What a memory is beside its tensors, as JSON: its class, its numbers and its policy."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rarememory.classifier.beside_keys import BUFFERS, match_buffers
from rarememory.classifier.invariants import check_settings
from rarememory.classifier.tuned_keys import UNTUNED, add_untuned
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.budgets import PerClass, Protected, Reservoir
from rarememory.memory.selections import ClosestToCentre, Herding, Selection
from rarememory.memory.updates import (
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    LeastRecentlyUsed,
    LeastUsed,
    Update,
)
from rarememory.variants.mean import MeanMemory

POLICIES: dict[str, type[Any]] = {
    policy.__name__: policy
    for policy in (
        AverageOrReplace,
        AverageOrReplaceRandom,
        FirstInFirstOut,
        LeastRecentlyUsed,
        LeastUsed,
        PerClass,
        Reservoir,
        Protected,
        Herding,
        ClosestToCentre,
    )
}
MEMORIES: dict[str, type[Memory]] = {kind.__name__: kind for kind in (Memory, MeanMemory)}


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
        "count_usage": memory.usage is not None,
    }
    return {
        "memory_class": type(memory).__name__,
        "memory": settings,
        "update": _policy_to_json(memory.update),
    }


def _policy_to_json(policy: object) -> dict[str, Any]:
    """The name and the fields of a policy, and of those inside it."""
    own = vars(policy) if isinstance(policy, tuple(POLICIES.values())) else {}
    stored = {
        name: _policy_to_json(value) if isinstance(value, Update | Selection) else value
        for name, value in own.items()
    }
    return {"name": type(policy).__name__, "fields": stored}


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
    settings = _present(settings)
    check_settings(settings)
    # Version 1 did not name the class; only a memory of means has lengths.
    kind = settings.get("memory_class", "MeanMemory" if "lengths" in tensors else "Memory")
    memory_class = MEMORIES.get(kind) if memory_class is None else memory_class
    if memory_class is None:
        raise ValueError(f"the memory is a {kind}, which is not ours: give memory_class=")
    update = _policy(settings["update"]) if update is None else update
    own, keys = settings["memory"], tensors.get("keys")
    # Before there is room for as many keys as the settings say.
    if keys is not None and list(keys.shape) != [own["memory_size"], own["key_dim"]]:
        raise ValueError(
            f"it has {list(keys.shape)} for keys, and it must be "
            f"{[own['memory_size'], own['key_dim']]}, as its header says"
        )
    key_dtype = torch.float32 if keys is None else keys.dtype
    try:
        memory = memory_class(**own, update=update, lookup=lookup, key_dtype=key_dtype)
    except TypeError as error:
        raise ValueError(f"a {memory_class.__name__} cannot have its settings ({error})") from error
    match_buffers(memory, tensors.keys() & {*BUFFERS})
    if UNTUNED in tensors:
        add_untuned(memory)
    weight = tensors.get("projection.weight")
    if memory.projection is not None and weight is not None and weight.is_floating_point():
        memory.projection.to(weight.dtype)
    return memory


def _present(settings: Any) -> Any:
    """Settings by their present names; files of an older version call one otherwise."""
    own = settings.get("memory") if isinstance(settings, dict) else None
    if not isinstance(own, dict) or "shadow" not in own:
        return settings
    rest = {name: value for name, value in own.items() if name != "shadow"}
    return {**settings, "memory": {**rest, "half_precision_copy": own["shadow"]}}


def _policy(stored: dict[str, Any]) -> Any:
    """The policy of writing that a file names, or what is inside one."""
    policy = POLICIES.get(stored["name"])
    if policy is None:
        raise ValueError(f"it was learnt by a {stored['name']}, which is not ours: give update=")
    names = {field.name for field in fields(policy)}
    if stored["fields"].keys() - names:
        raise ValueError(f"{stored['name']} has {names or 'no options'}, not {stored['fields']}")
    inside = {
        name: _policy(value) if isinstance(value, dict) else value
        for name, value in stored["fields"].items()
    }
    try:
        return policy(**inside)
    except TypeError as error:
        raise ValueError(f"a {stored['name']} cannot have its options ({error})") from error
