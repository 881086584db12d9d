"""The model inside wrappers that change how it is called, and not what it answers."""

from collections.abc import Container
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)
PREFIXES = ("module.", "_orig_mod.")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of `torch.compile`, `DataParallel`, `DistributedDataParallel` and averages.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> unwrapped(DataParallel(model)) is model is unwrapped(torch.compile(model))
        True
    """
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, WRAPPERS):
        return model.module
    # What torch.compile returns has the model under this name.
    return model._modules.get("_orig_mod")


def prefix_of(model: nn.Module) -> str:
    """What the names of a wrapped model's parts begin with, "" where nothing is wrapped.

    Example:
        >>> prefix_of(DataParallel(nn.Linear(2, 2)))
        'module.'
    """
    prefix = ""
    while (inner := _inner(model)) is not None:
        prefix += PREFIXES[0] if isinstance(model, WRAPPERS) else PREFIXES[1]
        model = inner
    return prefix


def name_inside(name: str, known: Container[str]) -> str | None:
    """The name of a part without the prefixes of wrappers, if it is known; otherwise None.

    Example:
        >>> name_inside("module._orig_mod.fc", {"fc"}), name_inside("module.fc", {"module.fc"})
        ('fc', 'module.fc')
    """
    while name not in known:
        if not name.startswith(PREFIXES):
            return None
        name = name.partition(".")[2]
    return name


def rename_wrapped(state_dict: dict[str, Any], prefix: str, model: nn.Module) -> None:
    """Give the tensors of a model, under `prefix`, the names that they have in its wrappers.

    Example:
        >>> state = {"module.weight": 0}
        >>> rename_wrapped(state, "", nn.Linear(2, 2))
        >>> state
        {'weight': 0}
    """
    own = prefix_of(model)
    inner = unwrapped(model).state_dict().keys()
    for name in [name for name in state_dict if name.startswith(prefix)]:
        plain = name_inside(name.removeprefix(prefix), inner)
        if plain is not None:
            state_dict[prefix + own + plain] = state_dict.pop(name)


def called(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What the model answers, computed in this thread and by the model's own layers.

    A hook on a layer does not run in a compiled model, and in a `DataParallel` it runs in other
    threads. Only a gradient needs `DistributedDataParallel`, which adds up those of all processes.
    """
    if isinstance(model, DistributedDataParallel) and torch.is_grad_enabled():
        return model(*args, **kwargs)
    # Not a plain call, which is the compiled one after `model.compile()`.
    return unwrapped(model)._call_impl(*args, **kwargs)


def compiled_parts(model: nn.Module) -> list[str]:
    """Names of the parts of a model that are compiled, whose layers no hook sees."""
    return [
        name
        for name, part in model.named_modules()
        if name and ("_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None))
    ]
