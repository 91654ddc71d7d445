"""How a change of a file is seen without reading it."""

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """What changes when a file is written, replaced, or given to others; it says nothing of what is in it."""

    device: int
    inode: int
    size: int
    written: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "Identity | None":
        """Return that of a file; None while there is none, or nobody may know."""
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(found.st_mode):  # a pipe, which is another one whenever it was read
            return cls(found.st_dev, found.st_ino, 0, 0, 0)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
