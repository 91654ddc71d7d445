"""Who sends a request: the other end of the connection, or whom a proxy that is trusted says that it sends for."""

from __future__ import annotations

import doctest
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import sender
from agm.core.sender import UNIX, Sender, TrustedProxies, sender_of, told_by

TRUSTED = TrustedProxies.of(["loopback", "unix", "10.0.0.0/8", "2001:db8::1"])


def of(peer: str, *lines: str, trusted: TrustedProxies = TRUSTED, behind: str | None = None) -> Sender:
    """The sender of a request with these headers."""
    fields = [
        (name.lower().encode(), value.strip().encode("latin-1")) for name, _, value in (x.partition(":") for x in lines)
    ]

    def values(name: bytes) -> Sequence[bytes]:
        return [value for key, value in fields if key == name]

    return sender_of(peer, values, [name for name, _ in fields], trusted, behind=behind)


def test_the_example_of_the_module_is_right() -> None:
    assert doctest.testmod(sender).failed == 0


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", UNIX])
def test_loopback_and_unix_sockets_are_this_machine(peer: str) -> None:
    assert of(peer).local
    assert not of(peer).forwarded


@pytest.mark.parametrize(
    "peer", ["192.0.2.7", "2001:db8::7", "fe80::1%eth0", "::ffff:192.0.2.7", "", "localhost", "0.0.0.0"]
)
def test_everything_else_is_not(peer: str) -> None:
    """Not a name either: whoever has the address has been looked up by nobody."""
    assert not of(peer).local


@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-For:",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: ai.example.net",
        "X-Forwarded-Anything: x",
        "Forwarded: for=127.0.0.1",
        "Forwarded: proto=https",
        "Via: 1.1 proxy",
        "X-Real-IP: 127.0.0.1",
        "X-Client-IP: 127.0.0.1",
        "True-Client-IP: 127.0.0.1",
        "CF-Connecting-IP: 127.0.0.1",
        "CDN-Loop: cdn",
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", UNIX])
def test_what_has_been_passed_on_is_nobodys_of_this_machine(peer: str, line: str) -> None:
    """Whatever it says, unless the proxy is trusted: then it is known who has sent it."""
    assert of(peer, line, trusted=TrustedProxies()) == Sender(peer, local=False, forwarded=True)


def test_a_name_that_only_looks_alike_says_nothing() -> None:
    assert not told_by([b"x-forward", b"forwarded-for", b"x-forwarded", b"x-server-timeout", b"x-goog-api-key"])


@pytest.mark.parametrize(
    ("lines", "address", "local"),
    [
        (["X-Forwarded-For: 203.0.113.9"], "203.0.113.9", False),
        (["X-Forwarded-For: 203.0.113.9:4711"], "203.0.113.9", False),
        (["X-Forwarded-For: [2001:db8::9]:4711"], "2001:db8::9", False),
        (["X-Forwarded-For: 2001:DB8::9"], "2001:db8::9", False),
        (["X-Forwarded-For: ::ffff:203.0.113.9"], "203.0.113.9", False),
        (["X-Forwarded-For: 127.0.0.1"], "127.0.0.1", True),
        (["X-Forwarded-For: ::1"], "::1", True),
        # what the client itself has sent before the proxy's own
        (["X-Forwarded-For: 127.0.0.1, 203.0.113.9"], "203.0.113.9", False),
        (["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 203.0.113.9"], "203.0.113.9", False),
        (["X-Forwarded-For: nonsense, 203.0.113.9"], "203.0.113.9", False),
        # over several proxies that are trusted
        (["X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.1.2.3, 10.0.0.1"], "203.0.113.9", False),
        (["X-Forwarded-For: 203.0.113.9, 2001:db8::1"], "203.0.113.9", False),
        # all of them are
        (["X-Forwarded-For: 10.0.0.7, 127.0.0.1"], "10.0.0.7", False),
        (["Forwarded: for=203.0.113.9;proto=https;by=10.0.0.1"], "203.0.113.9", False),
        (['Forwarded: for="[2001:db8::9]:4711"'], "2001:db8::9", False),
        (['Forwarded: FOR="203.0.113.9:80" , for=10.0.0.1'], "203.0.113.9", False),
        (["Forwarded: for=127.0.0.1, for=203.0.113.9"], "203.0.113.9", False),
        (["Forwarded: for=127.0.0.1", "Forwarded: for=203.0.113.9"], "203.0.113.9", False),
        (["Forwarded: for=127.0.0.1"], "127.0.0.1", True),
        (["X-Real-IP: 203.0.113.9"], "203.0.113.9", False),
        (["X-Real-IP: 127.0.0.1"], "127.0.0.1", True),
        (["X-Real-IP: 203.0.113.9", "X-Forwarded-For: 127.0.0.1, 203.0.113.9"], "203.0.113.9", False),
    ],
)
def test_a_trusted_proxy_says_for_whom_it_sends(lines: list[str], address: str, local: bool) -> None:
    """The last address that is no trusted proxy's counts."""
    for peer in ("127.0.0.1", "::1", UNIX, "10.255.0.1"):
        assert of(peer, *lines) == Sender(address, local, forwarded=True)


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 203.0.113.9", "Forwarded: for=127.0.0.1"],
        ["Forwarded: for=203.0.113.9", "X-Forwarded-For: 127.0.0.1"],
        ["X-Real-IP: 127.0.0.1", "X-Forwarded-For: 203.0.113.9"],
        ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 203.0.113.9"],
        ["X-Forwarded-For: 127.0.0.1", "Forwarded: for=unknown"],
    ],
)
def test_a_header_that_the_proxy_lets_pass_makes_nobody_local(lines: list[str]) -> None:
    """A proxy sets one of them, and a client may have sent the other: local is only what all of them call so."""
    assert not of("127.0.0.1", *lines).local


@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-For: unknown",
        "X-Forwarded-For: unix:",
        "X-Forwarded-For: 203.0.113.9, 10.0.0.1, nonsense",
        "X-Forwarded-For:",
        "X-Forwarded-For: 127.0.0.1,",
        "X-Forwarded-For: 127.0.0.1%lo",
        "X-Forwarded-For: 127.1",
        "Forwarded: for=_hidden",
        "Forwarded: for=unknown",
        "Forwarded: for=127.0.0.1, nonsense",
        'Forwarded: for="127.0.0.1',
        "Forwarded: by=127.0.0.1",
        "Forwarded: for=127.0.0.1 for=127.0.0.1",
        "Forwarded:",
        "X-Real-IP: localhost",
        "Via: 1.1 proxy",
        "X-Forwarded-Proto: https",
    ],
)
def test_a_proxy_that_names_no_address_sends_for_nobody_who_is_known(line: str) -> None:
    assert of("127.0.0.1", line) == Sender("127.0.0.1", local=False, forwarded=True)


def test_the_proxy_protocol_counts_as_the_headers_do() -> None:
    assert of("127.0.0.1", behind="203.0.113.9") == Sender("203.0.113.9", local=False, forwarded=True)
    assert of("127.0.0.1", behind="127.0.0.1") == Sender("127.0.0.1", local=True, forwarded=True)
    assert of("192.0.2.7", behind="127.0.0.1") == Sender("192.0.2.7", local=False, forwarded=True)
    assert of("127.0.0.1", behind="127.0.0.1", trusted=TrustedProxies()).local is False
    assert of("127.0.0.1", behind="") == Sender("127.0.0.1", local=False, forwarded=True)
    # one proxy behind another
    assert of("127.0.0.1", "X-Forwarded-For: 203.0.113.9", behind="10.0.0.1").address == "203.0.113.9"
    assert of("127.0.0.1", "X-Forwarded-For: 127.0.0.1", behind="203.0.113.9") == Sender(
        "203.0.113.9", local=False, forwarded=True
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"]), st.text(max_size=60)),
        min_size=1,
    )
)
def test_no_header_makes_a_stranger_local_or_breaks_anything(headers: list[tuple[str, str]]) -> None:
    lines = [f"{name}: {value.encode('ascii', 'replace').decode()}" for name, value in headers]
    assert not of("192.0.2.7", *lines).local
    assert not of("127.0.0.1", *lines, trusted=TrustedProxies()).local
    assert not of("127.0.0.1", *lines, "X-Forwarded-For: 203.0.113.9").local
