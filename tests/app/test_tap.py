"""What the composition root decides before anything listens."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import implementer

import agm
from agm.app.listeners import ListenerService
from agm.app.service import for_browsers
from agm.config import parse
from agm.config.listeners import Listener, auth_mode
from agm.tap import Options


@pytest.mark.parametrize(
    ("description", "interface"),
    [
        ("tcp:8045", "0.0.0.0"),
        ("tcp:8045:interface=127.0.0.1", "127.0.0.1"),
        ("tcp:8045:127.0.0.1", "127.0.0.1"),
        ("tcp:8045:interface=192.0.2.1:backlog=5", "192.0.2.1"),
        ("tcp6:8045", "::"),
        (r"tcp6:8045:interface=\:\:1", "::1"),
        ("tcp:8045:interface=", "0.0.0.0"),
        ("ssl:8045", "0.0.0.0"),
        ("ssl:8045:privateKey=k.pem:interface=127.0.0.1", "127.0.0.1"),
        ("ssl:8045:k.pem:c.pem:TLSv1_2_METHOD:127.0.0.1", "127.0.0.1"),
        ("ssl:8045:127.0.0.1", "0.0.0.0"),
        ("unix:/run/agm.sock", None),
        ("systemd:domain=UNIX:index=0", None),
        ("systemd:domain=INET:index=0", "0.0.0.0"),
        ("onion:80", "0.0.0.0"),
    ],
)
def test_a_description_says_which_interface_is_bound_and_counts_as_all_where_it_does_not(
    description: str, interface: str | None
) -> None:
    assert Listener.parse(description).interface == interface


@pytest.mark.parametrize(
    ("interface", "local"),
    [
        *((local, True) for local in ("127.0.0.1", "127.9.9.9", "::1", "localhost", None)),
        *((beyond, False) for beyond in ("0.0.0.0", "::", "192.0.2.1", "example.net", "localhost.example")),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(interface: str | None, local: bool) -> None:
    assert Listener("", interface).local is local


@pytest.mark.parametrize(
    ("written", "listeners", "mode"),
    [
        ("", ["127.0.0.1", None], "off"),
        ("", ["127.0.0.1", "0.0.0.0"], "all_except_health"),
        ('mode = "off"', ["0.0.0.0"], "off"),
        ('mode = "strict"', ["127.0.0.1"], "strict"),
        ('mode = "all_except_health"', ["127.0.0.1"], "all_except_health"),
    ],
)
def test_keys_are_asked_for_as_soon_as_another_machine_reaches_a_listener(
    written: str, listeners: list[str | None], mode: str
) -> None:
    config = parse(f"[auth]\n{written}\n", environ={})
    assert auth_mode(config, [Listener("", interface) for interface in listeners]) == mode


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        Options().parseOptions(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"agm {agm.__version__}\n"


@pytest.mark.parametrize(
    ("listening", "address"),
    [
        (["http://127.0.0.1:8045"], "http://127.0.0.1:8045"),
        (["unix:/run/agm.sock"], None),
        (["unix:/run/agm.sock", "http://0.0.0.0:80"], "http://127.0.0.1:80"),
        (["https://192.0.2.1:443", "http://[::1]:8045"], "http://[::1]:8045"),
        (["https://[::]:443"], "https://[::1]:443"),
        ([], None),
    ],
)
def test_the_dashboard_is_named_where_a_browser_on_this_machine_finds_it(
    listening: list[str], address: str | None
) -> None:
    assert for_browsers(listening) == address


@implementer(IStreamServerEndpoint)
class LateEndpoint:
    """An endpoint that says later whether it listens, as those do that ask a network first."""

    def __init__(self) -> None:
        self.listening: Deferred[Any] = Deferred()

    def listen(self, factory: Any) -> Deferred[Any]:
        return self.listening


class StoppableReactor:
    """A reactor that can only be stopped."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.expects_logged_failures
def test_an_endpoint_that_fails_when_the_gateway_runs_already_stops_it(logged_failures: list[dict[str, Any]]) -> None:
    reactor, endpoint = StoppableReactor(), LateEndpoint()
    site: Any = None
    ListenerService(reactor, endpoint, "onion:80", site).privilegedStartService()
    assert not reactor.stopped
    endpoint.listening.errback(CannotListenError(None, 80, OSError(98, "Address already in use")))
    assert reactor.stopped
    assert [event["message"] for event in logged_failures] == ["cannot listen on onion:80: Address already in use"]
