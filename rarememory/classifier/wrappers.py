"""The model inside wrappers that change how it is called, and not what it answers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)
PREFIXES = ("module.", "_orig_mod.")

_LOCK = Lock()
# How torch runs compiled programs is one setting of the process: the first of the blocks that
# overlap sets it, and the last one gives it back.
_ASIDE: list[AbstractContextManager[Any]] = []


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
    # What torch.compile returns has the model under this name. (Parts of a scripted model have no
    # get.)
    if "_orig_mod" in model._modules:
        return model._modules["_orig_mod"]
    return None


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


def known_names(names: Iterable[str]) -> dict[str, str]:
    """These names of parts, by themselves and as they are where nothing is compiled.

    Example:
        >>> known_names(["net._orig_mod.fc"])
        {'net.fc': 'net._orig_mod.fc', 'net._orig_mod.fc': 'net._orig_mod.fc'}
    """
    listed = [*names]
    plain = {name.replace(PREFIXES[1], ""): name for name in reversed(listed)}
    return plain | {name: name for name in listed}


def name_inside(name: str, known: Mapping[str, str]) -> str | None:
    """The name of a part without the prefixes of wrappers, if it is known; otherwise None.

    A part may be compiled in one of two models, and have its usual name in the other.

    Args:
        name: of the part.
        known: what `known_names` gives.

    Example:
        >>> known = known_names(["fc", "net._orig_mod.conv", "tail.fc"])
        >>> [name_inside(name, known) for name in ("module._orig_mod.fc", "net.conv", "head")]
        ['fc', 'net._orig_mod.conv', None]
        >>> name_inside("tail._orig_mod.fc", known)
        'tail.fc'
    """
    while name not in known:
        if not name.startswith(PREFIXES):
            return known.get(name.replace(PREFIXES[1], ""))
        name = name.partition(".")[2]
    return known[name]


def rename_wrapped(state_dict: dict[str, Any], prefix: str, model: nn.Module) -> None:
    """Give the tensors of a model, under `prefix`, the names that they have in its wrappers.

    Example:
        >>> state = {"module.weight": 0}
        >>> rename_wrapped(state, "", nn.Linear(2, 2))
        >>> state
        {'weight': 0}
    """
    own = prefix_of(model)
    inner = known_names(unwrapped(model).state_dict())
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


def scripted_parts(model: nn.Module) -> list[str]:
    """Names of what is scripted in a model, "" for the model itself: no layer takes a hook there.

    Example:
        >>> scripted_parts(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
        []
    """
    parts = model.named_modules()
    return [name for name, part in parts if isinstance(part, torch.jit.ScriptModule)]


def layers_seen(model: nn.Module, names: Iterable[str]) -> AbstractContextManager[None]:
    """A block in which hooks on these layers of a model run, though they be in compiled parts.

    Compiled parts run as their programs, unless one of the layers is in such a part.
    """
    in_program = any(_is_in_program(model, name) for name in names)
    return _programs_aside() if in_program else nullcontext()


def _is_in_program(model: nn.Module, name: str) -> bool:
    """Whether a part on the way to this layer, or the layer itself, is compiled."""
    module: nn.Module | None = model
    for part in name.split(".") if name else ():
        module = module._modules.get(part) if module is not None else None
        if module is None:
            return False
        if "_orig_mod" in module._modules or module.__dict__.get("_compiled_call_impl"):
            return True
    return False


@contextmanager
def _programs_aside() -> Iterator[None]:
    """Compiled parts run layer by layer inside the block, as they do without torch.compile."""
    with _LOCK:
        aside = torch.compiler.set_stance("force_eager") if not _ASIDE else _ASIDE[0]
        _ASIDE.append(aside)
    try:
        yield
    finally:
        with _LOCK:
            _ASIDE.pop()
            if not _ASIDE:
                aside.__exit__(None, None, None)
