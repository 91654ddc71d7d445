"""Who holds a port: read from a ``/proc`` of the test's own, and from the real one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import pytest_twisted

from agm.net.port_owner import PortOwner, is_gateway, owner_of
from agm.testing import GatewayFactory

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
#: 8045 is 1F6D: one socket that listens, and one that is a connection to it.
TABLE = (
    HEAD
    + "   0: 0100007F:1F6D 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0\n"
    + "   1: 0100007F:1F6D 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 222 1 0\n"
)


def proc_with(folder: Path, inode: int, *command: str, comm: str) -> Path:
    (folder / "net").mkdir()
    (folder / "net" / "tcp").write_text(TABLE)
    (folder / "self").mkdir()
    process = folder / "4711"
    (process / "fd").mkdir(parents=True)
    (process / "fd" / "7").symlink_to(f"socket:[{inode}]")
    (process / "comm").write_text(comm + "\n")
    (process / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
    return folder


@pytest.mark.parametrize(
    ("command", "is_agm"),
    [
        (("/opt/agm/bin/python", "/opt/agm/bin/twistd", "-n", "agm", "--port", "8045"), True),
        ((sys.executable, "-P", "-c", "from twisted.scripts.twistd import run; run()", "-n", "agm"), True),
        (("python3", "/usr/bin/agm", "serve"), True),
        (("python3", "/usr/bin/twistd", "web", "--port", "8045"), False),
        (("python3", "server.py", "agm"), False),
        (("nginx: master process",), False),
    ],
)
def test_the_process_with_the_socket_that_listens_is_told_by_the_name_of_its_program(
    tmp_path: Path, command: tuple[str, ...], is_agm: bool
) -> None:
    found = owner_of(8045, proc_with(tmp_path, 111, *command, comm="prog\x1b[2J"))
    assert found == PortOwner(4711, "prog[2J", is_agm)


def test_a_connection_is_not_a_listener_and_another_port_is_another(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, 222, "x", comm="x")
    assert owner_of(8045, proc) is None
    assert owner_of(8046, proc) is None
    assert owner_of(8045, tmp_path / "nowhere") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_real_port_is_this_process(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with taken:
        found = owner_of(taken.getsockname()[1])
    assert found is not None
    assert (found.pid, found.is_agm) == (os.getpid(), False)


def test_what_does_not_answer_is_no_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_gateway("127.0.0.1", port)
    assert not is_gateway("127.0.0.1", port)


@pytest_twisted.ensureDeferred
async def test_a_gateway_is_known_by_its_answer(gateway: GatewayFactory) -> None:
    from urllib.parse import urlsplit

    from twisted.internet.threads import deferToThread

    split = urlsplit((await gateway("")).url)
    assert await deferToThread(is_gateway, split.hostname, split.port)
