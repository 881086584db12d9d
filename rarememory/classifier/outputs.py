"""From what a model returns to one tensor: its logits, or its features."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Output = str | int | Callable[[Any], Tensor]
"""Which part of what the model returns: a key or an attribute, a place, or a function of it."""

OWN_FUNCTION = ["a function"]
"""What a file says in place of a function: no key and no place is a list."""


def stored_output(host: dict[str, Any], given: Output | None) -> Output | None:
    """The part that a file names, or the one that is given to `load`.

    Raises:
        ValueError: it was a function, which no file holds, and none is given.
    """
    stored: Any = host.get("output")
    if given is None and stored == OWN_FUNCTION:
        raise ValueError("it was learnt with a function of your own as output=: give that again")
    return stored if given is None else given


def read_output(returned: Any, part: Output | None, inputs: Any, has_logits: bool) -> Tensor:
    """The logits, or the features, in what a model returned.

    A tensor is taken as it is. Of a dict, or an object of Hugging Face, it is `logits`; of an
    encoder otherwise `pooler_output`, or the mean of `last_hidden_state` over the tokens that
    `attention_mask` keeps; or the only tensor there is. Of a tuple or a list it is the first part,
    if that is a tensor of at least two dimensions.

    Args:
        returned: what the model returned.
        part: which part of it, if it is another.
        inputs: of the model, which may have an `attention_mask`.
        has_logits: whether the model is a classifier.

    Raises:
        ValueError: it has no such part, or nothing says which part it is; or that is no dense
            tensor of real numbers, or has one number for each example and no logits.

    Example:
        >>> import torch
        >>> logits = torch.ones(1, 2)
        >>> read_output({"loss": None, "logits": logits}, None, None, True) is logits
        True
    """
    if part is not None:
        value = part(returned) if callable(part) else _part(returned, part)
    else:
        value = returned if isinstance(returned, Tensor) else _usual(returned, inputs, has_logits)
    if isinstance(value, Tensor):
        _check_numbers(value, has_logits)
        return value
    if part is not None:
        raise ValueError(
            f"output={part!r} gives {_kind(value)} of {described(returned)}, and it must give a "
            "tensor"
        )
    encoder = "; host=False if it is an encoder without classes" if has_logits else ""
    raise ValueError(
        f"the model returned {described(returned)}, and nothing says which part are its "
        f"{'logits' if has_logits else 'features'}: name it with output= (a key, a place, or a "
        f"function that takes what the model returned){encoder}"
    )


def described(returned: Any) -> str:
    """What a model returned, in words: its kind, and the name and shape of its parts.

    Example:
        >>> import torch
        >>> described((torch.ones(2, 3), None))
        'a tuple of a tensor [2, 3] and a NoneType'
    """
    parts = _parts(returned)
    if parts is not None:
        return f"a {type(returned).__name__} of " + _listed(
            [f"{name!r}: {_kind(value)}" for name, value in parts.items()]
        )
    if isinstance(returned, list | tuple):
        return f"a {type(returned).__name__} of " + _listed([_kind(value) for value in returned])
    return _kind(returned)


def _check_numbers(value: Tensor, has_logits: bool) -> None:
    what = "logits" if has_logits else "features"
    if value.layout != torch.strided:
        raise ValueError(
            f"the {what} {list(value.shape)} are sparse: make them dense, as in "
            "output=lambda returned: returned.to_dense()"
        )
    if value.is_complex():
        raise ValueError(
            f"the {what} {list(value.shape)} are complex numbers: make them real, as in "
            "output=lambda returned: returned.abs()"
        )
    if has_logits and value.dim() < 2:
        raise ValueError(
            f"the model returned {list(value.shape)}, and logits are [batch, classes]: if these "
            "are logits of the second of two classes, name the last layer with at= and say "
            "output=lambda z: torch.stack([-z / 2, z / 2], 1); if they are classes, let the model "
            "return the logits that it chose them by"
        )


def _usual(returned: Any, inputs: Any, has_logits: bool) -> Any:
    parts = _parts(returned)
    if parts is None:
        first = returned[0] if isinstance(returned, list | tuple) and returned else None
        return first if isinstance(first, Tensor) and first.dim() > 1 else None
    if isinstance(parts.get("logits"), Tensor):
        return parts["logits"]
    if not has_logits and isinstance(parts.get("pooler_output"), Tensor):
        return parts["pooler_output"]
    if not has_logits and isinstance(parts.get("last_hidden_state"), Tensor):
        return _mean_of_tokens(parts["last_hidden_state"], inputs)
    tensors = [value for value in parts.values() if isinstance(value, Tensor)]
    hidden = {"pooler_output", "last_hidden_state"} & parts.keys()
    return tensors[0] if len(tensors) == 1 and not hidden else None


def _mean_of_tokens(states: Tensor, inputs: Any) -> Tensor:
    """The mean over the tokens; a feature map of a convolution is left as it is."""
    if states.dim() != 3:
        return states
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    weights = mask.to(states.dtype).unsqueeze(2)
    mean: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return mean


def _parts(returned: Any) -> dict[str, Any] | None:
    """The named parts of a dict or an object; None if it has none."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    if isinstance(returned, Tensor | list | tuple | str) or not hasattr(returned, "__dict__"):
        return None
    return {name: value for name, value in vars(returned).items() if not name.startswith("_")}


def _part(returned: Any, part: str | int) -> Any:
    parts = _parts(returned)
    if isinstance(part, str) and parts is not None and part in parts:
        return parts[part]
    if isinstance(part, str):
        value = getattr(returned, part, None)
    else:
        values = [*parts.values()] if parts is not None else returned
        fits = isinstance(values, list | tuple) and -len(values) <= part < len(values)
        value = values[part] if fits else None
    if value is None:
        raise ValueError(
            f"the model returned {described(returned)}, which has no {part!r}: "
            "name another part with output="
        )
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return f"a {type(value).__name__}"


def _listed(parts: list[str]) -> str:
    if len(parts) < 2:
        return parts[0] if parts else "nothing"
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
