"""Sockets that the service manager has bound: who is let in, and that no connection is lost over a restart."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from testbed.processes import get
from tests.service.supervised import supervised

pytestmark = pytest.mark.process

INET = "systemd:domain=INET:index=0"


def url_of(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_an_inherited_socket_is_served_and_survives_a_restart(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        sockets = {"agm.socket": bound}
        with supervised(tmp_path / "1", "agm", "--demo", "--listen", INET, sockets=sockets) as twistd:
            assert twistd.url() == url_of(bound)
            assert get(url_of(bound), "/v1beta/models")[0] == 200
            assert twistd.stop() == 0
        # between the two the connection waits in the queue, and is not refused
        with socket.create_connection(bound.getsockname()) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            with supervised(tmp_path / "2", "agm", "--demo", "--listen", INET, sockets=sockets) as twistd:
                client.settimeout(30)
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
                assert twistd.stop() == 0


def test_a_socket_on_loopback_asks_for_no_key_and_one_on_all_interfaces_does(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        for bound, status in ((near, 200), (far, 401)):
            folder = tmp_path / str(status)
            with supervised(folder, "agm", "--demo", "--listen", INET, sockets={"agm.socket": bound}) as twistd:
                twistd.url()
                assert get(url_of(bound), "/v1beta/models")[0] == status
                assert get(url_of(bound), "/healthz")[0] == 200


def test_sockets_are_told_apart_by_their_names(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        listen = ["--listen", "systemd:domain=INET:name=other", "--listen", "systemd:domain=INET:name=one"]
        with supervised(tmp_path, "agm", "--demo", *listen, sockets={"one": one, "other": other}) as twistd:
            assert twistd.addresses(2) == [url_of(other), url_of(one)]
            for address in twistd.addresses(2):
                assert json.loads(get(address, "/v1beta/models")[1])["models"]
            assert twistd.stop() == 0


def test_a_unix_socket_in_a_folder_is_left_to_agm_and_not_touched(tmp_path: Path) -> None:
    """Twisted would open it to everybody and remove it in the end."""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        (tmp_path / "s").chmod(0o600)
        listen = "systemd:domain=UNIX:index=0"
        with supervised(tmp_path / "run", "agm", "--listen", listen, sockets={"agm.socket": unix}) as twistd:
            assert twistd.wait() == 1
            assert twistd.errors == [
                f"agm: {listen!r}: agm binds unix sockets itself: --listen unix:{tmp_path}/s:mode=660"
            ]
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("listen", "passed", "words"),
    [
        (INET, False, "no such socket was passed to this process; the socket unit has to start it"),
        ("systemd:domain=INET:index=1", True, "no such socket was passed to this process"),
        ("systemd:domain=INET:name=web", True, "no such socket was passed to this process"),
        (
            "systemd:domain=UNIX:index=0",
            True,
            "the socket that was passed is of domain=INET",
        ),
    ],
)
def test_a_socket_that_is_not_there_or_another_is_one_line(
    tmp_path: Path, listen: str, passed: bool, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        sockets = {"agm.socket": bound} if passed else {}
        with supervised(tmp_path, "agm", "--listen", listen, sockets=sockets) as twistd:
            assert twistd.wait() == 1
            (line,) = twistd.errors
    assert line.startswith(f"agm: {listen!r}: {words}")
