"""What checks the shapes and types of calls while tests run."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks its arguments and its result, unless it is made anew by each call of another one.

    To prepare a function for checks takes longer than most such functions run.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
