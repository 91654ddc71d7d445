"""A token endpoint that counts, the threads of a gateway, a clock, credentials of these, and what a test starts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.google import GoogleCredential
from agm.upstream.credentials.google_default import load_google
from agm.upstream.credentials.refresher import Refresher
from tests.helpers.support import reactor
from tests.upstream.google_credentials import Make, Time, Write, a_user
from tests.upstream.token_server import TokenServer


@pytest.fixture
def now() -> Time:
    """The credentials' clock."""
    return Time()


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[TokenServer]:
    """A token endpoint."""
    running = TokenServer()
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def refresher() -> AsyncIterator[Refresher]:
    """Threads and the transport, as the gateway puts them together."""
    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    running = Refresher(reactor, client.treq)
    running.start()
    yield running
    await running.stop()
    await client.close()


@pytest.fixture(scope="session")
def private_key() -> str:
    """The key of a service account."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the keys of a credentials file, and gives its path."""

    def write(name: str = "credentials.json", **info: object) -> str:
        path = tmp_path / name
        path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))
        return str(path)

    return write


@pytest.fixture
def make(write: Write, refresher: Refresher, now: Time) -> Make:
    """Makes the credential of a file that holds the given keys."""

    def make(**info: object) -> GoogleCredential:
        path = write(**info)
        return GoogleCredential(lambda: load_google(path), refresher=refresher, now=now)

    return make


@pytest.fixture
def user(make: Make, server: TokenServer) -> GoogleCredential:
    """A person's credential."""
    return make(**a_user(server.url))


@pytest_twisted.async_yield_fixture
async def start() -> AsyncIterator[Callable[[Any], Any]]:
    """Starts what is to be stopped after the test."""
    started: list[Any] = []

    def begin(it: Any) -> Any:
        started.append(it)
        return it

    yield begin
    for it in reversed(started):
        await it.stop()
