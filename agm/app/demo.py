"""The upstream of ``--demo``: an emulator in the same process, and its accounts."""

from __future__ import annotations

import atexit
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IListeningPort

from agm.config import AccountConfig, Secret

DEMO_ACCOUNTS = ("demo-1", "demo-2", "demo-3")


class DemoUpstream(Service):
    """The emulator on a port of its own; bound at once, so that accounts can name it, and served from the start on."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._port: IListeningPort | None = None

    def make_folder(self) -> Path:
        """Make a folder for what the gateway writes meanwhile; it goes with the process."""
        folder = tempfile.mkdtemp(prefix="agm-demo-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def startService(self) -> None:
        """Serve."""
        from agm.emulator.site import make_site

        super().startService()
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), socket.AF_INET, make_site(self._reactor))
        self._socket.close()

    def stopService(self) -> Any:
        """Stop serving."""
        super().stopService()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


def demo_accounts(url: str) -> tuple[AccountConfig, ...]:
    """Accounts of the emulator: their keys mean nothing elsewhere."""
    return tuple(
        AccountConfig(name=name, kind="api-key", api_key=Secret(f"{name}-key"), endpoints=(url,))
        for name in DEMO_ACCOUNTS
    )
