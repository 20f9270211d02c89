"""Atomic writes: an existing file stays as it is until the new one is complete."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

Name = str | os.PathLike[str]


def place(path: Name) -> Path:
    """The file that ``path`` refers to: the target of a symbolic link, even if it does not exist yet."""
    return Path(os.path.realpath(path))


def is_stream(path: Name) -> bool:
    """Whether ``path`` is a device, a pipe or a socket: written to as it is, and never replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    redirected = folder == "/dev" or folder.startswith("/proc/")  # /dev/stdout, which may be any file
    return (stat.S_ISREG(mode) and redirected) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def replacing(path: Name) -> Iterator[BinaryIO]:
    """A new file that replaces ``path`` once it is complete; if that fails, the old file is unchanged.

    A symbolic link stays, and what it points to is replaced. Permissions stay. A device or a pipe is written to.

    Raises
    ------
    OSError: no such folder, a folder of that name, a file that may not be written to, a full disk.
    """
    if is_stream(path):
        buffer = BytesIO()
        yield buffer
        _pour(path, buffer.getbuffer())
        return
    check(path)
    target = place(path)
    part = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    mode = 0o600 if target.exists() else 0o666  # no more readers than the old one has
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        move(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check(path: Name) -> None:
    """Raise an OSError unless a file may be written at ``path``."""
    target, name = place(path), repr(os.fspath(path))
    if target.is_symlink():
        raise OSError(f"{name} is a symbolic link that leads back to itself")
    if target.is_dir():
        raise IsADirectoryError(f"{name} is a folder: give the name of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder of {name} does not exist: create it first")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"{name} is not writable: change its permissions, or give another name")


def move(made: Path, path: Path) -> None:
    """Move the file ``made`` to ``path``, with the permissions and, where allowed, the owner of the file there."""
    target = place(path)
    if target.is_file():
        old = target.stat()
        if os.name == "posix":
            with contextlib.suppress(OSError):  # only root may change a file's owner
                os.chown(made, old.st_uid, old.st_gid)
        os.chmod(made, stat.S_IMODE(old.st_mode))
    os.replace(made, target)


def synchronize(path: Name) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    with contextlib.suppress(PermissionError):  # folders, on Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def without_nan(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity: None in their places, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(path: Name, content: str) -> None:
    """A text file, in UTF-8."""
    with replacing(path) as stream:
        stream.write(content.encode("utf-8"))


def _pour(path: Name, content: memoryview) -> None:
    """Write to an open stream; append where it is a file, as with ``>>`` in a shell."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        while content:
            content = content[os.write(handle, content) :]
    finally:
        os.close(handle)
