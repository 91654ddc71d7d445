"""
Fixtures for unmodified clients that talk to real processes.

Nothing here uses a reactor: the servers are processes of their own, and the clients block.  An emulator and a gateway
of each kind serve the whole session; a test whose faults take accounts out of the pool has a gateway of its own.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.hermetic import outside
from tests.clients.servers import KINDS, Emulator, GatewayFactory, RunningGateway, SessionGateway, Target

NODE = Path(__file__).parent / "node"


@pytest.fixture(autouse=True)
def logged_failures() -> None:
    """In place of the watch over the reactor's log: here the processes' own logs are looked at when they end."""


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of Google's upstreams."""
    running = Emulator.start(tmp_path_factory.mktemp("emulator"))
    try:
        yield running
        running.stop()
    finally:
        running.twistd.kill()


@pytest.fixture(scope="session")
def gateways(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionGateway]:
    """
    A function from a kind to the session's gateway of that kind, which starts with its first use.

    What earlier tests have left held against its accounts is taken back.
    """
    started: dict[str, RunningGateway] = {}
    folder = tmp_path_factory.mktemp("gateways")

    def of_kind(kind: str) -> RunningGateway:
        if kind not in started:
            started[kind] = RunningGateway.start(folder / kind, emulator.url, kind)
        else:
            started[kind].reset()
        return started[kind]

    try:
        yield of_kind
        for running in started.values():
            running.stop()
    finally:
        for running in started.values():
            running.twistd.kill()


@pytest.fixture
def new_gateway(emulator: Emulator, tmp_path: Path) -> Iterator[GatewayFactory]:
    """A function that starts a gateway for one test: ``new_gateway(kind, accounts=2, gateway="sse_done = …")``."""
    started: list[RunningGateway] = []

    def start(kind: str, *, accounts: int = 3, gateway: str = "") -> RunningGateway:
        folder = tmp_path / f"gateway-{len(started)}"
        started.append(RunningGateway.start(folder, emulator.url, kind, accounts=accounts, gateway=gateway))
        return started[-1]

    try:
        yield start
        for running in started:
            running.stop()
    finally:
        for running in started:
            running.twistd.kill()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of upstream."""
    return str(request.param)


@pytest.fixture
def gateway(gateways: SessionGateway, kind: str) -> RunningGateway:
    """The session's gateway of each kind."""
    return gateways(kind)


@pytest.fixture
def direct(emulator: Emulator) -> Target:
    """Straight at the emulator, which then is Google's Developer API."""
    return Target("direct", emulator.url)


@pytest.fixture
def through(gateway: RunningGateway) -> Target:
    """Through the session's gateway of each kind."""
    return Target(gateway.kind, gateway.url)


@pytest.fixture(params=["direct", *KINDS])
def target(request: pytest.FixtureRequest, direct: Target, gateways: SessionGateway) -> Target:
    """Straight at the emulator, and through a gateway of each kind."""
    return direct if request.param == "direct" else Target(request.param, gateways(request.param).url)


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder of the Node scripts, with the packages of its lock file in it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    with (NODE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers the first one installs
        installed = NODE / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < (NODE / "package-lock.json").stat().st_mtime:
            subprocess.run(["npm", "ci"], cwd=NODE, env=outside(), check=True, timeout=300)
    return NODE
