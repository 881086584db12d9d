"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

StrPath = str | PathLike[str]


def write_atomically(
    path: StrPath, write: Callable[[Path], object], *, parents: bool = False
) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it to `path`.

    A reader, another writer or a crash meets either the old file or the complete new one. The file
    has the permissions of the one that it replaces; a new file has those that `open` gives it.

    Args:
        path: the file.
        write: writes the file at the path that it is given: the same name, in a temporary folder
            beside `path`, which is removed afterwards.
        parents: create the missing folders of `path`.

    Raises:
        OSError: the file cannot be written. Whatever `write` raises is raised too; in both cases
            the old file is unchanged.

    Example:
        >>> with TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/kea.txt", lambda path: path.write_text("a parrot"))
        ...     Path(folder, "kea.txt").read_text()
        'a parrot'
    """
    path = Path(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        # Otherwise a crash of the machine could leave the new name on a file without its content.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    # Windows cannot open a folder, and does not need to.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
