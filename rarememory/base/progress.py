"""One progress bar for everything that takes long; tqdm draws it."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any


class ProgressBar:
    """A bar of tqdm, or one of the same methods that shows nothing.

    Args:
        items: to iterate over.
        shown: the bar of tqdm over the items; None for a hidden bar.

    Example:
        >>> with ProgressBar(range(3)) as bar:
        ...     sum(bar)
        3
    """

    def __init__(self, items: Iterable[Any], shown: Any = None) -> None:
        self._items: Iterable[Any] = items if shown is None else shown
        self._shown = shown

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown is not None:
            self._shown.close()

    def update(self, steps: int = 1) -> None:
        """Count so many steps more."""
        if self._shown is not None:
            self._shown.update(steps)

    def set_postfix(self, **numbers: object) -> None:
        """Show these numbers behind the bar."""
        if self._shown is not None:
            self._shown.set_postfix(numbers)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        (print if self._shown is None else self._shown.write)(text)


def progress_bar(
    items: Iterable[Any] = (),
    *,
    total: int | None = None,
    initial: int = 0,
    description: str | None = None,
    unit: str = "it",
    show: bool | None = None,
) -> ProgressBar:
    """A bar over items, or over `total` steps that its user counts by `update`.

    Args:
        items: to iterate over.
        total: how many steps there are; the length of the items if None.
        initial: steps that were done before, as by a run that goes on from a checkpoint.
        description: stands before the bar.
        unit: of a step.
        show: always (True), never (False), or (None) if stderr is a terminal and tqdm is installed.

    Raises:
        ModuleNotFoundError: `show` is True, and tqdm is not installed.

    Example:
        >>> [step for step in progress_bar(range(3), show=False)]
        [0, 1, 2]
    """
    if show is False:
        return ProgressBar(items)
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if show is None:
            return ProgressBar(items)
        raise ModuleNotFoundError(
            'the progress bar needs tqdm: pip install "rarememory[vision]", or progress=False'
        ) from error
    if total is None and isinstance(items, Sized):
        total = len(items)
    # To tqdm, None means: hidden where there is no terminal.
    disable = None if show is None else False
    shown = tqdm(items, description, total, initial=initial, unit=unit, disable=disable)
    return ProgressBar(items, shown)
