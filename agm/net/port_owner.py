"""
Who holds a TCP port of this machine, for a person whose gateway cannot have it.

Read from Linux's ``/proc``; elsewhere, and where another user's processes are hidden, nobody is named.  Of a program
its name is told, never its arguments: they may hold secrets.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import attrs

__all__ = ["PortOwner", "is_gateway", "owner_of"]

_PROC = Path("/proc")
_LISTEN = "0A"  # include/net/tcp_states.h
#: Seconds that whoever holds the port has to say whether it is a gateway.
_ANSWER = 1.0


@attrs.frozen
class PortOwner:
    """A process that listens on a port: its `pid`, the name of its program, and whether it is an agm."""

    pid: int
    program: str
    is_agm: bool

    def __str__(self) -> str:
        return f"{'an agm' if self.is_agm else self.program} (pid {self.pid})"


def owner_of(port: int, proc: Path = _PROC) -> PortOwner | None:
    """Find the process that listens on a TCP port; None if it cannot be told."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port, proc)}
    if not wanted:
        return None
    for folder in _processes(proc):
        with suppress(OSError):  # it has ended, or is another user's
            for descriptor in (folder / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(descriptor) in wanted:
                        return _described(folder)
    return None


def _listening(port: int, proc: Path) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on a port, of both families."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _processes(proc: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (folder for folder in proc.iterdir() if folder.name.isdecimal())


def _described(folder: Path) -> PortOwner:
    words: list[str] = []
    name = "another program"
    with suppress(OSError):
        name = (folder / "comm").read_text("utf-8", "replace").strip()
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    plain = "".join(character for character in name if character.isprintable())
    return PortOwner(int(folder.name), plain or "another program", _runs_agm(words))


def _runs_agm(words: list[str]) -> bool:
    """Return whether a command line is that of ``twistd agm``, or of ``agm serve`` before it becomes that."""
    runs_twistd = any(re.search(r"\btwistd(\.py)?$|twisted\.scripts\.twistd", word) for word in words[:5])
    return (
        "agm" in words
        if runs_twistd
        else any(os.path.basename(word) == "agm" and then == "serve" for word, then in pairwise(words[:5]))
    )


def is_gateway(host: str, port: int) -> bool:
    """Ask whoever listens there whether it is a gateway: only that has ids of requests.  It takes a second at most."""
    client = http.client.HTTPConnection(host, port, timeout=_ANSWER)
    try:
        client.request("GET", "/healthz")
        return client.getresponse().getheader("x-agm-request-id") is not None
    except (TimeoutError, OSError, http.client.HTTPException):
        return False
    finally:
        client.close()
