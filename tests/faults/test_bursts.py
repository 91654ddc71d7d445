"""Many connections at once, while the gateway is busy with something else."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from testbed.processes import Twistd, environment
from testbed.sockets import Client

BURST = 300


@pytest.mark.parametrize(("listen", "waits"), [("", True), (":backlog=10", False)], ids=["default", "backlog=10"])
@pytest.mark.process
def test_a_burst_waits_to_be_taken_unless_the_endpoint_says_otherwise(tmp_path: Path, listen: str, waits: bool) -> None:
    twistd = Twistd.start(
        tmp_path,
        "agm",
        "--demo",
        "--listen",
        f"tcp:0:interface=127.0.0.1{listen}",
        env=environment(tmp_path),
    )
    try:
        url = twistd.url()
        twistd.signal(signal.SIGSTOP)  # it takes no connection now; the kernel lets them wait
        clients: list[Client] = []
        try:
            while len(clients) < BURST:
                clients.append(Client(url, patience=0.5))
        except TimeoutError:
            pass
        finally:
            twistd.signal(signal.SIGCONT)
        assert (len(clients) == BURST) is waits
        for client in clients:
            client.get("/healthz")
        for client in clients:
            seen = client.finish()
            assert seen is not None
            assert seen.status == 200
            client.close()
    finally:
        twistd.end()
