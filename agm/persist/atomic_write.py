"""
Files that are replaced whole: whoever reads one, and whatever dies meanwhile, finds the old content or the new.

The new content goes into a file of its own in the same folder, to the disk, and then into the place of the old one.
Such a file is its owner's alone, whatever the umask, unless those are to have it who had the old one; a folder that had
to be made is its owner's alone.  A symbolic link is followed, and stays one.  What a process leaves behind that is
killed at work is removed by the next that writes there.

What is written, and when, is not decided here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

__all__ = ["Replace", "atomic_write", "give", "make_folders", "sync_folder"]

#: As :func:`os.replace`.
Replace = Callable[[Path, Path], None]


def atomic_write(
    path: Path,
    data: bytes,
    *,
    mode: int | None = 0o600,
    like: os.stat_result | None = None,
    replace: Replace = os.replace,
) -> None:
    """
    Put `data` in the place of the file at `path`, in one step.

    :param mode: of the file, whatever it was before; None for whoever may use the one that is there, and for its owner
        alone if there is none.
    :param like: whose the file is to be; the process's own if it is None.
    :param replace: :func:`os.replace`, but for tests.
    :raises OSError: if that cannot be; what was there is then as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "is no regular file")
    make_folders(target.parent, like)
    _clear(target)
    new, descriptor = _new_beside(target)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            give(descriptor, like)
            if mode is None:
                _keep_access(descriptor, target)
            else:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            replace(new, target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _beginning(target: Path) -> str:
    return f".{target.name[:200]}.new-"  # a name has at most 255 bytes


def _new_beside(target: Path) -> tuple[Path, int]:
    """Make a new file beside another one, locked for as long as it is open: nobody takes it for a leftover."""
    while True:
        new = target.with_name(_beginning(target) + secrets.token_hex(8))
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
            with contextlib.suppress(OSError):  # a file system that has no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return new, descriptor
        except BaseException:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # somebody has removed it between the two lines above


def _clear(target: Path) -> None:
    """Remove what processes have left beside a file that were killed while they wrote it."""
    beginning = _beginning(target)
    with contextlib.suppress(OSError):  # a folder that cannot be listed can be written all the same
        for name in os.listdir(target.parent):
            if name.startswith(beginning):
                with contextlib.suppress(OSError):
                    _remove_if_left(target.with_name(name))


def _remove_if_left(new: Path) -> None:
    descriptor = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who writes it holds the lock
            new.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, like: os.stat_result | None = None) -> None:
    """Make the folders that are missing, for their owner alone.  Those that are there stay as they are."""
    if not folder.exists():
        make_folders(folder.parent, like)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
            folder.chmod(0o700)  # whatever the umask took away
            if like is not None and like.st_uid != folder.stat().st_uid:
                os.chown(folder, like.st_uid, like.st_gid)


def give(descriptor: int, like: os.stat_result | None) -> None:
    """
    Give an open file to the owner of another one, so that ``sudo agm`` locks nobody out of their own file, and to its
    group where that is allowed.
    """
    if like is None:
        return
    now = os.fstat(descriptor)
    if like.st_uid != now.st_uid:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    elif like.st_gid != now.st_gid:
        with contextlib.suppress(PermissionError):  # who is not in the group cannot give to it
            os.fchown(descriptor, -1, like.st_gid)


_ACCESS_LIST = "system.posix_acl_access"


def _keep_access(descriptor: int, target: Path) -> None:
    """Let those use a new file who may use the one in whose place it will be, and nobody else."""
    try:
        old = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, 0o600)
        return
    mode = old.st_mode & 0o777
    if os.fstat(descriptor).st_gid != old.st_gid:
        os.fchmod(descriptor, mode & ~0o070)  # these were the rights of another group
        return
    os.fchmod(descriptor, mode)
    if not hasattr(os, "getxattr"):
        return
    try:
        access_list = os.getxattr(target, _ACCESS_LIST)
    except OSError:
        return  # it has none, or the file system knows of none
    try:
        os.setxattr(descriptor, _ACCESS_LIST, access_list)
    except OSError:
        os.fchmod(descriptor, mode & ~0o070)  # which stood for the most that the list gave to anybody


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power, where the file system can."""
    with contextlib.suppress(OSError):  # the new file is in its place: this is no refusal any more
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
