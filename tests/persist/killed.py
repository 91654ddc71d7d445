"""
A process whose children are killed while they write a file, each a line further on: ``python killed.py WHAT FOLDER``.

It prints a JSON document: after how many deaths the old file was there, after how many the new one, and what was
neither.  Its children are forks, so that a hundred of them take no longer than one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agm.persist import atomic_write as wholefile
from agm.persist import config_file as files
from agm.persist.atomic_write import atomic_write

OLD_FILE, NEW_FILE = b"old" * 5000, b"new" * 5000
OLD_CONFIG = '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "old-key-1"\n'
TABLE = {"name": "b", "kind": "api-key", "api_key_file": "keys/b.key"}
PLAIN = {"name": "b", "kind": "api-key", "api_key": "new-key-1"}
#: The modules in which a child may die.
WATCHED = {wholefile.__file__, files.__file__}


class Work:
    """Something that writes a file; `old` and `new` are what may be in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self.old, self.new = OLD_FILE, NEW_FILE

    def prepare(self) -> None:
        for name in os.listdir(self.path.parent):
            if name.startswith(".") and name.endswith(".lock"):
                (self.path.parent / name).unlink()
        atomic_write(self.path, self.old)

    def run(self) -> None:
        atomic_write(self.path, self.new)

    def strange(self) -> str | None:
        """What is there beside the file, after a write that nothing disturbed."""
        names = [name for name in os.listdir(self.path.parent) if not name.endswith(".lock")]
        return None if names == [self.path.name] else f"beside it: {names}"


class Edit(Work):
    """An edit of the configuration."""

    secret: files.SecretFile | None = None
    table: dict[str, object] = PLAIN

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "agm.toml"
        self.old = OLD_CONFIG.encode()
        self.new = self._change(OLD_CONFIG).encode()

    def _change(self, text: str) -> str:
        return files.added(text, ("accounts",), self.table)

    def run(self) -> None:
        files.edit(self.path, self._change, environ={}, secret=self.secret)


class EditWithKey(Edit):
    """An edit that writes a key's file, too: with the new configuration the key is always there."""

    table = TABLE

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key = folder / "keys" / "b.key"
        self.secret = files.SecretFile(self.key, b"new-key-2\n")

    def prepare(self) -> None:
        self.key.unlink(missing_ok=True)
        super().prepare()

    def run(self) -> None:
        # what a person does who is told that the key's file is there already, and that no account uses it
        self.key.unlink(missing_ok=True)
        super().run()

    def strange(self) -> str | None:
        if self.key.read_bytes() != b"new-key-2\n":
            return "the key is not whole"
        names = sorted(name for name in os.listdir(self.path.parent) if not name.endswith(".lock"))
        beside = os.listdir(self.key.parent)
        return None if (names, beside) == (["agm.toml", "keys"], ["b.key"]) else f"beside it: {names}, {beside}"


WORKS: dict[str, Callable[[Path], Work]] = {"file": Work, "edit": Edit, "edit-with-key": EditWithKey}


def dying_at(line: int, work: Work) -> bool:
    """Let a child do the work and die at a line of it; whether it got there."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: Any, event: str, argument: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in WATCHED:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        status = 1
        try:
            work.run()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return True
    assert os.WEXITSTATUS(ended) == 0, "the child failed"
    return False


def killed_everywhere(work: Work) -> dict[str, object]:
    """Kill at every line; see the module."""
    old = new = line = 0
    strange: list[str] = []
    while True:
        line += 1
        work.prepare()
        died = dying_at(line, work)
        found = work.path.read_bytes()
        old, new = old + (found == work.old), new + (found == work.new)
        if found not in (work.old, work.new):
            strange.append(f"line {line}: {found[:80]!r}")
        if found == work.new and isinstance(work, EditWithKey) and work.key.read_bytes() != b"new-key-2\n":
            strange.append(f"line {line}: the configuration names a key that is not there")
        if work.path.stat().st_mode & 0o077:
            strange.append(f"line {line}: others may read it")
        if found == work.old:
            work.run()  # what was left stands in nobody's way
        else:
            atomic_write(work.path, work.new)
        beside = work.strange()
        if beside is not None:
            strange.append(f"line {line}: {beside}")
        if not died:
            return {"old": old, "new": new, "strange": strange}


def full(folder: Path) -> dict[str, object]:
    """Write more than a small file system holds."""
    path = folder / "file"
    atomic_write(path, b"old")
    try:
        atomic_write(path, b"x" * 200_000)
    except OSError as e:
        error = e.strerror
    else:
        error = None
    return {"error": error, "old": path.read_bytes() == b"old", "names": os.listdir(folder)}


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(full(folder) if what == "full" else killed_everywhere(WORKS[what](folder))))
