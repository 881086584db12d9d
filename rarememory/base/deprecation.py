"""Old names that keep working for one release, with a DeprecationWarning."""

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_attributes(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) that finds names by their old spelling.

    Args:
        module: the `__name__` of the module that had the old names.
        new_names: the new name of each old one. A new name that is not of the same module is
            given with its own: "rarememory.base.state.EMPTY".

    Raises:
        AttributeError: from the `__getattr__`, if the name is not an old one either.

    Example:
        >>> find = renamed_attributes("rarememory.base.state", {"NOTHING": "EMPTY"})
        >>> with warnings.catch_warnings(record=True, action="always") as seen:
        ...     find("NOTHING")
        -1
        >>> print(seen[0].message)
        rarememory.base.state.NOTHING is now EMPTY; the old name goes with the next release
    """

    def __getattr__(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = new_names[name]
        _warn(f"{module}.{name} is now {new}; the old name goes with the next release")
        home, _, attribute = new.rpartition(".")
        return getattr(import_module(home or module), attribute)

    return __getattr__


def renamed_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of a function or method that also takes keywords by their old spelling.

    Args:
        new_names: the new name of each old one, as in `renamed_keywords(old="new")`.

    Raises:
        TypeError: from the decorated function, if a keyword is given by both names.

    Example:
        >>> @renamed_keywords(size="memory_size")
        ... def slots(*, memory_size: int) -> int:
        ...     return memory_size
        >>> with warnings.catch_warnings(record=True, action="always") as seen:
        ...     slots(size=3)
        3
        >>> print(seen[0].message)
        slots(size=) is now slots(memory_size=); the old name goes with the next release
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def with_old_keywords(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(f"{name}() got both {new} and {old}, its old name: give {new}")
                _warn(
                    f"{name}({old}=) is now {name}({new}=); the old name goes with the next release"
                )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return with_old_keywords

    return decorate


def _warn(message: str) -> None:
    # Shown at the line that uses the old name: above it are only this function and its caller.
    warnings.warn(message, DeprecationWarning, stacklevel=3)
