"""A classifier as a file, and back: what has to be in it beside the tensors."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rarememory.classifier.answering import Answering
from rarememory.classifier.labels import decoded, encoded
from rarememory.classifier.persistence import StrPath, read_file, write_file
from rarememory.lookup import Lookup
from rarememory.memory import Memory
from rarememory.memory.updates import (
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Update,
)

POLICIES = {p.__name__: p for p in (AverageOrReplace, AverageOrReplaceRandom, FirstInFirstOut)}

AnyMemory = TypeVar("AnyMemory", bound=Memory)
Classifier = TypeVar("Classifier", bound=Answering)


def save_classifier(classifier: Answering, path: StrPath) -> None:
    """Write all of it but the host."""
    header = {
        "host": {"at": classifier.host.at, "answers": classifier.host.answers},
        **settings_of(classifier.memory),
        "unknown": encoded(classifier.unknown),
        "batch_size": classifier.batch_size,
        "book": classifier._book(),
    }
    write_file(path, _own_tensors(classifier), header)


def load_classifier(
    kind: type[Classifier],
    path: StrPath,
    model: nn.Module | None,
    update: Update | None,
    lookup: str | Lookup,
) -> Classifier:
    """A classifier of this kind as it was saved, around its host or around nothing."""
    tensors, header = read_file(path)
    memory: Memory = memory_with(header, _under("memory.", tensors), update, lookup)
    answers, n_host = header["host"]["answers"], len(tensors["host_ids"])
    classifier = kind(
        _nobody(header["host"]["at"]) if model is None else model,
        at=header["host"]["at"],
        host=answers,
        classes=range(n_host) if answers else None,
        memory=memory,
        unknown=decoded(header["unknown"]),
        batch_size=header["batch_size"],
    )
    fill(_own_tensors(classifier), tensors, path)
    classifier._read_book(header["book"])
    return classifier


def settings_of(memory: Memory) -> dict[str, Any]:
    """What a memory is beside its tensors, as JSON can hold it; the search is not in it."""
    settings = {
        "key_dim": memory.keys.shape[1],
        "memory_size": memory.keys.shape[0],
        "k": memory.k,
        "margin": memory.margin,
        "temperature": memory.temperature,
        "projection": memory.projection is not None,
        "subtract_margin": memory.subtract_margin,
        "validate": memory.validate,
        "shadow": memory.shadow is not None,
    }
    return {"memory": settings, "update": _policy_as_json(memory.update)}


def memory_with(
    settings: dict[str, Any],
    tensors: dict[str, Tensor],
    update: Update | None,
    lookup: str | Lookup,
    kind: type[AnyMemory] = Memory,  # type: ignore[assignment]
) -> AnyMemory:
    """An empty memory with these settings, whose tensors have the dtypes of these."""
    update = _policy(settings["update"]) if update is None else update
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    key_dtype = dtypes.get("keys", torch.float32)
    memory = kind(**settings["memory"], update=update, lookup=lookup, key_dtype=key_dtype)
    if memory.projection is not None:
        memory.projection.to(dtypes.get("projection.weight"))
    return memory


def fill(own: dict[str, Tensor], stored: dict[str, Tensor], path: StrPath) -> None:
    """Copy what was stored into our own tensors, all of it or nothing.

    Raises:
        ValueError: a tensor is not there, or has another shape.
    """
    for name, tensor in own.items():
        _check_shape(name, stored.get(name), tensor, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])


class _Nobody(nn.Module):
    def forward(self, _: Any) -> Tensor:
        raise ValueError("this classifier was loaded without its model, and sees nothing")


def _nobody(at: str | None) -> nn.Module:
    """A model that is not there, with a layer of this name."""
    model = layer = _Nobody()
    for name in at.split(".") if at else ():
        layer.add_module(name, deeper := _Nobody())
        layer = deeper
    return model


def _own_tensors(classifier: Answering) -> dict[str, Tensor]:
    """Everything but the host, by the name it has in a state_dict; the tensors themselves."""
    own = {"memory." + name: tensor for name, tensor in classifier.memory.state_dict().items()}
    return own | dict(classifier.named_buffers(recurse=False))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = len(prefix)
    return {name[start:]: part for name, part in tensors.items() if name.startswith(prefix)}


def _check_shape(name: str, stored: Tensor | None, tensor: Tensor, path: StrPath) -> None:
    if stored is None or stored.shape != tensor.shape:
        there = "nothing" if stored is None else list(stored.shape)
        raise ValueError(
            f"{str(path)!r} has {there} for {name}, and it must be {list(tensor.shape)}: the file "
            "is damaged, or belongs to another model"
        )


def _policy_as_json(policy: Update) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(policy, tuple(POLICIES.values())):
        fields = vars(policy)
    return {"name": type(policy).__name__, "fields": fields}


def _policy(stored: dict[str, Any]) -> Update:
    if stored["name"] not in POLICIES:
        raise ValueError(f"it was learnt by a {stored['name']}, which is not ours: give update=")
    policy: Update = POLICIES[stored["name"]](**stored["fields"])
    return policy
