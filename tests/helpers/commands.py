"""The real ``agm`` command, run beside the reactor of a test, so that an upstream in the test can answer it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from testbed.processes import PATIENCE
from testbed.watch import watch
from tests.helpers.support import reactor


class Command(ProcessProtocol):
    """A running command, and what it has printed so far."""

    transport: Any

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.status: int | None = None
        self.over: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        self.status = getattr(reason.value, "exitCode", None) or 0
        watch.look("what a command has printed", (self.out + b"\n" + self.err).decode("utf-8", "replace"))
        self.over.callback(None)

    @classmethod
    def start(cls, *arguments: str, env: Mapping[str, str], folder: Path) -> Command:
        """Start ``agm arguments`` in a folder."""
        command = cls()
        argv = [sys.executable, "-m", "agm", *arguments]
        reactor.spawnProcess(command, argv[0], argv, env, str(folder))
        return command

    async def ended(self) -> None:
        """Wait for its end."""
        await self.over.addTimeout(PATIENCE, reactor)

    @property
    def messages(self) -> str:
        return self.err.decode()
