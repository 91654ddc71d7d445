"""A gateway with few file descriptors and many clients: it refuses, answers health, and recovers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import BIN, Twistd, environment, until
from testbed.sockets import Client, ask
from tests.helpers.support import JSON_HEAD

CLIENTS = 300
TARGET = "/v1beta/models/m:generateContent"
ANSWER = JSON_HEAD + b'Content-Length: 18\r\nConnection: close\r\n\r\n{"candidates": []}'


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """An upstream whose connections wait until they are accepted."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.settimeout(10)
        yield listening


@pytest.fixture(params=[96, 160])
def starved(request: pytest.FixtureRequest, tmp_path: Path, upstream: socket.socket) -> Iterator[Twistd]:
    """A gateway whose process may open so many files."""
    commands = tmp_path / "bin"
    commands.mkdir()
    twistd = commands / "twistd"
    twistd.write_text(f'#!/bin/sh\nulimit -n {request.param}\nexec "{BIN}/twistd" "$@"\n')
    twistd.chmod(0o755)
    config = tmp_path / "agm.toml"
    config.write_text(
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\n'
        f'endpoints = ["http://127.0.0.1:{upstream.getsockname()[1]}"]\n'
    )
    config.chmod(0o600)
    gateway = Twistd.start(
        tmp_path / "run",
        "agm",
        "--port",
        "0",
        "--config",
        str(config),
        env=environment(tmp_path),
        commands=commands,
    )
    try:
        yield gateway
    finally:
        gateway.end()


def descriptors(twistd: Twistd) -> int:
    return len(os.listdir(f"/proc/{twistd.process.pid}/fd"))


@pytest.mark.process
def test_hundreds_of_clients_are_served_refused_or_closed_and_it_recovers(
    starved: Twistd, upstream: socket.socket
) -> None:
    url = starved.url()
    assert ask(url, "/healthz") == (200, b'{"status":"ok"}')
    base = descriptors(starved)
    clients = [Client(url) for _ in range(CLIENTS)]
    for client in clients:
        client.post(TARGET)
    waiting, refused = settled(clients)
    assert 4 <= len(waiting) < CLIENTS / 3
    assert refused, "some are told why"
    for client in refused:
        seen = client.seen
        assert seen is not None
        assert (seen.status, int(seen.headers["retry-after"]) >= 1) == (503, True)
        assert b'"TOO_MANY_CONNECTIONS"' in seen.body
    for client in clients:
        if client not in waiting:
            client.close()
    until(lambda: ask(url, "/healthz") == (200, b'{"status":"ok"}'), "health, while all places are taken")
    until(lambda: ask(url, "/readyz") is not None, "readiness")

    for _ in waiting:
        connection, _ = upstream.accept()
        with connection:
            connection.settimeout(10)
            asked = connection.recv(65536)
            assert asked.startswith(b"POST ")
            connection.sendall(ANSWER)
    for client in waiting:
        seen = client.finish()
        assert seen is not None
        assert (seen.status, seen.body) == (200, b'{"candidates": []}')
        client.close()

    until(lambda: descriptors(starved) <= base + 1, "all descriptors back")
    for _ in range(5):
        client = Client(url)
        client.post(TARGET)
        connection, _ = upstream.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(ANSWER)
        seen = client.finish()
        assert seen is not None
        assert seen.status == 200
        client.close()
    assert "Traceback" not in starved.log
    assert "Unhandled" not in starved.log
    assert starved.stop() == 0


def settled(clients: list[Client]) -> tuple[list[Client], list[Client]]:
    """Those who wait for an upstream, and those who got an answer, once that does not change any more."""
    found: list[int] = []

    def steady() -> bool:
        found.append(sum(client.look() for client in clients if not client.broken and not client.ended))
        return len(found) > 25 and len(set(found[-25:])) == 1

    until(steady, "an end of the rush")
    return (
        [client for client in clients if not client.broken and not client.ended],
        [client for client in clients if client.seen is not None],
    )
