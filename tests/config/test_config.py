"""
The configuration: what a file means, what is said about one that cannot be used, and its documentation.

Most tests read a few lines of TOML and compare what came out, or the exact lines that a person would see.
"""

import contextlib
import datetime
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agm import config
from agm.config import (
    AccountConfig,
    ClientKeyConfig,
    Config,
    ConfigError,
    Problem,
    Secret,
    TimeoutsConfig,
    known_keys,
    parse,
)

AN_ACCOUNT = '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\n'
A_LOGIN = '{"type": "authorized_user", "client_id": "i", "client_secret": "canary-s", "refresh_token": "canary-r"}'
A_BUDGET = '[[budgets]]\nof = "key:a"\nlimit = 1.0\n'
A_WEBHOOK = '[[alerts]]\non = ["budget"]\nurl = "https://hooks.example.net/x"\n'
A_CLIENT_KEY = '[[auth.keys]]\nname = "a"\nkey = "k"\n'


def problems(text: str, environ: Mapping[str, str] | None = None, path: Path | None = None) -> list[str]:
    """The lines that a person sees for ``text``, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(text, environ=environ or {}, path=path)
    return [str(Problem(None, each.key, each.message)) for each in caught.value.problems]


def problem(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The one line that a person sees for ``text``, from the key on."""
    (line,) = problems(text, environ)
    return line.removeprefix("configuration: ")


def account(lines: str, environ: Mapping[str, str] | None = None, path: Path | None = None) -> AccountConfig:
    """The one account that ``lines`` describe; its name is added."""
    (only,) = parse(f'[[accounts]]\nname = "a"\n{lines}', environ=environ or {}, path=path).accounts
    return only


def refused_account(lines: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the account that ``lines`` describe, each without the file's name."""
    return [
        line.removeprefix("configuration: accounts[0]").lstrip(".: ")
        for line in problems(f'[[accounts]]\nname = "a"\n{lines}', environ)
    ]


def lacking(text: str, environ: Mapping[str, str] | None = None, path: Path | None = None) -> list[str]:
    """The secrets that ``text`` lacks, each without the file's name; each is a warning, too."""
    it = parse(text, environ=environ or {}, path=path)
    assert set(map(str, it.lacking)) <= set(it.warnings)
    return [str(Problem(None, each.key, each.message)).removeprefix("configuration: ") for each in it.lacking]


# -- The request log ----------------------------------------------------------------------------------


def test_requests_are_remembered_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    """For a month, in a file of a bounded size; relative paths start at the configuration's folder."""
    it = parse("", environ={}).request_log
    assert (it.enabled, it.path, it.max_days, it.max_size, it.max_body) == (True, None, 30, 200 * 2**20, 64 * 2**10)
    text = '[request_log]\nenabled = false\npath = "log/r.db"\nmax_days = 1\nmax_size = "1MiB"\nmax_body = 10\n'
    it = parse(text, environ={}, path=tmp_path / "agm.toml").request_log
    assert (it.enabled, it.path) == (False, tmp_path / "log" / "r.db")
    assert (it.max_days, it.max_size, it.max_body) == (1, 2**20, 10)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("enabled = 1", "request_log.enabled: expected true or false, not 1"),
        ("max_days = 0", "request_log.max_days: 0 is not between 1 and 36500"),
        (
            'max_size = "999KiB"',
            "request_log.max_size: '999KiB' is less than 1MiB; enabled = false is for none at all",
        ),
        ("days = 3", "request_log.days: unknown key; did you mean 'max_days'?"),
    ],
)
def test_a_request_log_that_cannot_be_kept_is_refused(line: str, expected: str) -> None:
    assert problem(f"[request_log]\n{line}") == expected


# -- The whole file ----------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults() -> None:
    """Nothing needs to be written for the gateway to start."""
    assert parse("", environ={}) == config.default() == Config()


def test_defaults_are_those_of_the_contract() -> None:
    """A person who reads the design finds the numbers of the design."""
    it = config.default()
    assert it.gateway.listen == ("tcp:8045:interface=127.0.0.1",)
    assert it.gateway.max_body == 104_857_600
    assert (it.gateway.allowed_hosts, it.gateway.cors_origins) == ((), ())
    assert (it.gateway.stream_default, it.gateway.sse_done, it.gateway.show_account) == (
        "sse",
        "forward",
        False,
    )
    assert attrs.astuple(it.timeouts) == (10.0, 300.0, 300.0, 3600.0, 60.0, 300.0, 30.0, 0.0)
    assert (it.auth.mode, it.auth.mode_written, it.auth.keys) == ("auto", False, ())
    assert (it.gateway.public_url, it.gateway.trusted_proxies) == (None, ())
    assert ("gemini-2.5-flash" in it.models.list, it.models.display_name) == (True, "id")
    assert (dict(it.models.aliases), it.accounts, it.warnings, it.path) == ({}, (), (), None)
    assert (it.pool.strategy, it.pool.max_attempts) == ("sticky", 3)
    assert (it.plugins.load, it.plugins.path, dict(it.plugins.tables)) == ((), None, {})


def test_every_table_of_a_full_file_is_read() -> None:
    """Values arrive in their fields, typed, arrays as tuples, in the order of the file."""
    it = parse(
        """
        [gateway]
        listen = ["tcp6:8045", "unix:/tmp/agm.sock", "stdio", "onion:80:private_key=x"]
        max_body = 5
        allowed_hosts = ["Box.Example.", "10.0.0.7", "fe80:0::1"]
        cors_origins = ["HTTP://Localhost:3000", "https://a.example:443", "chrome-extension://abc"]
        stream_default = "json"
        sse_done = "drop"
        show_account = true
        public_url = "HTTPS://AI.Example.net:443/gemini/"
        trusted_proxies = ["loopback", "unix", "192.0.2.1", "10.0.0.0/8", "2001:DB8::/32", "::1/128"]
        [timeouts]
        connect = 1
        idle = 0.5
        drain = 0
        [auth]
        mode = "strict"
        [models]
        list = ["m-1"]
        display_name = "upstream"
        [models.aliases]
        "z*" = "m-1"
        a = "m-2"
        [pool]
        strategy = "priority"
        max_attempts = 10
        [plugins]
        load = ["one", "my_company.routing"]
        path = "/srv/plugins"
        [plugins.routing]
        prefer = ["a", { deep = 1 }]
        """,
        environ={},
    )
    assert it.gateway == config.GatewayConfig(
        listen=("tcp6:8045", "unix:/tmp/agm.sock", "stdio", "onion:80:private_key=x"),
        max_body=5,
        allowed_hosts=("box.example", "10.0.0.7", "fe80::1"),
        cors_origins=("http://localhost:3000", "https://a.example", "chrome-extension://abc"),
        stream_default="json",
        sse_done="drop",
        show_account=True,
        public_url="https://ai.example.net/gemini",
        trusted_proxies=("loopback", "unix", "192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "::1"),
    )
    assert it.timeouts == TimeoutsConfig(connect=1.0, idle=0.5, drain=0.0)
    assert isinstance(it.timeouts.connect, float)
    assert (it.auth.mode, it.auth.mode_written) == ("strict", True)
    assert (it.models.list, it.models.display_name) == (("m-1",), "upstream")
    assert list(it.models.aliases.items()) == [("z*", "m-1"), ("a", "m-2")]
    assert (it.pool.strategy, it.pool.max_attempts) == ("priority", 10)
    assert (it.plugins.load, it.plugins.path) == (("one", "my_company.routing"), Path("/srv/plugins"))
    assert it.plugins.tables == {"routing": {"prefer": ["a", {"deep": 1}]}}


def test_the_default_mode_written_out_counts_as_written() -> None:
    """A listener beyond loopback with ``off`` is let through only where a person wrote the mode."""
    assert parse('[auth]\nmode = "auto"', environ={}).auth.mode_written


def test_values_cannot_be_changed_afterwards() -> None:
    """A reload makes a new configuration; nobody edits the one that requests are being served with."""
    it = parse('[models.aliases]\na = "b"\n[plugins.p]\nx = 1', environ={})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        it.pool.max_attempts = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        it.models.aliases["c"] = "d"  # type: ignore[index]
    with pytest.raises(TypeError):
        it.plugins.tables["p"]["x"] = 2  # type: ignore[index]


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    """A person mends a file in one go, not problem by problem."""
    text = '[pool]\nmax_attempts = 0\n[[accounts]]\nkind = "vertx"\n[gateway]\nlisten = []\nmax_bdy = 1\n'
    assert [line.split(": ")[1] for line in problems(text)] == [
        "pool.max_attempts",
        "accounts[0].kind",
        "accounts[0].name",
        "gateway.listen",
        "gateway.max_bdy",
    ]


def test_a_problem_names_the_file_the_key_the_value_and_the_cure() -> None:
    """The line that the contract promises, to the letter."""
    with pytest.raises(ConfigError) as caught:
        parse('[[accounts]]\nname = "a"\nkind = "vertx"', path=Path("agm.toml"), environ={})
    assert str(caught.value) == (
        "agm.toml: accounts[0].kind: 'vertx' is not one of api-key, vertex, code-assist; did you mean 'vertex'?"
    )


def test_the_message_is_one_line_a_problem() -> None:
    """Odd keys and values cannot add lines of their own to the message."""
    with pytest.raises(ConfigError) as caught:
        parse('"a\\nb\\u2028c" = 1\n"" = 2\n[pool]\nstrategy = "x\\ny"', environ={})
    assert len(str(caught.value).splitlines()) == len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = [1", "is not TOML: Unclosed array (at end of document)"),
        (
            "[gateway]\nlisten 5",
            "is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 8)",
        ),
        ("[a]\n[a]", "is not TOML: Cannot declare ('a',) twice (at line 2, column 3)"),
        ("a = " + "[" * 100_000, "is not TOML that can be read: nested too deeply"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(text: str, line: str) -> None:
    """tomllib knows where it stopped, and the person is told."""
    assert problem(text) == line


def test_an_endless_integer_is_a_problem_not_a_crash() -> None:
    """Python refuses to read integers of more than 4300 digits with an error of its own."""
    assert problem("a = " + "9" * 5000).startswith("is not TOML: ")


def test_a_byte_order_mark_is_no_obstacle() -> None:
    """Some editors write one, and no person can see it."""
    assert parse("\ufeff[pool]\nmax_attempts = 1", environ={}).pool.max_attempts == 1


# -- Keys and kinds of values ------------------------------------------------------------------------


#: What may stand at the top of a file.
TABLES = ", ".join(dict.fromkeys(re.split(r"[.\[]", path)[0] for path, _ in known_keys()))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gatewy = {}", "gatewy: unknown key; did you mean 'gateway'?"),
        ('[gateway]\nmax-body = "1MB"', "gateway.max-body: unknown key; did you mean 'max_body'?"),
        ("[timeouts]\nFirstByte = 1", "timeouts.FirstByte: unknown key; did you mean 'first_byte'?"),
        ("[auth]\nmoode = 1", "auth.moode: unknown key; did you mean 'mode'?"),
        (
            A_CLIENT_KEY + "rpm = 1",
            "auth.keys[0].rpm: unknown key; the keys here are name, key, key_env, "
            "key_sha256, models, requests_per_minute, requests_per_day, tokens_per_minute, tokens_per_day, "
            "max_sessions, expires, admin, team, weight, metadata",
        ),
        (AN_ACCOUNT + "aip_key_env = 1", "accounts[0].aip_key_env: unknown key; did you mean 'api_key_env'?"),
        ("[plugins]\npth = 1", "plugins.pth: unknown key; did you mean 'path'?"),
        ("max_attempts = 1", "max_attempts: unknown key here; it belongs in [pool]"),
        ("api_key = 1", "api_key: unknown key here; it belongs in [[accounts]]"),
        (
            "[gateway]\nname = 1",
            "gateway.name: unknown key here; it belongs in [[accounts]] or [[alerts]] or [[auth.keys]] or [cluster]",
        ),
        ("[pool]\n'a b' = 1", 'pool."a b": unknown key; the keys here are strategy, max_attempts, max_wait, state'),
        (
            "'' = 1",
            f'"": unknown key; the keys here are {TABLES}',
        ),
    ],
)
def test_an_unknown_key_is_a_problem_with_the_nearest_right_one(text: str, line: str) -> None:
    """At every level; a key of another table is sent there, and one like no other gets the whole list."""
    assert problem(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("pool = 5", "pool: expected a table, not an integer"),
        ("[[pool]]", "pool: expected a table, not an array; write [pool], not [[pool]]"),
        ('auth = "x"', "auth: expected a table, not a string"),
        ("plugins = 1.5", "plugins: expected a table, not a float"),
        ("models.aliases = 2020-01-01", "models.aliases: expected a table, not a date or time"),
        (
            'models.fallbacks.a = "b"',
            'models.fallbacks.a: expected an array, not a string; write it in brackets: ["…"]',
        ),
        ('models.fallbacks.a = ["a"]', "models.fallbacks.a: falls back to itself"),
        ("models.fallbacks.a = []", "models.fallbacks.a: names no model; leave it out for no fallback"),
        ("accounts = {}", "accounts: expected an array of tables, not a table; write [[accounts]]"),
        ("auth.keys = true", "auth.keys: expected an array of tables, not a boolean; write [[auth.keys]]"),
        ("accounts = [[1]]", "accounts[0]: expected a table, not an array"),
        (
            "[models]\nlist = 'gemini'",
            'models.list: expected an array, not a string; write it in brackets: ["…"]',
        ),
        ("[models]\nlist = 5", "models.list: expected an array, not an integer"),
        ("[models]\nlist = ['a', 5]", "models.list[1]: expected a string, not 5"),
        ("[models]\nlist = ['a', '']", "models.list[1]: is empty"),
        ("[models]\nlist = [' a']", "models.list[0]: ' a' has spaces around it; write 'a'"),
        ('[models]\nlist = ["a\\tb"]', "models.list[0]: 'a\\tb' holds a control character"),
        ("[models]\nlist = [{ a = 1 }]", "models.list[0]: expected a string, not a table"),
        ("[gateway]\nshow_account = 1", "gateway.show_account: expected true or false, not 1"),
        (
            "[gateway]\nsse_done = 'dorp'",
            "gateway.sse_done: 'dorp' is not one of forward, drop; did you mean 'drop'?",
        ),
        ("[gateway]\nsse_done = false", "gateway.sse_done: false is not one of forward, drop"),
        ("[gateway]\nstream_default = 1.5", "gateway.stream_default: 1.5 is not one of sse, json"),
        ("[auth]\nmode = 'zzz'", "auth.mode: 'zzz' is not one of off, strict, all_except_health, auto"),
        (
            "[pool]\nstrategy = 'Round_Robin'",
            "pool.strategy: 'Round_Robin' is not one of sticky, round-robin, least-loaded, priority; "
            "did you mean 'round-robin'?",
        ),
        ("[pool]\nmax_attempts = 11", "pool.max_attempts: 11 is not between 1 and 10"),
        ("[pool]\nmax_attempts = true", "pool.max_attempts: expected a whole number, not true"),
        ("[pool]\nmax_attempts = 3.0", "pool.max_attempts: expected a whole number, not 3.0"),
        (
            "[pool]\nmax_attempts = 0x" + "f" * 6000,
            "pool.max_attempts: a number of more than 64 bits is not between 1 and 10",
        ),
        (
            "[pool]\nstrategy = '" + "x" * 500 + "'",
            f"pool.strategy: '{'x' * 79}…' is not one of sticky, round-robin, least-loaded, priority",
        ),
        ("[timeouts]\nidle = '5s'", "timeouts.idle: expected a number of seconds, not '5s'"),
        ("[timeouts]\nidle = false", "timeouts.idle: expected a number of seconds, not false"),
        ("[timeouts]\nidle = 12:00:00", "timeouts.idle: expected a number of seconds, not 12:00:00"),
        (
            "[timeouts]\nidle = 0",
            "timeouts.idle: 0 is not a number of seconds: more than 0, and at most 1000000",
        ),
        (
            "[timeouts]\nidle = nan",
            "timeouts.idle: nan is not a number of seconds: more than 0, and at most 1000000",
        ),
        (
            "[timeouts]\nidle = inf",
            "timeouts.idle: inf is not a number of seconds: more than 0, and at most 1000000",
        ),
        (
            "[timeouts]\ndrain = -1",
            "timeouts.drain: -1 is not a number of seconds: 0 or more, and at most 1000000",
        ),
        (
            "[plugins]\nload = ['my-plugin']",
            "plugins.load[0]: 'my-plugin' is not the dotted name of a Python module, like 'my_company.routing'",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_shown_with_what_was_expected(text: str, line: str) -> None:
    """What is inside arrays and tables is not shown: it could be a secret."""
    assert problem(text) == line


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        ('"7"', 7),
        ('"7B"', 7),
        ('"10MB"', 10_000_000),
        ('"10 kB"', 10_000),
        ('"512KiB"', 524_288),
        ('"100MiB"', 104_857_600),
        ('"1GiB"', 1_073_741_824),
        ('"1024GiB"', 2**40),
    ],
)
def test_sizes_are_bytes_or_a_number_and_a_unit(written: str, size: int) -> None:
    """Decimal units are powers of 1000, binary ones of 1024."""
    assert parse(f"gateway.max_body = {written}", environ={}).gateway.max_body == size


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('"10Mb"', "'10Mb' has none of the units B, kB, KB, MB, GB, KiB, MiB, GiB; did you mean '10MB'?"),
        ('"10parsec"', "'10parsec' has none of the units B, kB, KB, MB, GB, KiB, MiB, GiB"),
        ('"1.5GiB"', "'1.5GiB' is not a size: write bytes, or a whole number and a unit like \"100MiB\""),
        ("1.5", '1.5 is not a size: write bytes, or a whole number and a unit like "100MiB"'),
        ("true", 'true is not a size: write bytes, or a whole number and a unit like "100MiB"'),
        ("0", "0 is not between 1 byte and 1024GiB"),
        ("-1", "-1 is not between 1 byte and 1024GiB"),
        ('"1025GiB"', "'1025GiB' is not between 1 byte and 1024GiB"),
    ],
)
def test_what_is_no_size_is_refused(written: str, message: str) -> None:
    """``Mb`` could be bits; a guess would be wrong by eight."""
    assert problem(f"gateway.max_body = {written}") == f"gateway.max_body: {message}"


# -- Listeners, hosts, origins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        ("", "is empty"),
        ("8045", "'8045' is not a Twisted server endpoint; write it like 'tcp:8045:interface=127.0.0.1'"),
        (
            "0.0.0.0:80",
            "'0.0.0.0:80' is not a Twisted server endpoint; write it like 'tcp:8045:interface=127.0.0.1'",
        ),
        (
            "localhost:80",
            "'localhost:80' is not a Twisted server endpoint; write it like 'tcp:8045:interface=127.0.0.1'",
        ),
        (
            "http://localhost",
            "'http://localhost' is not a Twisted server endpoint; write it like 'tcp:8045:interface=127.0.0.1'",
        ),
        ("tcp", "'tcp' is not a Twisted server endpoint; write it like 'tcp:8045:interface=127.0.0.1'"),
        (
            "tpc:80:interface=x",
            "'tpc:80:interface=x' is no type of server endpoint; did you mean 'tcp:80:interface=x'?",
        ),
        ("unx:/tmp/s", "'unx:/tmp/s' is no type of server endpoint; did you mean 'unix:/tmp/s'?"),
    ],
)
def test_a_listener_that_does_not_look_like_an_endpoint_is_refused(listener: str, message: str) -> None:
    """The usual slips get a cure here; whether Twisted can listen there shows at the start."""
    assert problem(f"[gateway]\nlisten = ['{listener}']") == f"gateway.listen[0]: {message}"


def test_no_listener_at_all_is_refused() -> None:
    """A gateway that listens nowhere is a mistake."""
    assert problem("[gateway]\nlisten = []") == (
        "gateway.listen: names no listener; leave it out to listen on 127.0.0.1:8045"
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "is empty"),
        ("box:8045", "'box:8045' is not a bare host name: no scheme, port or path; write 'box'"),
        ("https://Box/", "'https://Box/' is not a bare host name: no scheme, port or path; write 'box'"),
        ("box/path", "'box/path' is not a bare host name: no scheme, port or path; write 'box'"),
        ("[::1]", "'[::1]' is not a bare host name: no scheme, port or path; write '::1'"),
        ("[::1", "'[::1' is not a bare host name: no scheme, port or path"),
        ("a b", "'a b' is not a bare host name: no scheme, port or path"),
        ("-a", "'-a' is not a bare host name: no scheme, port or path"),
        ("*.example", "'*.example' is a pattern, and a pattern would undo the check; list each host"),
        (
            "bücher.example",
            "'bücher.example' is not ASCII; write the name as browsers send it, starting with 'xn--'",
        ),
    ],
)
def test_allowed_hosts_are_bare(host: str, message: str) -> None:
    """Anything more would never equal what is compared with it; the cure is named where there is one."""
    assert problem(f"[gateway]\nallowed_hosts = ['{host}']") == f"gateway.allowed_hosts[0]: {message}"


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("*", "'*' would let every web page use your accounts; list the origins that may"),
        ("null", "'null' is the origin of every sandboxed page and local file; list the origins that may"),
        (
            "localhost:3000",
            "'localhost:3000' is not a whole URL; write scheme://host or scheme://host:port, "
            "like 'http://localhost:3000'",
        ),
        (
            "",
            "'' is not a whole URL; write scheme://host or scheme://host:port, like 'http://localhost:3000'",
        ),
        ("http://a/", "'http://a/' goes on after its host; write 'http://a'"),
        ("http://a?b", "'http://a' goes on after its host; write 'http://a'"),
        (
            "http://a:0",
            "'http://a:0' cannot be read as a URL; write scheme://host or scheme://host:port, "
            "like 'http://localhost:3000'",
        ),
        (
            "http://u@a",
            "'http://…@a' holds a user name; write scheme://host or scheme://host:port, like 'http://localhost:3000'",
        ),
    ],
)
def test_cors_origins_are_origins(origin: str, message: str) -> None:
    """A wildcard is refused with the reason, the rest with the form that is meant."""
    assert problem(f"[gateway]\ncors_origins = ['{origin}']") == f"gateway.cors_origins[0]: {message}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ai.example.net", "'ai.example.net' is not a whole URL; write it like 'https://ai.example.net'"),
        ("ftp://ai.example.net", "'ftp://ai.example.net' is neither http nor https"),
        (
            "https://me@ai.example.net",
            "'https://…@ai.example.net' holds a user name or password; credentials have keys of their own",
        ),
        (
            "https://ai.example.net?key=canary-public",
            "'https://ai.example.net' has a query or a fragment; write the base URL alone",
        ),
        ("https://ai.example.net/a/../b", "'https://ai.example.net/a/../b' has a path that cannot be used as a prefix"),
        (
            "https://ai.example.net/a/v1beta/",
            "'https://ai.example.net/a/v1beta/' ends in an API version, which clients add themselves; leave it out",
        ),
    ],
)
def test_the_public_url_is_a_base_url_without_a_version(url: str, message: str) -> None:
    assert problem(f"[gateway]\npublic_url = '{url}'") == f"gateway.public_url: {message}"


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        (
            "proxy.example.net",
            "'proxy.example.net' is no address, like '192.0.2.1' or '10.0.0.0/8', and neither 'loopback' nor 'unix'; "
            "names are not resolved",
        ),
        ("10.0.0.7/8", "'10.0.0.7/8' goes on behind its network; write '10.0.0.0/8'"),
        ("::ffff:10.0.0.1", "'::ffff:10.0.0.1' stands for addresses of IPv4; write those"),
        ("", "is empty"),
    ],
)
def test_trusted_proxies_are_addresses_and_networks(proxy: str, message: str) -> None:
    assert problem(f"[gateway]\ntrusted_proxies = ['{proxy}']") == f"gateway.trusted_proxies[0]: {message}"


KEY = "[[auth.keys]]\nname = 'a'\nkey = 'canary-reach'\n"


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("[gateway]\npublic_url = 'https://ai.example.net'\n" + KEY, []),
        ("[gateway]\ntrusted_proxies = ['loopback']\n" + KEY, []),
        ("[gateway]\npublic_url = 'https://ai.example.net'\n[plugins]\nload = ['mine']\n", []),
        (
            "[gateway]\npublic_url = 'https://ai.example.net'\n",
            [
                "auth.mode: auto asks for a client key where a request comes through a proxy, but there is none here: "
                "whom the proxy of public_url lets through is let in; `agm key create NAME` makes one"
            ],
        ),
        (
            "[gateway]\ntrusted_proxies = ['loopback']\n",
            [
                "auth.mode: auto asks for a client key where a request comes through a proxy, and there is none here: "
                "all are refused; `agm key create NAME` makes one"
            ],
        ),
        (
            "[gateway]\ntrusted_proxies = ['loopback']\n[auth]\nmode = 'off'\n" + KEY,
            [
                "auth.mode: off asks nobody for a client key, and so lets in whom a proxy before the gateway lets "
                'through; write "auto", which asks those for one'
            ],
        ),
        (
            "[gateway]\ntrusted_proxies = ['0.0.0.0/0']\n" + KEY,
            ["gateway.trusted_proxies[0]: 0.0.0.0/0 is everybody: whoever sends a request may say where it comes from"],
        ),
    ],
)
def test_a_proxy_that_lets_in_everybody_or_nobody_is_warned_of(text: str, warnings: list[str]) -> None:
    found = parse(text, environ={}).warnings
    assert [warning.removeprefix("configuration: ") for warning in found] == warnings


# -- Client keys -------------------------------------------------------------------------------------


def test_a_client_key_is_known_by_its_digest_however_it_was_given() -> None:
    """All three ways come to the same, in lower case, without the line break of a copied key."""
    digest = hashlib.sha256(b"s3cret").hexdigest()
    for given_as in ('key = " s3cret\\n"', 'key_env = "K"', f'key_sha256 = "{digest.upper()}"'):
        (only,) = parse(f'[[auth.keys]]\nname = "laptop"\n{given_as}', environ={"K": "s3cret\n"}).auth.keys
        assert only == ClientKeyConfig(name="laptop", digest=digest)


def test_limits_of_a_client_key_are_read() -> None:
    """Patterns as a tuple, the rates as whole numbers."""
    text = 'models = ["gemini-*"]\nrequests_per_minute = 60\nrequests_per_day = 5\n'
    (only,) = parse(A_CLIENT_KEY + text + "tokens_per_minute = 6\ntokens_per_day = 7", environ={}).auth.keys
    assert (only.models, only.requests_per_minute, only.requests_per_day) == (("gemini-*",), 60, 5)
    assert (only.tokens_per_minute, only.tokens_per_day, only.expires) == (6, 7, None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2027-01-31", "2027-02-01T00:00:00+00:00"),  # the day itself still counts
        ("2027-01-31T18:00:00", "2027-01-31T18:00:00+00:00"),
        ("2027-01-31 18:00:00Z", "2027-01-31T18:00:00+00:00"),
        ("2027-01-31T18:00:00+05:30", "2027-01-31T12:30:00+00:00"),
    ],
)
def test_a_client_key_expires_at_the_end_of_a_day_or_at_a_time(written: str, meant: str) -> None:
    """What names no offset is UTC, so that it means the same everywhere."""
    (only,) = parse(A_CLIENT_KEY + f"expires = {written}", environ={}).auth.keys
    assert only.expires == datetime.datetime.fromisoformat(meant).timestamp()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("key = 'k'", ["auth.keys[0].name: is missing; each client key needs a name of its own"]),
        (
            "name = 'a'",
            ["auth.keys[0]: a client key needs exactly one of key, key_env, key_sha256; none is given"],
        ),
        (
            "name = 'a'\nkey = 'k'\nkey_env = 'K'",
            ["auth.keys[0]: a client key needs exactly one of key, key_env, key_sha256; key and key_env are given"],
        ),
        ("name = 'a'\nkey = 5", ["auth.keys[0].key: expected a string"]),
        ("name = 'a'\nkey = '  '", ["auth.keys[0].key: is empty"]),
        (
            "name = 'a'\nkey = 'a b'",
            [
                "auth.keys[0].key: holds a space, a control character or one outside ASCII, which no key has; "
                "write the key alone"
            ],
        ),
        (
            "name = 'a'\nkey_sha256 = 'the key itself'",
            ["auth.keys[0].key_sha256: expected the SHA-256 of a key: 64 hexadecimal digits"],
        ),
        (
            "name = 'a'\nkey = 'k'\ntokens_per_day = 1.5\nexpires = '2027-01-31'\nrequests_per_day = 0",
            [
                "auth.keys[0].tokens_per_day: expected a whole number, not 1.5",
                "auth.keys[0].expires: expected a date like 2027-01-31 or a time like 2027-01-31T18:00:00Z, "
                "not '2027-01-31'; write it without quotes",
                "auth.keys[0].requests_per_day: 0 is not between 1 and 1000000000000; leave it out for no limit",
            ],
        ),
        (
            "name = 'a'\nkey = 'k'\nexpires = 12:00:00",
            ["auth.keys[0].expires: expected a date like 2027-01-31 or a time like 2027-01-31T18:00:00Z, not 12:00:00"],
        ),
        (
            "name = 'a'\nkey = 'k'\nexpires = 9999-12-31",
            ["auth.keys[0].expires: 9999-12-31 is beyond the calendar; leave it out for a key that does not expire"],
        ),
        (
            "name = 'a'\nkey = 'k'\nrequests_per_minute = 0",
            ["auth.keys[0].requests_per_minute: 0 is not between 1 and 1000000000; leave it out for no limit"],
        ),
    ],
)
def test_a_client_key_that_cannot_be_used_is_refused(lines: str, expected: list[str]) -> None:
    """A value that was refused is not also called missing."""
    found = [line.removeprefix("configuration: ") for line in problems(f"[[auth.keys]]\n{lines}")]
    assert found == expected


def test_client_keys_are_unique_by_name_and_by_key() -> None:
    """Two limits for one key, or one name for two, would leave open what holds."""
    text = A_CLIENT_KEY + '[[auth.keys]]\nname = "a"\nkey = "other"\n[[auth.keys]]\nname = "b"\nkey = "k"\n'
    assert problems(text) == [
        "configuration: auth.keys[1].name: 'a' is auth.keys[0].name already; give each key its own name",
        "configuration: auth.keys[2]: is the same key as auth.keys[0], which leaves open whose limits hold",
    ]


# -- Models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ('a = ""', "models.aliases.a: is empty"),
        ("a = 5", "models.aliases.a: expected a string, not 5"),
        ('"" = "m"', 'models.aliases."": is empty'),
        (
            'gpt-4.1 = "m"',
            'models.aliases.gpt-4: expected a string, not a table; quote a name with a dot: "gpt-4.1"',
        ),
    ],
)
def test_an_alias_is_a_name_and_a_model(lines: str, line: str) -> None:
    """A dot without quotes makes a table, which nobody means here; the message says so."""
    assert problem(f"[models.aliases]\n{lines}") == line


# -- Accounts ----------------------------------------------------------------------------------------


def test_every_key_of_an_account_is_read() -> None:
    """Values arrive in their fields."""
    it = account(
        """
        kind = "vertex"
        access_token = "t"
        project = "example.com:p-1"
        location = "europe-west4"
        endpoints = ["https://one.example/", "http://127.0.0.1:8046/emu/"]
        models = ["gemini-*", "imagen-*"]
        priority = -2
        max_concurrency = 8
        enabled = false
        """
    )
    assert it == AccountConfig(
        name="a",
        kind="vertex",
        access_token=Secret("t"),
        project="example.com:p-1",
        location="europe-west4",
        endpoints=("https://one.example", "http://127.0.0.1:8046/emu"),
        models=("gemini-*", "imagen-*"),
        priority=-2,
        max_concurrency=8,
        enabled=False,
    )


def test_an_account_leaves_out_what_has_a_default() -> None:
    """The shortest account serves every model, without a limit."""
    it = account('kind = "api-key"\napi_key = "k"')
    assert (it.models, it.priority, it.max_concurrency, it.enabled) == (("*",), 0, None, True)
    assert (it.location, it.project, it.credentials, it.access_token) == ("global", None, None, None)


def test_an_api_key_comes_from_the_file_the_environment_or_a_file_of_its_own(tmp_path: Path) -> None:
    """White space that copying or an editor added is dropped, a byte order mark too."""
    (tmp_path / "key.txt").write_bytes(b"\xef\xbb\xbf AIza-3 \r\n")
    here = tmp_path / "agm.toml"
    for lines, key in (
        ('api_key = "\\n AIza-1 "', "AIza-1"),
        ('api_key_env = "K"', "AIza-2"),
        ('api_key_file = "key.txt"', "AIza-3"),
        (f"api_key_file = '{tmp_path}/key.txt'", "AIza-3"),
        ('api_key_file = "~/key.txt"', "AIza-3"),
    ):
        environ = {"K": "AIza-2\n", "HOME": str(tmp_path)}
        it = account(f'kind = "api-key"\n{lines}', environ, here)
        assert it.api_key is not None
        assert it.api_key.reveal() == key


def test_an_access_token_comes_from_the_file_or_the_environment() -> None:
    """Both are fixed tokens."""
    for lines in ('access_token = "ya29.x"', 'access_token_env = "T"'):
        it = account(f'kind = "code-assist"\n{lines}', {"T": " ya29.x\n"})
        assert it.access_token == Secret("ya29.x")


def test_credentials_are_adc_or_a_path_from_the_files_folder(tmp_path: Path) -> None:
    """The gateway may run in another folder than the one the file was written in."""
    at = tmp_path / "agm.toml"
    lines = 'kind = "code-assist"\ncredentials = '
    assert account(lines + '"adc"', path=at).credentials == "adc"
    assert account(lines + '"team.json"', path=at).credentials == str(tmp_path / "team.json")
    assert account(lines + '"/srv/team.json"', path=at).credentials == "/srv/team.json"
    assert account(lines + '"~/team.json"', {"HOME": "/home/me"}, at).credentials == "/home/me/team.json"
    assert account(lines + '"team.json"').credentials == str(Path.cwd() / "team.json")


@pytest.mark.parametrize(
    ("lines", "endpoint"),
    [
        ('kind = "api-key"\napi_key = "k"', "https://generativelanguage.googleapis.com"),
        ('kind = "code-assist"\ncredentials = "adc"', "https://cloudcode-pa.googleapis.com"),
        ('kind = "vertex"\napi_key = "k"', "https://aiplatform.googleapis.com"),
        ('kind = "vertex"\ncredentials = "adc"\nproject = "p"', "https://aiplatform.googleapis.com"),
        (
            'kind = "vertex"\ncredentials = "adc"\nproject = "p"\nlocation = "eu"',
            "https://aiplatform.eu.rep.googleapis.com",
        ),
        (
            'kind = "vertex"\ncredentials = "adc"\nproject = "p"\nlocation = "us-central1"',
            "https://us-central1-aiplatform.googleapis.com",
        ),
    ],
)
def test_endpoints_are_googles_own_by_kind_and_location(lines: str, endpoint: str) -> None:
    """Whether the account came from a file or was made by a plugin."""
    it = account(lines)
    assert it.endpoints == (endpoint,)
    assert AccountConfig(name="a", kind=it.kind, location=it.location).endpoints == (endpoint,)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ["kind: is missing; write api-key, vertex or code-assist"]),
        ("kind = 5", ["kind: 5 is not one of api-key, vertex, code-assist"]),
        (
            "kind = 'api-key'",
            ["an api-key account needs exactly one of api_key, api_key_env, api_key_file; none is given"],
        ),
        (
            "kind = 'api-key'\napi_key = 'k'\napi_key_file = '/'",
            [
                "an api-key account needs exactly one of api_key, api_key_env, api_key_file; "
                "api_key and api_key_file are given"
            ],
        ),
        (
            "kind = 'api-key'\napi_key = 'k'\ncredentials = 'adc'\naccess_token = 't'\nproject = 'p'",
            [
                "credentials: an api-key account takes no credentials; remove it, or write another kind",
                "access_token: an api-key account takes no access_token; remove it, or write another kind",
                "project: an api-key account takes no project; remove it, or write another kind",
            ],
        ),
        (
            "kind = 'vertex'",
            [
                "a vertex account needs exactly one of credentials, access_token, access_token_env;"
                " none is given (or an API key alone, for express mode)",
                "project: is missing: a vertex account needs it, except with an API key (express mode)",
            ],
        ),
        (
            "kind = 'vertex'\ncredentials = 'adc'",
            ["project: is missing: a vertex account needs it, except with an API key (express mode)"],
        ),
        (
            "kind = 'vertex'\nproject = 'p'\ncredentials = 'adc'\naccess_token = 't'",
            [
                "a vertex account needs exactly one of credentials, access_token, access_token_env; "
                "credentials and access_token are given (or an API key alone, for express mode)"
            ],
        ),
        (
            "kind = 'vertex'\napi_key = 'k'\nproject = 'p'",
            ["project: a vertex account with an API key (express mode) takes no project; remove it or api_key"],
        ),
        (
            "kind = 'vertex'\napi_key = 'k'\napi_key_env = 'K'",
            [
                "a vertex account in express mode needs exactly one of api_key, api_key_env, api_key_file; "
                "api_key and api_key_env are given"
            ],
        ),
        (
            "kind = 'code-assist'",
            ["a code-assist account needs exactly one of credentials, access_token, access_token_env; none is given"],
        ),
        (
            "kind = 'code-assist'\napi_key = 'k'",
            [
                "api_key: a code-assist account is let in by OAuth tokens only, never by an API key; "
                'give credentials or access_token, or write kind = "api-key"'
            ],
        ),
    ],
)
def test_an_account_has_what_its_kind_needs_and_nothing_else(lines: str, expected: list[str]) -> None:
    """Two ways in leave open which one is used, and a useless one misleads."""
    assert refused_account(lines) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('name = "a b"', "name: 'a b' is not a name of letters, digits, '.', '_' and '-'"),
        ('name = "ä"', "name: 'ä' is not a name of letters, digits, '.', '_' and '-'"),
        ("priority = 1.5", "priority: expected a whole number, not 1.5"),
        ("max_concurrency = 0", "max_concurrency: 0 is not between 1 and 1000000; leave it out for no limit"),
        ("models = []", "models: would serve no model; leave it out for all, or write enabled = false"),
        ('models = [""]', "models[0]: is empty"),
        ('location = "Mars!"', "location: 'Mars!' is not a location like 'global' or 'us-central1'"),
        ('location = "a/b"', "location: 'a/b' is not a location like 'global' or 'us-central1'"),
        ('project = "p/../q"', "project: 'p/../q' is not a project id or number"),
        (
            'credentials = "{ \\"type\\": \\"service_account\\" }"',
            'credentials: expected "adc" or the path of a file, not what is in the file',
        ),
        ("credentials = 5", "credentials: expected a string, not 5"),
        ('credentials = "~/x"', "credentials: '~/x' needs HOME, which is not set; write the whole path"),
        ('enabled = "no"', "enabled: expected true or false, not 'no'"),
        ("endpoints = []", "endpoints: names no endpoint; leave it out for Google's own"),
    ],
)
def test_a_bad_value_of_an_account_is_refused(line: str, message: str) -> None:
    """A location becomes part of a host's name, a project part of a path: neither may hold more."""
    base = {"name": '"a"', "kind": '"vertex"', "project": '"p"', "credentials": '"adc"'}
    key, _, value = line.partition(" = ")
    text = "\n".join(f"{name} = {written}" for name, written in {**base, key: value}.items())
    assert problem(f"[[accounts]]\n{text}") == f"accounts[0].{message}"


def test_account_names_are_unique_even_beside_broken_accounts() -> None:
    """An index in a message counts what was written, not what could be read."""
    one = "{ name = 'b', kind = 'api-key', api_key = 'k' }"
    text = f"accounts = [1, {one}, {one}]"
    assert problems(text) == [
        "configuration: accounts[0]: expected a table, not an integer",
        "configuration: accounts[2].name: 'b' is accounts[1].name already; give each account its own name",
    ]


def test_a_location_without_a_use_is_a_warning() -> None:
    """It does no harm, but the person expects something of it."""
    it = parse(AN_ACCOUNT + 'location = "us"', environ={}, path=Path("agm.toml"))
    assert it.warnings == (
        "agm.toml: accounts[0].location: only a vertex account has a location; it changes nothing for api-key",
    )


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("https://EXAMPLE.com", "https://example.com"),
        ("https://example.com:443/", "https://example.com"),
        ("https://example.com:8443/a/b//", "https://example.com:8443/a/b"),
        ("http://localhost:80", "http://localhost"),
        ("http://127.9.9.9:1", "http://127.9.9.9:1"),
        ("http://[::1]:8046", "http://[::1]:8046"),
        ("https://[2001:db8::1]/gemini", "https://[2001:db8::1]/gemini"),
    ],
)
def test_an_endpoint_is_kept_as_it_goes_on_the_wire(written: str, endpoint: str) -> None:
    """No slash at the end, no default port, a path prefix kept."""
    assert account(f'kind = "api-key"\napi_key = "k"\nendpoints = ["{written}"]').endpoints == (endpoint,)


EXAMPLE = "write it like 'https://generativelanguage.googleapis.com'"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("example.com", f"'example.com' is not a whole URL; {EXAMPLE}"),
        ("/v1", f"'/v1' is not a whole URL; {EXAMPLE}"),
        ("https://", f"'https://' is not a whole URL; {EXAMPLE}"),
        ("https://:80", f"'https://:80' names no host; {EXAMPLE}"),
        ("https://a..b", f"'https://a..b' names no host; {EXAMPLE}"),
        ("https://[v1.a]", f"'https://[v1.a]' names no host; {EXAMPLE}"),
        ("https://[fe80::1%eth0]", f"'https://[fe80::1%eth0]' names no host; {EXAMPLE}"),
        ("https://[::1", f"'https://[::1' cannot be read as a URL; {EXAMPLE}"),
        ("https://a:99999", f"'https://a:99999' cannot be read as a URL; {EXAMPLE}"),
        ("https://a:b", f"'https://a:b' cannot be read as a URL; {EXAMPLE}"),
        ("https://a\\tb", f"'https://a\\tb' holds characters that no URL has; {EXAMPLE}"),
        ("https://ä", f"'https://ä' holds characters that no URL has; {EXAMPLE}"),
        ("https://a\\\\b", f"'https://a\\\\b' holds characters that no URL has; {EXAMPLE}"),
        ("ftp://a", "'ftp://a' is neither http nor https"),
        (
            "https://u:hidden@a",
            "'https://…@a' holds a user name or password; credentials have keys of their own",
        ),
        ("https://u:hi?dden@a", f"'https://…@a' cannot be read as a URL; {EXAMPLE}"),
        ("https://a?key=hidden", "'https://a' has a query or a fragment; write the base URL alone"),
        ("https://a/#hidden", "'https://a/' has a query or a fragment; write the base URL alone"),
        ("https://a/b//c", "'https://a/b//c' has a path that cannot be used as a prefix"),
        ("https://a/../c", "'https://a/../c' has a path that cannot be used as a prefix"),
        (
            "http://example.com",
            "'http://example.com' would send credentials over the network in the clear; "
            "write https (plain http is for loopback hosts only)",
        ),
        (
            "http://127.0.0.1.example.com",
            "'http://127.0.0.1.example.com' would send credentials over the network "
            "in the clear; write https (plain http is for loopback hosts only)",
        ),
        (
            "http://[::ffff:127.0.0.1]",
            "'http://[::ffff:127.0.0.1]' would send credentials over the network in the clear; "
            "write https (plain http is for loopback hosts only)",
        ),
        (
            "http://0.0.0.0",
            "'http://0.0.0.0' would send credentials over the network in the clear; "
            "write https (plain http is for loopback hosts only)",
        ),
    ],
)
def test_an_endpoint_that_could_lead_elsewhere_is_refused(written: str, message: str) -> None:
    """What a URL holds beside its host and path is not shown: it may be a password or a key."""
    (line,) = refused_account(f'kind = "api-key"\napi_key = "k"\nendpoints = ["{written}"]')
    assert line == f"endpoints[0]: {message}"
    assert "hidden" not in line


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha", "v1beta1", "v1internal"])
def test_an_endpoint_with_a_version_is_a_warning(version: str) -> None:
    """The gateway adds the version, so that it would come twice; but a proxy's own path may end like this."""
    it = parse(AN_ACCOUNT + f'endpoints = ["https://a.example/{version}/"]', environ={})
    assert it.accounts[0].endpoints == (f"https://a.example/{version}",)
    assert it.warnings == (
        f"configuration: accounts[0].endpoints[0]: 'https://a.example/{version}/' ends in an API version, "
        "which the gateway adds itself",
    )


# -- Secrets -----------------------------------------------------------------------------------------

UNFIT = "holds a space, a control character or one outside ASCII, which no key has; write the key alone"
QUOTED = "has quotes around the key; write the key without them"
ASSIGNED = "begins with a name and '=', as a line of an .env file does; write the key alone"
UNFILLED = "names a variable in the place of the key, and nothing has put in its value; write the key itself"
#: What is no key, and what is said about it.
NO_KEYS = [
    ("ab\ncd", UNFIT),
    ("canary with a space", UNFIT),
    ("canary-\x00", UNFIT),
    ("schlüssel", UNFIT),
    ('"canary-1"', QUOTED),
    ("'canary-1'", QUOTED),
    ("canary-1'", QUOTED),
    ("“canary-1”", QUOTED),
    ("GEMINI_API_KEY=canary-1", ASSIGNED),
    ("export GEMINI_API_KEY=canary-1", ASSIGNED),
    ("api_key = canary-1", ASSIGNED),
    ("x-goog-api-key=canary-1", ASSIGNED),
    ("${GEMINI_API_KEY}", UNFILLED),
    ("$GEMINI_API_KEY", UNFILLED),
    ('{"type": "canary"}', "holds more than an API key; a google-auth file belongs in credentials"),
]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "the environment variable K is not set; write export K=… before the start"),
        ({"K": " \n"}, "the environment variable K is empty; write export K=… before the start"),
        *(({"K": text}, f"the environment variable K {why}") for text, why in NO_KEYS),
    ],
)
@pytest.mark.parametrize("lines", ["kind = 'api-key'\napi_key_env", "kind = 'code-assist'\naccess_token_env"])
def test_an_account_without_a_usable_variable_is_off_and_says_what_helps(
    lines: str, environ: dict[str, str], message: str
) -> None:
    """The value is never shown, only what is wrong with it; the other account has its secret."""
    key = lines.rpartition("\n")[2]
    it = parse(f"[[accounts]]\nname = 'b'\n{lines} = 'K'\n{AN_ACCOUNT}", environ=environ)
    assert lacking(f"[[accounts]]\nname = 'b'\n{lines} = 'K'\n{AN_ACCOUNT}", environ) == [
        f"accounts[0].{key}: {message}; until then 'b' is off"
    ]
    off, other = it.accounts
    assert (off.unusable, off.api_key, off.access_token) == (message, None, None)
    assert (other.unusable, other.api_key) == (None, Secret("k"))


@pytest.mark.parametrize(("text", "why"), [("  ", "is empty"), *NO_KEYS])
@pytest.mark.parametrize(("kind", "key"), [("api-key", "api_key"), ("code-assist", "access_token")])
def test_an_account_whose_secret_is_written_badly_is_off(kind: str, key: str, text: str, why: str) -> None:
    """As one that has it from elsewhere."""
    text = f"[[accounts]]\nname = 'a'\nkind = '{kind}'\n{key} = {json.dumps(text)}"
    assert lacking(text) == [f"accounts[0].{key}: {why}; until then 'a' is off"]
    assert account(f"kind = '{kind}'\n{text.rpartition(chr(10))[2]}").unusable == f"the {key} {why}"


@pytest.mark.parametrize(
    "key", ["AIzaSyFAKE_key-0001", "AQ.Ab8RN6", "ya29.a0AfB_x", "MDEyMzQ=", "abc==", "a=b", "user:pass$word"]
)
def test_what_may_be_a_key_is_one(key: str) -> None:
    """Of Google's forms, and of what another gateway may have given out."""
    assert account("kind = 'api-key'\napi_key_env = 'K'", {"K": f" {key}\n"}).api_key == Secret(key)


def test_a_client_key_whose_variable_is_missing_or_unusable_lets_nobody_in() -> None:
    """It is left out: the mode asks for a key as before, and the other keys are good."""
    text = "[auth]\nmode = 'strict'\n" + A_CLIENT_KEY + "[[auth.keys]]\nname = 'b'\nkey_env = 'K'\n"
    for environ, why in (
        ({}, "is not set; write export K=… before the start"),
        ({"K": ""}, "is empty; write export K=… before the start"),
        ({"K": "'canary'"}, QUOTED),
    ):
        assert lacking(text, environ) == [
            f"auth.keys[1].key_env: the environment variable K {why}; until then a client key lets nobody in"
        ]
        it = parse(text, environ=environ)
        assert (it.auth.mode, [key.name for key in it.auth.keys]) == ("strict", ["a"])


def test_metrics_whose_token_is_missing_are_open_to_nobody_by_it() -> None:
    """Not even to this machine, to which they would be open without a token."""
    text = "[metrics]\ntoken_env = 'T'"
    assert lacking(text) == [
        "metrics.token_env: the environment variable T is not set; write export T=… before the start; "
        "until then the token lets nobody in"
    ]
    assert parse(text, environ={}).metrics.digest == ""


def test_the_same_key_in_two_accounts_is_a_warning(tmp_path: Path) -> None:
    """However each of them has it; the key is not shown.  In another API it has another quota."""
    (tmp_path / "k").write_text("canary-1\n")
    (tmp_path / "k").chmod(0o600)
    text = (
        "[[accounts]]\nname = 'a'\nkind = 'api-key'\napi_key = 'canary-1'\n"
        "[[accounts]]\nname = 'b'\nkind = 'api-key'\napi_key_env = 'K'\n"
        "[[accounts]]\nname = 'c'\nkind = 'api-key'\napi_key_file = 'k'\n"
        "[[accounts]]\nname = 'd'\nkind = 'vertex'\napi_key_file = 'k'\n"
        "[[accounts]]\nname = 'e'\nkind = 'api-key'\napi_key_env = 'K'\nenabled = false\n"
    )
    it = parse(text, environ={"K": "canary-1"}, path=tmp_path / "agm.toml")
    assert it.warnings == tuple(
        f"{tmp_path}/agm.toml: accounts[{number}]: has the same API key as accounts[0], and so the same quota; "
        "remove one of the two"
        for number in (1, 2)
    )
    assert parse(text, environ={"K": "canary-2"}, path=tmp_path / "agm.toml").warnings[0].count("accounts[2]") == 1


@pytest.mark.parametrize(
    "pasted",
    ["AIzaSyA1234567890abcdefghijklmnopqrstuv", "not a name", "a-b", "0123456789abcdef" * 2 + "x", "x" * 101],
)
def test_a_key_pasted_where_its_variable_belongs_is_not_shown(pasted: str) -> None:
    """The slip is common, and the message goes to logs and screenshots."""
    (line,) = refused_account(f"kind = 'api-key'\napi_key_env = '{pasted}'")
    assert line == (
        "api_key_env: expected the name of an environment variable, like GEMINI_API_KEY, not the key itself"
    )


def test_a_hexadecimal_key_is_no_variable_and_a_variable_that_is_set_is_one() -> None:
    """However odd its name."""
    hexadecimal = "abcdef0123456789" * 2
    (line,) = refused_account(f"kind = 'api-key'\napi_key_env = '{hexadecimal}'")
    assert hexadecimal not in line
    (line,) = refused_account("kind = 'api-key'\napi_key_env = 5")
    assert line == "api_key_env: expected a string: the name of an environment variable"
    assert account(f"kind = 'api-key'\napi_key_env = '{hexadecimal}'", {hexadecimal: "k"}).api_key == Secret("k")


def test_a_disabled_account_may_lack_its_secret() -> None:
    """It may be disabled for that very reason; what is written in the file is still checked."""
    for lines in ("api_key_env = 'K'", "api_key_file = '/nowhere/key'"):
        assert account(f"kind = 'api-key'\n{lines}\nenabled = false").api_key is None
    assert account("kind = 'code-assist'\naccess_token_env = 'T'\nenabled = false").access_token is None
    assert account("kind = 'api-key'\napi_key = ''\nenabled = false").unusable is None
    assert refused_account("kind = 'api-key'\napi_key = 5\nenabled = false") == ["api_key: expected a string"]


def test_an_account_whose_key_file_cannot_be_used_is_off(tmp_path: Path) -> None:
    """Missing, a folder, empty, JSON, too large, not one key; a name that no file can have is refused."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "json").write_text('{"type": "service_account"}')
    (tmp_path / "two").write_text("AIza1\nAIza2\n")
    (tmp_path / "large").write_text("x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    more = "holds more than an API key; a google-auth file belongs in credentials"
    for name, said in {
        "none": f"'{tmp_path}/none' cannot be read: No such file or directory; put the key there",
        ".": f"'{tmp_path}' cannot be read: Is a directory; name a file with the key in it",
        "empty": f"the content of '{tmp_path}/empty' is empty; put the key there",
        "json": f"the content of '{tmp_path}/json' {more}",
        "large": f"the content of '{tmp_path}/large' {more}",
        "two": f"the content of '{tmp_path}/two' {UNFIT}",
        "binary": f"the content of '{tmp_path}/binary' {UNFIT}",
    }.items():
        text = AN_ACCOUNT.replace('api_key = "k"', f"api_key_file = '{name}'")
        (line,) = lacking(text, path=tmp_path / "agm.toml")
        assert line == f"accounts[0].api_key_file: {said}; until then 'a' is off"
        (off,) = parse(text, environ={}, path=tmp_path / "agm.toml").accounts
        assert off.unusable is not None
        assert str(tmp_path) not in off.unusable, "clients read it"
        assert Path(name).name in off.unusable or name == "."
    nul = AN_ACCOUNT.replace('api_key = "k"', 'api_key_file = "a\\u0000b"')
    assert problem(nul) == "accounts[0].api_key_file: 'a\\x00b' holds a control character"
    surrogate = AN_ACCOUNT.replace('api_key = "k"', "api_key_file = '/a'").replace("/a", "/\ud800")
    assert "control character" in problem(surrogate)


def test_a_secret_is_shown_nowhere_but_by_reveal() -> None:
    """Not in text, in formats, in logs, in attrs' dictionaries or in JSON."""
    secret = Secret("AIza-canary")
    assert secret.reveal() == "AIza-canary"
    shown = [repr(secret), str(secret), f"{secret}", "%s %r" % (secret, secret), "{:}".format(secret)]  # noqa: UP031, UP032
    shown.append(repr(attrs.asdict(AccountConfig(name="a", kind="api-key", api_key=secret))))
    assert not [text for text in shown if "canary" in text]
    assert str(secret) == "Secret(…)"
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_secrets_are_compared_by_value() -> None:
    """A reload sees whether a key has changed."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_the_repr_of_a_configuration_holds_no_secret_and_no_digest() -> None:
    """A plugin's table is left out of it too, for only the plugin knows what is secret there."""
    text = AN_ACCOUNT.replace('"k"', '"canary-1"') + A_CLIENT_KEY.replace('"k"', '"canary-2"')
    it = parse(text + '[plugins.vault]\ntoken = "canary-3"', environ={})
    assert "canary" not in repr(it)
    assert it.auth.keys[0].digest not in repr(it)
    assert it.plugins.tables["vault"] == {"token": "canary-3"}


# -- Files -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a configuration file."""
    return tmp_path / "agm.toml"


def test_load_reads_a_file_and_remembers_where_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is absolute, because a daemon leaves the folder that it was started in."""
    file.write_bytes(b"\xef\xbb\xbf[pool]\r\nmax_attempts = 2\r\n")
    monkeypatch.chdir(file.parent)
    it = config.load(Path("agm.toml"), environ={})
    assert (it.pool.max_attempts, it.path) == (2, file)


def test_load_names_a_file_that_cannot_be_read(file: Path) -> None:
    """Missing, a folder, no name for a file, not UTF-8, not valid."""
    unreadable = file.with_name("latin1.toml")
    unreadable.write_bytes("a = 'é'".encode("latin-1"))
    file.write_text("a = 1")
    for path, line in {
        file.with_name("none"): "cannot be read: No such file or directory",
        file.parent: "cannot be read: Is a directory",
        Path("a\0b"): "cannot be read: no file can have this name",
        unreadable: "is not UTF-8 at byte 5, as TOML must be",
        file: f"a: unknown key; the keys here are {TABLES}",
    }.items():
        with pytest.raises(ConfigError) as caught:
            config.load(path, environ={})
        assert str(caught.value) == f"{path}: {line}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
@pytest.mark.parametrize(
    "text",
    [
        AN_ACCOUNT,
        A_CLIENT_KEY,
        AN_ACCOUNT.replace("api-key", "code-assist").replace("api_key", "access_token"),
    ],
)
def test_a_file_with_secrets_that_others_can_read_is_a_warning(file: Path, mode: int, text: str) -> None:
    """The gateway still starts: a person may have a reason."""
    file.write_text(text)
    file.chmod(mode)
    (warning,) = config.load(file, environ={}).warnings
    assert warning == f"{file}: holds secrets, and others than its owner can read it; chmod 600 {file}"
    file.chmod(0o600)
    assert config.load(file, environ={}).warnings == ()


def test_a_file_with_secrets_that_others_can_change_is_a_warning(file: Path) -> None:
    """They could put their own endpoint into it."""
    file.write_text(AN_ACCOUNT)
    file.chmod(0o620)
    (warning,) = config.load(file, environ={}).warnings
    assert warning == f"{file}: holds secrets, and others than its owner can change it; chmod 600 {file}"


def test_a_file_that_the_configuration_names_is_a_warning_too(file: Path) -> None:
    """A key's file, and a login."""
    key, login = file.with_name("a.key"), file.with_name("a b.json")
    file.write_text(
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_file = "a.key"\n'
        '[[accounts]]\nname = "b"\nkind = "vertex"\nproject = "p"\ncredentials = "a b.json"\n'
        '[[accounts]]\nname = "c"\nkind = "vertex"\nproject = "p"\ncredentials = "none.json"\n'
        '[[accounts]]\nname = "d"\nkind = "vertex"\nproject = "p"\ncredentials = "adc"\n'
    )
    key.write_text("k")
    login.write_text(A_LOGIN)
    for each in (key, login):
        each.chmod(0o644)
    missing = (
        f"{file}: accounts[2].credentials: '{file.parent}/none.json' cannot be read: No such file or directory; "
        "put the login there; until then 'c' is off"
    )
    assert config.load(file, environ={"HOME": str(file.parent)}).warnings == (
        f"{file}: accounts[0].api_key_file: '{key}' holds secrets, and others than its owner can read it;"
        f" chmod 600 {key}",
        f"{file}: accounts[1].credentials: '{login}' holds secrets, and others than its owner can read it;"
        f" chmod 600 '{login}'",
        missing,
    )
    for each in (key, login):
        each.chmod(0o600)
    assert config.load(file, environ={"HOME": str(file.parent)}).warnings == (missing,)


def test_a_file_without_secrets_may_be_read_by_all(file: Path) -> None:
    """Names of variables and digests tell nobody anything."""
    file.write_text(AN_ACCOUNT.replace('api_key = "k"', 'api_key_env = "K"'))
    file.chmod(0o644)
    assert config.load(file, environ={"K": "k"}).warnings == ()


def test_find_prefers_the_option_to_the_variable_to_the_persons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable names nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    one, two, own = tmp_path / "one.toml", tmp_path / "two.toml", tmp_path / "agm" / "agm.toml"
    one.touch()
    two.touch()
    assert config.find(None, {"AGM_CONFIG": ""}) is None
    own.parent.mkdir()
    own.touch()
    assert config.default_path() == own
    assert config.find(None, {}) == own
    assert config.find(None, {"AGM_CONFIG": str(two)}) == two
    assert config.find("one.toml", {"AGM_CONFIG": str(two)}) == one


@pytest.mark.parametrize(
    ("explicit", "environ", "line"),
    [
        (
            "/nowhere/agm.toml",
            {},
            "/nowhere/agm.toml: cannot be read: No such file or directory (--config names it)",
        ),
        (
            None,
            {"AGM_CONFIG": "/nowhere/a"},
            "/nowhere/a: cannot be read: No such file or directory (AGM_CONFIG names it)",
        ),
        ("a\0b", {}, "a\0b: cannot be read: no file can have this name (--config names it)"),
    ],
)
def test_a_file_that_was_named_must_be_there(explicit: str | None, environ: dict[str, str], line: str) -> None:
    """A slip in the name must not start a gateway with the defaults."""
    with pytest.raises(ConfigError) as caught:
        config.find(explicit, environ)
    assert str(caught.value) == line


# -- Any value at all --------------------------------------------------------------------------------

# The machine that runs this may be busy; how long an example takes says nothing about the configuration.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CANARY = "canary-AIzaSyD3adb33f"
SECRET_KEYS = ("api_key", "key", "access_token", "key_sha256", "api_key_env", "key_env", "access_token_env")


def quoted(text: str) -> str:
    """``text`` as a TOML string or key."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(value: Any) -> str:
    """``value`` in TOML, tables and arrays inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return hex(value) if value >= 0 else str(value)


def names() -> list[str]:
    """Every word that means something somewhere in a file."""
    return sorted({part.removesuffix("[]") for path, _ in known_keys() for part in path.split(".")})


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(0, 2**20_000),
    st.floats(),
    st.dates(),
    st.times(),
    st.datetimes(),
    texts,
    st.sampled_from(
        ["adc", "~", "~/x", ".", "{", "api-key", "vertex", "code-assist", "100MiB", "*", "http://[", "a:b@c"]
    ),
    st.sampled_from(["tcp:80", "https://a.example", "gemini-*", "localhost", "a"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.sampled_from(names()), inner, max_size=5),
    max_leaves=20,
)


@st.composite
def likely_files(draw: st.DrawFn) -> dict[str, Any]:
    """Files with the right tables and keys, any single values, and a secret where one belongs."""
    tables: dict[str, Any] = {}
    for path, default in known_keys():
        *above, name = path.split(".")
        if draw(st.integers(0, 2)):  # a third of them: with more, inputs get too large
            continue
        table = tables
        for part in above:
            table = table.setdefault(part, {})
        secret = name in SECRET_KEYS
        likely = (
            st.sampled_from([CANARY, f" {CANARY}\n", f"{CANARY} x", [CANARY], {"a": CANARY}]) if secret else scalars
        )
        plain = [default] if default not in (None, "") and not isinstance(default, Mapping) else []
        plain = [list(item) if isinstance(item, tuple) else item for item in plain]
        table[name] = draw(likely | st.sampled_from(plain) if plain else likely)
    return as_written(tables)


def as_written(tables: dict[str, Any]) -> dict[str, Any]:
    """``tables`` with each ``name[]`` as an array of one."""
    return {
        name.removesuffix("[]"): [as_written(item)]
        if name.endswith("[]")
        else as_written(item)
        if isinstance(item, dict) and name != "aliases"
        else item
        for name, item in tables.items()
    }


def read(tables: dict[str, Any], environ: Mapping[str, str]) -> Config | ConfigError:
    """What becomes of a file that holds ``tables``; any other exception is the test's failure."""
    text = "\n".join(f"{quoted(name)} = {toml(value)}" for name, value in tables.items())
    tomllib.loads(text)  # else the test would only try syntax errors
    try:
        return parse(text, path=Path("/nowhere/agm.toml"), environ=environ)
    except ConfigError as error:
        return error


@unhurried
@given(st.dictionaries(texts | st.sampled_from(names()), anything, max_size=5))
def test_any_table_is_read_or_refused(tables: dict[str, Any]) -> None:
    """No value that TOML can hold brings out another exception; a refusal is one line a problem."""
    outcome = read(tables, {})
    if isinstance(outcome, ConfigError):
        assert 0 < len(str(outcome).splitlines()) == len(outcome.problems)


@unhurried
@given(likely_files(), st.booleans())
def test_no_secret_shows_in_what_is_said_about_a_file(tables: dict[str, Any], exported: bool) -> None:
    """Whatever else is wrong with the file, also where a key stands in place of its variable or digest."""
    outcome = read(tables, {"canary": "x"} if exported else {})
    assert "canary-AIza" not in str(outcome)
    assert "canary-AIza" not in repr(outcome)


def accounts() -> st.SearchStrategy[dict[str, Any]]:
    """Accounts that can be used, each with a secret wherever its kind can have one."""
    api_key = st.sampled_from([{"api_key": CANARY}, {"api_key_env": "canary"}])
    token = st.sampled_from([{"access_token": CANARY}, {"access_token_env": "canary"}])
    kinds = st.one_of(
        api_key.map(lambda source: {"kind": "api-key", **source}),
        api_key.map(lambda source: {"kind": "vertex", **source}),
        token.map(lambda source: {"kind": "vertex", "project": "p", **source}),
        token.map(lambda source: {"kind": "code-assist", **source}),
    )
    limits = st.fixed_dictionaries(
        {},
        optional={
            "location": st.sampled_from(["global", "us", "us-central1"]),
            "endpoints": st.just(["https://a.example/v1", "http://localhost:1"]),
            "max_concurrency": st.integers(1, 100),
            "enabled": st.booleans(),
        },
    )
    return st.builds(lambda kind, limit: kind | limit, kinds, limits)


@unhurried
@given(st.lists(accounts(), max_size=4), st.sampled_from([{"key": CANARY}, {"key_env": "canary"}]))
def test_no_secret_shows_in_a_configuration_that_can_be_used(
    drawn: list[dict[str, Any]], source: dict[str, str]
) -> None:
    """Neither in its repr nor in its warnings; the one place that needs a secret gets it by asking."""
    tables = {
        "accounts": [{"name": f"a-{index}", **each} for index, each in enumerate(drawn)],
        "auth": {"keys": [{"name": "k", **source}]},
        "plugins": {"vault": {"token": CANARY}},
    }
    outcome = read(tables, {"canary": CANARY})
    assert isinstance(outcome, Config), outcome
    assert CANARY not in repr(outcome)
    assert CANARY not in "".join(outcome.warnings)
    for each in outcome.accounts:
        secret = each.api_key or each.access_token
        assert not each.enabled or (secret is not None and secret.reveal() == CANARY)


@unhurried
@given(texts)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Files that are not TOML at all included."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, environ={}), Config)


# -- Metrics and traces ------------------------------------------------------------------------------


def test_the_token_of_the_metrics_is_known_by_its_digest() -> None:
    """However it was given; and no token is none."""
    digest = hashlib.sha256(b"t0ken").hexdigest()
    for given_as in ('token = "t0ken"', 'token_env = "T"', f'token_sha256 = "{digest}"'):
        found = parse(f"[metrics]\naccounts = true\n{given_as}", environ={"T": "t0ken"}).metrics
        assert (found.digest, found.accounts, found.client_keys, found.enabled) == (digest, True, False, True)
        assert digest not in repr(found)
    assert parse("[metrics]", environ={}).metrics == parse("", environ={}).metrics
    assert parse("", environ={}).metrics.digest is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[metrics]\nenabled = 1", "metrics.enabled: expected true or false, not 1"),
        (
            "[metrics]\ntoken = 'a'\ntoken_env = 'B'",
            "metrics: the token needs exactly one of token, token_env, token_sha256; token and token_env are given",
        ),
        (
            "[metrics]\ntoken_sha256 = 'a'",
            "metrics.token_sha256: expected the SHA-256 of a key: 64 hexadecimal digits",
        ),
        ("[otel]\nsample = 2", "otel.sample: 2 is not a fraction: 0 or more, and at most 1"),
        (
            "[otel]\nendpoint = 'grpc://127.0.0.1:4317'",
            "otel.endpoint: 'grpc://127.0.0.1:4317' is neither http nor https; "
            "traces are sent by OTLP over HTTP, usually port 4318",
        ),
        (
            "[otel]\nendpoint = 'http://127.0.0.1:4318/v1/traces'",
            "otel.endpoint: 'http://127.0.0.1:4318/v1/traces' ends in /v1/traces, which is added; "
            "write the base URL alone",
        ),
        (
            "[otel]\nendpoint = 'http://u:s3cret@host'",
            "otel.endpoint: 'http://…@host' has a user, a query or a fragment; "
            "headers belong in OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            "[otel]\nendpoint = '127.0.0.1:4318'",
            "otel.endpoint: '127.0.0.1:4318' is not a whole URL; write it like 'http://127.0.0.1:4318'",
        ),
    ],
)
def test_metrics_and_traces_that_cannot_be_are_problems(text: str, line: str) -> None:
    """Each with its cure."""
    assert problem(text) == line


def test_the_receiver_of_traces_is_a_base_url() -> None:
    """Without the slash at its end; a path is kept."""
    for written, meant in (("HTTP://Host:4318/", "http://host:4318"), ("https://h/otlp/", "https://h/otlp")):
        assert parse(f"[otel]\nendpoint = '{written}'", environ={}).otel.endpoint == meant


# -- The documentation -------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def documented() -> Iterator[tuple[str, str, str]]:
    """Each key of the document with its type and its default, as ``accounts[].name``."""
    at = None
    for line in DOCUMENT.splitlines():
        if heading := re.fullmatch(r"##+ (.*)", line):
            table = re.fullmatch(r"`(\[+)([a-z_.]+)\]+`", heading[1])
            at = table and table[2] + ("[]." if table[1] == "[[" else ".")
        elif at and (row := re.fullmatch(r"\| `(\w+)` \| (.*?) \| (.*?) \| (.+) \|", line)):
            yield at + row[1], row[2], row[3]


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    """In the same order, so that a reader finds the one in the other."""
    assert [path for path, _, _ in documented()] == [path for path, _ in known_keys()]


def test_documented_defaults_are_the_defaults() -> None:
    """A default written out in a file gives the configuration of an empty one."""
    cluster = '[cluster]\nredis = "redis://h"\nsecret = "0123456789abcdef"\n'
    base = {
        "accounts[]": AN_ACCOUNT,
        "auth.keys[]": A_CLIENT_KEY,
        "budgets[]": A_CLIENT_KEY + A_BUDGET,
        "alerts[]": A_WEBHOOK,
        "cluster": cluster,
    }
    for path, _, default in documented():
        table, _, name = path.rpartition(".")
        if default in ("none", "required", "by kind"):
            (actual,) = (value for known, value in known_keys() if known == path)
            required = {"accounts[].kind": "api-key", "alerts[].on": (), "budgets[].limit": None}
            assert actual == (required.get(path, "") if default == "required" else None)
            continue
        start = base.get(table, f"[{table}]\n")
        written = parse(f"{start}{name} = {default.strip('`')}", environ={})
        expected = parse(start, environ={})
        written = attrs.evolve(written, auth=attrs.evolve(written.auth, mode_written=False), warnings=())
        assert written == expected, path


def test_documented_choices_are_the_choices() -> None:
    """Where the document lists what may be written, all of it may, and the message lists the same."""
    choices = {path: re.findall(r'"([^"]+)"', kind) for path, kind, _ in documented() if '"' in kind}
    assert set(choices) == {
        "gateway.stream_default",
        "gateway.sse_done",
        "auth.mode",
        "auth.resources",
        "models.display_name",
        "pool.strategy",
        "budgets[].per",
        "budgets[].then",
        "log.format",
        "log.level",
        "alerts[].form",
    }
    for path, words in choices.items():
        table, _, name = path.rpartition(".")
        bases = {"alerts[]": A_WEBHOOK, "budgets[]": A_BUDGET}
        start = f"[[{table[:-2]}]]\nname = 'a'\n" if table.endswith("[]") else f"[{table}]\n"
        start = bases.get(table, start)
        assert problem(f"{start}{name} = 'zzzz'").endswith(f"'zzzz' is not one of {', '.join(words)}")


def test_the_examples_of_the_document_are_valid_alone_and_together(tmp_path: Path) -> None:
    """What a person copies from the page works."""
    examples = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    environ = {
        name: name
        for name in ("GEMINI_API_KEY", "WORK_API_KEY", "VERTEX_API_KEY", "AGM_LAPTOP_KEY", "AGM_CLUSTER_SECRET")
    }
    environ["ALERTS_URL"] = HOOK
    environ["HOME"] = str(tmp_path)
    assert len(examples) >= 9
    for example in [*examples, "".join(examples)]:
        assert parse(example, environ=environ, path=tmp_path / "agm.toml").warnings == ()


def test_the_messages_of_the_document_are_the_messages() -> None:
    """The three lines that the page shows are what the file it stands for brings out."""
    (shown,) = re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)
    text = """
        [gateway]
        max_bdy = "1MiB"
        [[accounts]]
        name = "one"
        kind = "vertx"
        [[accounts]]
        name = "two"
        kind = "api-key"
        api_key_env = "GEMINI_API_KEY"
        max_concurrency = 0
    """
    with pytest.raises(ConfigError) as caught:
        parse(text, path=Path("agm.toml"), environ={})
    assert f"{caught.value}\n" == shown


# [[alerts]]

HOOK = "https://hooks.example.net/canary-token/1"


def test_a_webhook_has_its_url_from_the_file_the_environment_or_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(HOOK + "\n")
    (tmp_path / "url").chmod(0o600)
    text = (
        f'[[alerts]]\non = ["budget"]\nurl = "{HOOK}"\n'
        '[[alerts]]\nname = "ops"\non = ["account_off", "quota_storm", "account_off"]\n'
        'url_env = "HOOK"\nform = "slack"\n'
        '[[alerts]]\non = ["budget"]\nurl_file = "url"\n'
    )
    found = parse(text, path=tmp_path / "agm.toml", environ={"HOOK": HOOK})
    assert [(a.name, a.on, a.form) for a in found.alerts] == [
        ("alerts[0]", ("budget",), "json"),
        ("ops", ("account_off", "quota_storm"), "slack"),
        ("alerts[2]", ("budget",), "json"),
    ]
    assert {a.url.reveal() for a in found.alerts if a.url is not None} == {HOOK}
    assert found.warnings == ()
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (
            f'url = "{HOOK}"',
            "alerts[0].on: is missing; name the alerts that are told: budget, account_off, quota_storm",
        ),
        (f'url = "{HOOK}"\non = []', "alerts[0].on: names no alert; there are budget, account_off, quota_storm"),
        (
            f'url = "{HOOK}"\non = ["budgets"]',
            "alerts[0].on[0]: 'budgets' is not one of budget, account_off, quota_storm; did you mean 'budget'?",
        ),
        ('on = ["budget"]', "alerts[0]: a webhook needs exactly one of url, url_env, url_file; none is given"),
        (
            f'on = ["budget"]\nurl = "{HOOK}"\nform = "teams"',
            "alerts[0].form: 'teams' is not one of json, slack",
        ),
        (
            'on = ["budget"]\nurl = "hooks.example.net/canary-token"',
            "alerts[0].url: is no URL of a webhook; write it whole, like https://hooks.example.net/agm",
        ),
        (
            'on = ["budget"]\nurl = "https://canary-user:canary-pass@hooks.example.net/"',
            "alerts[0].url: has a user or a fragment, which no webhook takes; write it whole, like "
            "https://hooks.example.net/agm",
        ),
        (
            'on = ["budget"]\nurl = "https://hooks.example.net/a b"',
            "alerts[0].url: holds characters that no URL has; write it whole, like https://hooks.example.net/agm",
        ),
        (
            'on = ["budget"]\nurl = "https://[canary/"',
            "alerts[0].url: cannot be read as a URL; write it whole, like https://hooks.example.net/agm",
        ),
    ],
)
def test_a_webhook_that_cannot_be_told_is_refused_without_its_url(lines: str, line: str) -> None:
    assert problem(f"[[alerts]]\n{lines}\n") == line


def test_webhooks_have_names_of_their_own() -> None:
    one = f'[[alerts]]\nname = "ops"\non = ["budget"]\nurl = "{HOOK}"\n'
    assert problem(one + one) == "alerts[1].name: 'ops' is alerts[0].name already; give each webhook its own name"


def test_a_webhook_whose_url_is_missing_is_told_nothing_and_says_what_helps(tmp_path: Path) -> None:
    text = '[[alerts]]\non = ["budget"]\n'
    assert lacking(text + 'url_env = "HOOK"\n') == [
        "alerts[0].url_env: the environment variable HOOK is not set; write export HOOK=… before the start; until then "
        "nothing is told there"
    ]
    assert lacking(text + 'url_env = "HOOK"\n', {"HOOK": "canary-no-url"}) == [
        "alerts[0].url_env: what it names is no URL of a webhook; write it whole, like https://hooks.example.net/agm; "
        "until then nothing is told there"
    ]
    (line,) = lacking(text + 'url_file = "url"\n', path=tmp_path / "agm.toml")
    assert line.endswith(
        "cannot be read: No such file or directory; put the URL there; until then nothing is told there"
    )


def test_a_webhook_that_is_told_in_the_clear_is_warned_of() -> None:
    def warnings(url: str) -> tuple[str, ...]:
        return parse(f'[[alerts]]\non = ["budget"]\nurl = "{url}"\n', environ={}).warnings

    assert warnings("http://127.0.0.1:9000/x") == ()
    assert warnings("http://alerts.internal/x") == (
        "configuration: alerts[0].url: is told in the clear, whoever is on the way reads it; write https",
    )


# -- Prices and budgets ------------------------------------------------------------------------------


def test_a_price_is_by_model_and_what_is_left_out_costs_what_text_does() -> None:
    """Names have dots, and so need quotes: without them the cure is named."""
    it = parse('[prices."gemini-2.5-flash"]\ninput = 1\noutput = 2.5\n[prices."tuned/*"]\nimage = 0.5\n', environ={})
    price = it.prices["gemini-2.5-flash"]
    assert (price.input, price.cached, price.audio_input, price.image_output) == (1.0, 1.0, 1.0, 2.5)
    assert it.prices["tuned/*"].image == 0.5
    assert problems("[prices.gemini-2.5-flash]\ninput = 1") == [
        'configuration: prices.gemini-2: is no model; quote a name with a dot: [prices."gemini-2.5-flash"]'
    ]
    assert problems('[prices."m"]\ninput = -1\noutptu = 2') == [
        "configuration: prices.m.input: -1 is not a price: US dollars, 0 or more",
        "configuration: prices.m.outptu: unknown key; did you mean 'output'?",
    ]
    assert problems('[prices."m"]') == [
        "configuration: prices.m: has no price; write input and output, in US dollars per million tokens"
    ]


def test_a_budget_is_of_a_key_a_team_or_an_account() -> None:
    """One for each of them and period; what is not in the file is warned of, for a plugin may add it."""
    it = parse(A_CLIENT_KEY + A_BUDGET + A_BUDGET.replace("limit", 'per = "day"\nthen = "warn"\nlimit'), environ={})
    assert [(b.what, b.name, b.per, b.limit, b.warn_at, b.then) for b in it.budgets] == [
        ("key", "a", "month", 1.0, 0.8, "refuse"),
        ("key", "a", "day", 1.0, 0.8, "warn"),
    ]
    assert it.warnings == parse(A_CLIENT_KEY, environ={}).warnings
    assert problems(A_BUDGET + A_BUDGET) == [
        "configuration: budgets[1]: is for the same as budgets[0], per month; write one of them"
    ]
    assert problems('[[budgets]]\nof = "ada"\nlimit = 0') == [
        "configuration: budgets[0].of: 'ada' is not what a budget is for: "
        'write "key:NAME", "team:NAME" or "account:NAME"',
        "configuration: budgets[0].limit: expected a number of US dollars, more than 0, not 0",
    ]
    warned = parse(A_BUDGET.replace("key:a", "team:serach"), environ={}).warnings
    assert warned == (
        "configuration: budgets[0].of: 'team:serach': there is no client key with this team 'serach' in this file; it "
        "holds if a plugin adds one",
    )


def test_a_model_that_no_budget_counts_is_warned_of() -> None:
    """As long as there is a budget; a price of one's own settles it."""
    mystery = '[models]\nlist = ["gemini-2.5-pro", "mystery-1.0"]\n'
    assert parse(mystery, environ={}).warnings == ()
    (warning,) = parse(
        A_CLIENT_KEY.replace('key = "k"', f'key_sha256 = "{"0" * 64}"') + A_BUDGET + mystery, environ={}
    ).warnings
    assert warning == (
        "configuration: budgets: the price of 'mystery-1.0' is not known, so requests for it are in no budget; "
        'write [prices."mystery-1.0"], or leave it out of the keys\' models'
    )
    priced = A_BUDGET + mystery + '[prices."mystery-*"]\ninput = 1\noutput = 1\n'
    assert not any("price" in it for it in parse(A_CLIENT_KEY + priced, environ={}).warnings)


_SECRETS = {
    "api-key": ("api_key", "api_key_env", "api_key_file"),
    "vertex": ("api_key", "api_key_env", "api_key_file", "access_token", "access_token_env", "credentials"),
    "code-assist": ("access_token", "access_token_env", "credentials"),
}
#: What can be wrong with each: the value that is written, by the way in which it is given.
_FAULTS = {
    "": ("", " ", "a b", "'quoted'", "KEY=v", "$KEY"),
    "env": ("NOT_SET", "EMPTY", "QUOTED", "NOT_A_KEY"),
    "file": ("missing", "folder", "empty", "binary", "two words", "closed"),
}


@pytest.mark.parametrize("kind", _SECRETS)
def test_no_fault_of_a_secret_keeps_the_other_accounts_from_serving(tmp_path: Path, kind: str) -> None:
    """Each source, missing, unreadable and invalid: the account is off and says why, without the value."""
    for name, content in (("empty", b""), ("binary", b"\xff\x00"), ("two words", b"canary-a b"), ("closed", b"{}")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "closed").chmod(0)
    (tmp_path / "folder").mkdir()
    environ = {"EMPTY": "", "QUOTED": "'canary-q'", "NOT_A_KEY": "canary x"}
    faults = [
        (source, fault)
        for source in _SECRETS[kind]
        for fault in _FAULTS["file" if source in ("api_key_file", "credentials") else source.rpartition("_")[2]
                         if source.endswith("env") else ""]
    ]  # fmt: skip
    tables = []
    for number, (source, fault) in enumerate(faults):
        project = 'project = "p"\n' if kind != "api-key" and "api_key" not in source else ""
        tables.append(f'[[accounts]]\nname = "bad-{number}"\nkind = "{kind}"\n{project}{source} = "{fault}"\n')
    tables.append('[[accounts]]\nname = "untrusting"\nkind = "api-key"\napi_key = "k2"\nca_file = "missing"\n')
    tables.append('[[accounts]]\nname = "good"\nkind = "api-key"\napi_key = "k"\n')
    it = parse("".join(tables), path=tmp_path / "agm.toml", environ=environ)
    assert [each.name for each in it.accounts if each.unusable is None] == ["good"]
    assert len(it.lacking) == len(faults) + 1
    said = " ".join([*it.warnings, *(each.unusable or "" for each in it.accounts)])
    assert "canary" not in said
    assert str(tmp_path) not in " ".join(each.unusable or "" for each in it.accounts)
