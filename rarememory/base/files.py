"""Files that are written whole or not at all, and the names of those with an image."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

StrPath = str | PathLike[str]

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
IMAGE_SUFFIXES |= {".avif", ".heic", ".heif", ".jfif", ".jp2"}
IMAGE_SUFFIXES |= {".jpe", ".pbm", ".pgm", ".pnm", ".tga"}
"""How the names of files with an image end."""

_DRAFT = ".draft"
"""The end of the names of the folders in which files are written before they have their place."""


def write_atomically(
    path: StrPath, write: Callable[[Path], object], *, parents: bool = False
) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it to `path`.

    A reader, another writer or a crash meets either the old file or the complete new one. The file
    has the permissions of the one that it replaces; a new file has those that `open` gives it. A
    symbolic link stays one: the file that it names is replaced. What writers that were killed have
    left of this file is removed (not on Windows).

    Args:
        path: the file.
        write: writes the file at the path that it is given: the same name, in a temporary folder
            beside `path`, which is removed afterwards.
        parents: create the missing folders of `path`.

    Raises:
        OSError: the file cannot be written, or its folder cannot be read, and so not be flushed.
            Whatever `write` raises is raised too; in all cases the old file is unchanged.

    Example:
        >>> with TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/kea.txt", lambda path: path.write_text("a parrot"))
        ...     Path(folder, "kea.txt").read_text()
        'a parrot'
    """
    path = _target(Path(path))
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path.parent) as parent:
        _remove_abandoned_drafts(path)
        with _draft_folder(path) as folder:
            temporary = folder / path.name
            write(temporary)
            if path.exists():
                temporary.chmod(path.stat().st_mode & 0o777)
            # Otherwise a crash of the machine could leave the new name on a file without content.
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        if parent is not None:
            os.fsync(parent)


def _target(path: Path) -> Path:
    """The file itself, if the path is a symbolic link to it."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A handle of a folder; None on Windows, which has none and does not need to flush one.

    It is opened before anything is written: one that cannot be read is refused in time.
    """
    if os.name != "posix":
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


# Drafts. A writer holds a lock on its folder as long as it lives, so that nobody takes it for one
# that was left behind; when a process ends, however that is, its locks end too.


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """A folder beside the file, of which this process holds the lock."""
    if fcntl is None:
        with TemporaryDirectory(dir=path.parent, prefix=_prefix(path), suffix=_DRAFT) as name:
            yield Path(name)
        return
    while True:
        folder = Path(mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=_DRAFT))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            # Another writer took it for abandoned before it was locked.
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned_drafts(path: Path) -> None:
    """Remove the draft folders of this file whose writers live no more."""
    if fcntl is None:
        return
    with os.scandir(path.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(_prefix(path))]
    for name in names:
        if name.endswith(_DRAFT):
            _remove_if_abandoned(path.with_name(name))


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        # It is gone meanwhile, or is another's.
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Its writer lives, or the file system has no locks: let it be.
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _prefix(path: Path) -> str:
    # The names of folders are limited to 255 bytes, as those of files are.
    return f".{path.name[:48]}."
