"""What a classifier is made with: each option is of the kind that it must be."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from rarememory.memory import Memory


def check_options(at: Any, host: Any, output: Any, classes: Any, memory: Any) -> None:
    """Refuse what is no name of a layer, no answer to a question, no part, no list or no memory.

    Raises:
        ValueError: the option, what it was, and what it has to be.

    Example:
        >>> check_options("fc", True, "logits", ["kea", "weka"], None)
        >>> check_options(None, True, None, "kea", None)
        Traceback (most recent call last):
            ...
        ValueError: classes must be a list with a name for each output, not 'kea'
    """
    if not (at is None or isinstance(at, str)):
        raise ValueError(f"at must be the name of a layer, as in 'backbone.fc', not {at!r}")
    if not isinstance(host, bool):
        raise ValueError(f"host must be True, if the model has classes of its own, not {host!r}")
    is_part = isinstance(output, str | int) and not isinstance(output, bool)
    if not (output is None or is_part or callable(output)):
        raise ValueError(f"output must be a key, a place or a function, not {output!r}")
    is_list = isinstance(classes, Iterable) and not isinstance(classes, str | bytes | Tensor)
    if not (classes is None or is_list):
        raise ValueError(f"classes must be a list with a name for each output, not {classes!r}")
    if not (memory is None or isinstance(memory, Memory)):
        raise ValueError(
            f"memory must be a Memory, not {memory!r}: for a number of slots give memory_size="
        )
