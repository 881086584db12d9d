"""What a sharded memory does not do, and says so."""

from collections.abc import Callable
from typing import Any, NoReturn


def refused(what: str) -> Callable[..., NoReturn]:
    """A method that says that a sharded memory cannot be this.

    Example:
        >>> refused("merged")(None)
        Traceback (most recent call last):
        ValueError: a sharded memory cannot be merged
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise ValueError(f"a sharded memory cannot be {what}")

    return refuse
