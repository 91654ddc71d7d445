"""Which proxy is on the way to an upstream: URLs, environments and exceptions, without a socket."""

from __future__ import annotations

import base64

import attrs
import pytest

from agm.core.network import Authorities, EnvironmentProxies, Network, NoProxy, Proxy, authority

SECRET = "canary-of-a-password"


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("https://Proxy.Example/", Proxy("https", "proxy.example", 443)),
        ("http://proxy.example", Proxy("http", "proxy.example", 80)),
        ("proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("http://10.0.0.1:8080", Proxy("http", "10.0.0.1", 8080)),
        ("http://[::1]:8080", Proxy("http", "::1", 8080)),
        ("http://proxy.example.:3128", Proxy("http", "proxy.example", 3128)),
    ],
)
def test_a_proxy_is_read_from_its_url(url: str, proxy: Proxy) -> None:
    """With the defaults of a URL, and of what people write into environments."""
    assert Proxy.parse(url) == proxy


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("me:pass", b"me:pass"),
        ("me", b"me:"),
        ("me:", b"me:"),
        ("me:a%40b%3Ac%2F", b"me:a@b:c/"),
        ("m%C3%BC:p%C3%A4ss", "mü:päss".encode()),
        (":pass", b":pass"),
    ],
)
def test_credentials_are_decoded_and_carried_as_basic_authentication(userinfo: str, credentials: bytes) -> None:
    """What is special in a URL is percent-encoded there, and itself on the wire."""
    proxy = Proxy.parse(f"http://{userinfo}@proxy.example:1")
    assert proxy.authorization == "Basic " + base64.b64encode(credentials).decode()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (f"socks5://me:{SECRET}@proxy.example:1080", "neither http nor https"),
        (f"http://me:{SECRET}@", "no host"),
        (f"http://me:{SECRET}@proxy.example:70000", "cannot be read"),
        (f"http://me:{SECRET}@proxy.example:0", "no host"),
        (f"http://me:{SECRET}#x@proxy.example:1", "percent-encoded"),
        (f"http://me:{SECRET}/x@proxy.example:1", "percent-encoded"),
        (f"http://me:{SECRET}@proxy.example:1/path", "goes on after its host"),
        (f"http://me:{SECRET}@proxy.example:1?x", "goes on after its host"),
        (f"http://me%3A:{SECRET}@proxy.example:1", "cannot carry"),
        (f"http://me:{SECRET}%0D%0AX: y@proxy.example:1", "characters that no URL has"),
        (f"http://me:{SECRET}%0D%0A@proxy.example:1", "cannot carry"),
        (f"http://me:{SECRET}@proxy example:1", "characters that no URL has"),
        (f"http://me:{SECRET}@-x-:1", "no host"),
        (f"http://me:{SECRET}@[::1:1", "cannot be read"),
        (f"http://me:{SECRET}@pröxy.example:1", "characters that no URL has"),
        ("", "no host"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_credentials(url: str, complaint: str) -> None:
    """The message says what is wrong and how it is written, and holds nothing of the URL."""
    with pytest.raises(ValueError, match=complaint) as caught:
        Proxy.parse(url)
    assert SECRET not in str(caught.value)


def test_credentials_are_in_no_text_of_a_proxy() -> None:
    """Neither in its name, nor in what holds it."""
    proxy = Proxy.parse(f"http://me:{SECRET}@proxy.example:3128")
    environment = EnvironmentProxies.of({"HTTPS_PROXY": f"http://me:{SECRET}@proxy.example:3128"})
    shown = f"{proxy} {proxy!r} {Network(proxy)!r} {environment!r} {environment}"
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert str(proxy) == "http://proxy.example:3128"
    assert SECRET not in shown
    assert encoded not in shown


@pytest.mark.parametrize(
    ("text", "host", "port", "covered"),
    [
        ("", "example.net", 443, False),
        ("*", "example.net", 443, True),
        ("a.example, *", "example.net", 443, True),
        ("example.net", "example.net", 443, True),
        ("Example.NET", "example.net", 443, True),
        ("example.net", "www.example.net", 443, True),
        (".example.net", "www.example.net", 443, True),
        (".example.net", "example.net", 443, True),
        ("*.example.net", "a.b.example.net", 443, True),
        ("example.net.", "example.net", 443, True),
        ("example.net", "example.net.", 443, True),
        ("example.net", "notexample.net", 443, False),
        ("example.net", "example.net.evil.example", 443, False),
        ("a.example b.example,\tc.example", "b.example", 443, True),
        ("a.example,,c.example", "c.example", 443, True),
        ("example.net:443", "example.net", 443, True),
        ("example.net:443", "www.example.net", 443, True),
        ("example.net:8443", "example.net", 443, False),
        ("10.0.0.1", "10.0.0.1", 443, True),
        ("10.0.0.1", "10.0.0.10", 443, False),
        ("10.0.0.1:443", "10.0.0.1", 443, True),
        ("10.0.0.1:80", "10.0.0.1", 443, False),
        ("10.0.0.0/8", "10.255.0.1", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.1.2.3/8", "10.9.9.9", 443, True),
        ("0.0.0.0/0", "name.example", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("[fd00::1]", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("[fd00::1]:80", "fd00::1", 443, False),
        ("fd00::1", "fd00:0:0::1", 443, True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 443, True),
        (".", "example.net", 443, False),
        ("10.0.0.0/99", "10.0.0.1", 443, False),
    ],
)
def test_exceptions_are_the_usual_ones(text: str, host: str, port: int, covered: bool) -> None:
    """Suffixes at a dot, addresses and ranges, ports, and the star."""
    assert NoProxy.parse(text).covers(host, port) is covered


HTTPS, HTTP, ALL = (f"http://{name}.example:1" for name in ("https", "http", "all"))


@pytest.mark.parametrize(
    ("environ", "scheme", "host"),
    [
        ({}, "https", None),
        ({"HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP}, "https", "https.example"),
        ({"HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP}, "http", "http.example"),
        ({"HTTPS_PROXY": HTTPS, "https_proxy": ALL}, "https", "all.example"),
        ({"HTTPS_PROXY": HTTPS, "https_proxy": "  "}, "https", "https.example"),
        ({"HTTP_PROXY": HTTP}, "https", None),
        ({"ALL_PROXY": ALL}, "https", "all.example"),
        ({"all_proxy": ALL, "HTTPS_PROXY": HTTPS}, "https", "https.example"),
        ({"HTTP_PROXY": HTTP, "REQUEST_METHOD": "GET"}, "http", None),
        ({"http_proxy": HTTP, "REQUEST_METHOD": "GET"}, "http", "http.example"),
        ({"HTTPS_PROXY": HTTPS, "NO_PROXY": "upstream.example"}, "https", None),
        ({"HTTPS_PROXY": HTTPS, "NO_PROXY": "upstream.example", "no_proxy": "x"}, "https", "https.example"),
    ],
)
def test_the_environment_names_the_proxy_by_scheme(environ: dict[str, str], scheme: str, host: str | None) -> None:
    """Lower case goes first, and a client's header cannot choose for a CGI program."""
    found = EnvironmentProxies.of(environ).proxy_for(scheme, "upstream.example", 443)
    assert (found and found.host) == host


@pytest.mark.parametrize("host", ["localhost", "x.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_never_reached_through_a_proxy_of_the_environment(host: str) -> None:
    """Nobody else's loopback is meant; a proxy that the configuration names is another matter."""
    environment = EnvironmentProxies.of({"HTTPS_PROXY": HTTPS, "HTTP_PROXY": HTTP})
    assert Network("env").proxy_for(environment, "http", host, 8046) is None
    chosen = Proxy.parse(ALL)
    assert Network(chosen).proxy_for(environment, "http", host, 8046) == chosen


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "metadata.google.internal.", "169.254.169.254", "fe80::1"]
)
def test_a_metadata_server_is_never_reached_through_a_proxy(host: str) -> None:
    """It would give out the tokens of the proxy's machine."""
    environment = EnvironmentProxies.of({"HTTP_PROXY": HTTP})
    for setting in (Proxy.parse(ALL), "env"):
        assert Network(setting).proxy_for(environment, "http", host, 80) is None  # type: ignore[arg-type]


def test_a_bad_variable_is_named_and_its_value_is_not_and_nobody_goes_around_it() -> None:
    """A proxy that was asked for and cannot be used must not turn into the direct way."""
    environment = EnvironmentProxies.of({"ALL_PROXY": f"socks5://me:{SECRET}@proxy.example:1080"})
    with pytest.raises(ValueError, match="environment variable ALL_PROXY names a proxy that is neither") as caught:
        Network("env").proxy_for(environment, "https", "upstream.example", 443)
    assert SECRET not in str(caught.value)
    assert Network("none").proxy_for(environment, "https", "upstream.example", 443) is None


def test_an_accounts_network_takes_what_it_leaves_open_from_the_gateways() -> None:
    """Each of the two settings by itself."""
    mine, theirs = Authorities("a.pem", b"a"), Authorities("b.pem", b"b")
    proxy = Proxy.parse(ALL)
    assert Network().over(Network("env", mine)) == Network("env", mine)
    assert Network("none").over(Network(proxy, mine)) == Network("none", mine)
    assert Network(None, theirs).over(Network(proxy, mine)) == Network(proxy, theirs)


def test_networks_differ_as_soon_as_anything_does() -> None:
    """They are what connections are told apart by."""
    proxy = Proxy.parse("http://me:a@proxy.example:1")
    networks = [
        Network("none"),
        Network("env"),
        Network(proxy),
        Network(attrs.evolve(proxy, scheme="https")),
        Network(attrs.evolve(proxy, port=2)),
        Network(Proxy.parse("http://me:b@proxy.example:1")),
        Network("none", Authorities("ca.pem", b"one")),
        Network("none", Authorities("ca.pem", b"two")),
    ]
    assert len(set(networks)) == len(networks)
    assert hash(Network("none", Authorities("c", b"x"))) == hash(Network("none", Authorities("c", b"x")))


@pytest.mark.parametrize(("host", "text"), [("h.example", "h.example:443"), ("::1", "[::1]:443")])
def test_an_address_of_the_sixth_version_stands_in_brackets(host: str, text: str) -> None:
    """Its colons are no port."""
    assert authority(host, 443) == text
