"""Hooks on layers that only see the calls of their own thread."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

from torch import nn

# Torch numbers its hooks without a lock: two threads may get one number, and one loses its hook.
_LOCK = Lock()

Seen = Callable[[str, Any], None]
"""Takes the name of a layer, and its input or its output."""


@contextmanager
def layer_hooks(
    layers: Mapping[str, nn.Module], before: Seen, after: Seen | None = None
) -> Iterator[None]:
    """See what enters and leaves layers, in the calls that this thread makes inside the block.

    Several threads may call one model at once: each sees its own calls only. The hooks are removed
    at the end of the block.

    Args:
        layers: the layers by name.
        before: gets each input, the first argument of the layer, before the layer runs.
        after: gets each output.

    Example:
        >>> import torch
        >>> seen = []
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten(0))
        >>> with layer_hooks({"1": model[1]}, lambda name, part: seen.append((name, part))):
        ...     answer = model(torch.tensor([[-1.0, 2.0]]))
        >>> seen
        [('1', tensor([[0., 2.]]))]
    """
    thread = get_ident()

    def hooks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        # Without `kwargs` for a moment in other threads, whose calls are of no interest here.
        def enter(_: nn.Module, args: Any, kwargs: Any = None) -> None:
            if get_ident() == thread:
                before(name, next(iter([*args, *(kwargs or {}).values()]), None))

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            if after is not None and get_ident() == thread:
                after(name, output)

        return enter, leave

    handles = []
    try:
        with _LOCK:
            for name, layer in layers.items():
                enter, leave = hooks(name)
                handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
                if after is not None:
                    handles.append(layer.register_forward_hook(leave))
        yield
    finally:
        with _LOCK:
            for handle in handles:
                handle.remove()
