"""The threads in which google-auth may block: what a call gives, and what a stop leaves."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from agm.upstream.credentials.credential import CredentialError
from agm.upstream.credentials.google import GoogleCredential
from agm.upstream.credentials.refresher import Refresher
from tests.helpers.support import eventually
from tests.upstream.google_credentials import (
    Make,
    a_user,
    asking,
    refusal,
    token,
)
from tests.upstream.token_server import TokenServer


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_every_wait(make: Make, server: TokenServer, refresher: Refresher) -> None:
    """A refresh is under way: who waits for it gets an error, the threads end, and the connection is closed."""
    credential = make(**a_user(server.url))
    await credential.headers()
    credential.mark_rejected()
    server.held = True
    waiting = asking(credential)
    await eventually(lambda: server.count == 2)
    threads = [thread for thread in threading.enumerate() if "credentials" in thread.name]
    assert threads
    await refresher.stop()
    with pytest.raises(CredentialError, match="the gateway is stopping") as caught:
        await waiting
    assert not caught.value.permanent
    assert not any(thread.is_alive() for thread in threads)
    await eventually(lambda: server.left == 1)


@pytest_twisted.ensureDeferred
async def test_after_a_stop_nothing_is_started(
    user: GoogleCredential, server: TokenServer, refresher: Refresher
) -> None:
    """Nobody is left waiting for threads that are not there; a stop may be repeated, a start revives everything."""
    await refresher.stop()
    await refresher.stop()
    error = await refusal(user)
    assert (error.reason, error.permanent) == ("the gateway is stopping", False)
    assert server.count == 0
    refresher.start()
    refresher.start()
    assert token(await user.headers()) == "1"


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_only_a_moment_for_a_thread_that_blocks(refresher: Refresher) -> None:
    """A loader that hangs holds up nobody; what it says when it comes back goes nowhere."""
    go, done = threading.Event(), threading.Event()

    def hang() -> None:
        go.wait(30)
        done.set()

    waiting = Deferred.fromCoroutine(refresher.run(hang))
    await refresher.stop()
    with pytest.raises(CredentialError):
        await waiting
    assert not done.is_set()
    go.set()
    await eventually(done.is_set)


@pytest_twisted.ensureDeferred
async def test_giving_up_on_a_call_leaves_it_alone(refresher: Refresher) -> None:
    """Its result is dropped."""
    go, done = threading.Event(), threading.Event()

    def slow() -> None:
        go.wait(30)
        done.set()

    waiting = Deferred.fromCoroutine(refresher.run(slow))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    go.set()
    await eventually(done.is_set)
    assert await refresher.run(lambda: 3) == 3


@pytest_twisted.ensureDeferred
async def test_what_a_call_raises_is_raised(refresher: Refresher) -> None:
    """In the one who waits for it."""
    with pytest.raises(ZeroDivisionError):
        await refresher.run(lambda: 1 // 0)


ENDLESS = """
import sys
from pathlib import Path
from threading import Event
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.google import GoogleCredential
from agm.upstream.credentials.google_default import load_google
from agm.upstream.credentials.refresher import Refresher
from google.oauth2.credentials import Credentials

port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
uri = f"http://127.0.0.1:{port.getHost().port}/token"
refresher = Refresher(reactor, HTTPUpstreamClient(reactor, connect_timeout=5).treq)

def silent_endpoint():
    return Credentials(None, refresh_token="r", token_uri=uri, client_id="c", client_secret="s")

def blocking_loader():
    Event().wait()

def failed(failure):
    print("the wait ended:", failure.getErrorMessage())

def begin():
    refresher.start()
    credential = GoogleCredential(globals()[sys.argv[1]], refresher=refresher)
    Deferred.fromCoroutine(credential.headers()).addErrback(failed)
    reactor.callLater(0.3, globals()[sys.argv[2]])

def stop():
    reactor.stop()

def crash():
    reactor.crash()

reactor.callWhenRunning(begin)
reactor.run()
print("the reactor stopped")
"""


@pytest.mark.parametrize(
    ("blocked", "end"), [("silent_endpoint", "stop"), ("blocking_loader", "stop"), ("blocking_loader", "crash")]
)
@pytest.mark.process
def test_a_process_ends_whatever_its_threads_wait_for(blocked: str, end: str) -> None:
    """Nobody called stop: the reactor's own end is enough, and not even that has to be an orderly one."""
    ran = subprocess.run(
        [sys.executable, "-c", ENDLESS, blocked, end], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "the reactor stopped" in ran.stdout
    assert ("the wait ended: the gateway is stopping" in ran.stdout) is (end == "stop")
