"""What a memory, and a model that is not there, are in a file; and tensors by their older names."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from rarememory.base.files import StrPath
from rarememory.classifier.invariants import (
    book_of,
    check_book,
    check_ensembler,
    check_settings,
)
from rarememory.classifier.norms import NORMS, add_norms, check_norms
from rarememory.classifier.tuned_keys import UNTUNED, add_untuned, check_untuned
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
    if NORMS in tensors and not hasattr(memory, NORMS):
        add_norms(memory)
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


def check_shapes(own: dict[str, Tensor], stored: dict[str, Tensor], path: StrPath) -> None:
    """Refuse what was stored if it does not fit our own tensors.

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


@torch.no_grad()
def copy_tensors(own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Copy what was stored, and has been checked, into our own tensors."""
    for name, tensor in own.items():
        tensor.copy_(stored[name])


@contextmanager
def refusals_of(path: StrPath) -> Iterator[None]:
    """Say of whatever is refused in the block which file it is of, in a sentence."""
    try:
        yield
    except ValueError as error:
        # It may quote a text of the file, which may be long.
        raise ValueError(f"{str(path)!r} cannot be loaded: {str(error)[:400]}") from error


def part_of(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def checked_book(
    memory: Memory,
    ensembler: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str,
    own: Callable[[], dict[str, Any]],
) -> dict[str, Any] | None:
    """Labels and refs of a checkpoint, as JSON, after all of it was checked.

    What the checkpoint lacks is ours: `own` gives our labels and refs. None if it has no part of a
    classifier but the model.

    Raises:
        ValueError: what no classifier has, or what does not fit each other.
    """
    of_memory = part_of(state_dict, f"{prefix}memory.")
    of_ensembler = part_of(state_dict, f"{prefix}ensembler.")
    has_book = (name := f"{prefix}_extra_state") in state_dict
    if not of_memory and not of_ensembler and not has_book:
        return None
    of_memory = {**memory.state_dict(), **of_memory}
    of_ensembler = {**ensembler.state_dict(), **of_ensembler}
    memory.check_stored(of_memory)
    check_norms(of_memory)
    check_untuned(of_memory)
    check_ensembler(of_ensembler)
    book: dict[str, Any] = book_of(state_dict[name]) if has_book else own()
    check_book(book, of_memory["values"], of_ensembler["host_ids"])
    return book


def keep_own(state_dict: dict[str, Any], prefix: str, own: Mapping[str, Tensor]) -> None:
    """Put our own tensors in place of those of a state_dict, so that loading it changes nothing."""
    for name in own.keys() & {name.removeprefix(prefix) for name in state_dict}:
        state_dict[prefix + name] = own[name]


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
