"""The checks of this machine, each as a function of what it is given."""

from __future__ import annotations

import datetime
import importlib.metadata
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agm.config import parse
from agm.core.client_keys import digest
from agm.diagnose.doctor import Finding, limited
from agm.diagnose.doctor.here import certificates, environment, live, modes, packages, port, public, setup
from tests.upstream.certificates import TestAuthority

ADDRESS = "http://127.0.0.1:8045"


def levels(findings: Iterator[Finding] | list[Finding]) -> list[tuple[str, str]]:
    """Each finding's level, and its words with its cure."""
    return [(finding.level, f"{finding.found} | {finding.cure}") for finding in findings]


# Limits


def test_a_check_that_hangs_is_left_behind() -> None:
    """And said to be too slow."""
    never = threading.Event()

    def look() -> Iterator[Finding]:
        never.wait(30)
        yield Finding("x", "ok", "late")

    try:
        (finding,) = limited("x", look, 0.05)
    finally:
        never.set()
    assert (finding.level, finding.found) == ("error", "not done within 0.05 seconds")


def test_a_check_that_fails_keeps_what_it_found_and_tells_no_message() -> None:
    """A message may hold anything."""

    def look() -> Iterator[Finding]:
        yield Finding("x", "ok", "first")
        raise RuntimeError("secret-canary")

    first, failed = limited("x", look, 10)
    assert first.found == "first"
    assert failed.level == "error"
    assert "RuntimeError" in failed.found
    assert "canary" not in str(failed)


# Packages


def test_what_is_installed_for_these_tests_is_as_agm_needs_it() -> None:
    """The real versions against the real pins."""
    (finding,) = packages()
    assert finding.level == "ok"
    assert "packages as agm needs them" in finding.found


def test_a_package_that_is_missing_or_too_old_has_its_command() -> None:
    """Extras are no part of what is needed."""
    versions = {"treq": "20.1", "attrs": "99"}

    def installed(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    required = ["attrs>=23.2", "treq>=24.9", "rich>=13.7", 'pytest>=8; extra == "test"']
    assert levels(packages(lambda _: required, installed)) == [
        ("error", "treq 20.1 is not >=24.9 | pip install 'treq>=24.9'"),
        ("error", "rich is not installed | pip install 'rich>=13.7'"),
    ]


def test_agm_that_is_not_installed_is_said_so() -> None:
    """Its pins are not known then."""

    def required(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    assert next(iter(packages(required))).level == "warning"


# The configuration


def test_each_problem_of_the_configuration_is_a_finding(tmp_path: Path) -> None:
    """And nothing of it is used then."""
    file = tmp_path / "agm.toml"
    file.write_text("[gateway]\nmax_bdy = 1\n[pool]\nmax_attempts = 0\n")
    found, findings = setup(str(file), {})
    assert found.config is None
    assert [finding.level for finding in findings] == ["error", "error"]
    assert "did you mean 'max_body'?" in findings[0].found


def test_a_variable_that_is_not_set_here_is_an_error_and_the_rest_is_used(tmp_path: Path) -> None:
    """Which account lacks its secret is known."""
    file = tmp_path / "agm.toml"
    file.write_text(
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "NOT_SET"\n'
        '[[accounts]]\nname = "b"\nkind = "api-key"\napi_key_env = "SET"\n'
    )
    found, (finding,) = setup(str(file), {"SET": "canary-1"})
    assert (finding.level, "NOT_SET is not set" in finding.found) == ("error", True)
    assert finding.cure == "set it here as well, if the gateway is started from another environment"
    assert found.config is not None
    assert [account.unusable is None for account in found.config.accounts] == [False, True]
    assert "canary" not in str(finding)


def test_a_key_file_and_a_listener_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    """As they keep the account, or the whole gateway, from working."""
    file = tmp_path / "agm.toml"
    file.write_text(
        '[gateway]\nlisten = ["ssl:0:privateKey=none.pem"]\n'
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_file = "none.key"\n'
    )
    listener, account = levels(setup(str(file), {})[1])
    assert listener == (
        "error",
        f"{file}: gateway.listen[0]: 'ssl:0:privateKey={tmp_path}/none.pem': privateKey '{tmp_path}/none.pem'"
        " cannot be read: No such file or directory | correct it; `agm config check` looks at it again",
    )
    assert account == (
        "error",
        f"{file}: accounts[0].api_key_file: '{tmp_path}/none.key' cannot be read: No such file or directory;"
        " put the key there; until then 'a' is off | once it is corrected, a running gateway picks it up by itself",
    )


def test_a_good_configuration_is_counted_and_an_empty_one_has_no_account(tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text('[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "K"\n')
    assert levels(setup(str(file), {"K": "k"})[1]) == [("ok", f"{file}: 1 account, 0 client keys | None")]
    file.write_text("")
    assert levels(setup(str(file), {})[1])[0][0] == "warning"


# Files


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Also in the folder where agm keeps them; the cure is a command."""
    file, key, login = tmp_path / "agm.toml", tmp_path / "keys" / "a.key", tmp_path / "lo gin.json"
    key.parent.mkdir(mode=0o700)
    file.write_text(
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_file = "keys/a.key"\n'
        '[[accounts]]\nname = "b"\nkind = "vertex"\nproject = "p"\ncredentials = "lo gin.json"\n'
        '[[accounts]]\nname = "c"\nkind = "vertex"\nproject = "p"\ncredentials = "adc"\n'
        '[[accounts]]\nname = "d"\nkind = "vertex"\nproject = "p"\ncredentials = "gone.json"\nenabled = false\n'
    )
    for each in (key, login):
        each.write_text("secret")
        each.chmod(0o600)
    file.chmod(0o644)
    assert levels(modes(file, None)) == [("ok", "the configuration and its secrets are their owner's alone | None")]
    file.chmod(0o664)
    login.chmod(0o640)
    state = tmp_path / "state.json"
    state.write_text("{}")
    state.chmod(0o604)
    key.unlink()
    assert levels(modes(file, state)) == [
        ("error", f"{file}: others than its owner can change it | chmod go-w {file}"),
        ("error", f"{key}: No such file or directory | create the file, or name another"),
        ("error", f"{login}: others than its owner can read or change it | chmod go= '{login}'"),
        ("error", f"{state}: others than its owner can read or change it | chmod go= {state}"),
    ]
    assert list(modes(None, None)) == []


# The environment


def about(variables: dict[str, str], text: str = "", address: str | None = ADDRESS) -> list[tuple[str, str]]:
    return levels(environment(variables, address, parse(text, environ={})))


HERE = {"GOOGLE_GEMINI_BASE_URL": ADDRESS, "GEMINI_API_KEY": "canary"}
STRICT = f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "a"\nkey_sha256 = "{digest("canary")}"\n'


@pytest.mark.parametrize(
    ("variables", "text", "level", "words"),
    [
        ({}, "", "ok", "past the gateway | export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8045"),
        (HERE, "", "ok", "leads here"),
        ({**HERE, "GOOGLE_GEMINI_BASE_URL": ADDRESS + "/"}, "", "ok", "leads here"),
        (HERE, STRICT, "ok", "leads here"),
        ({"GOOGLE_GEMINI_BASE_URL": "http://me:canary@h:1/x"}, "", "warning", "leads to http://h:1, and not to the"),
        ({"GOOGLE_GEMINI_BASE_URL": "http://[canary"}, "", "warning", "leads to no address"),
        ({**HERE, "GOOGLE_GEMINI_BASE_URL": "http://localhost:8045"}, "", "warning", "localhost, which may mean ::1"),
        ({**HERE, "GOOGLE_GEMINI_BASE_URL": ADDRESS + "/v1beta"}, "", "warning", "SDKs add the version themselves"),
        ({**HERE, "GOOGLE_GEMINI_BASE_URL": "https://127.0.0.1:8045"}, "", "warning", "says https"),
    ],
)
def test_the_address_in_the_environment_leads_here_or_the_cure_does(
    variables: dict[str, str], text: str, level: str, words: str
) -> None:
    """Nothing of a user name, a password or a key is repeated."""
    ((found, said),) = about(variables, text)
    assert (found, words in said) == (level, True)
    assert "canary" not in said


@pytest.mark.parametrize(
    ("variables", "text", "words"),
    [
        ({"GOOGLE_GEMINI_BASE_URL": ADDRESS}, "", "without which SDKs do not start | export GEMINI_API_KEY=any"),
        ({"GOOGLE_GEMINI_BASE_URL": ADDRESS}, STRICT, 'export GEMINI_API_KEY="$(agm key create laptop)"'),
        ({**HERE, "GEMINI_API_KEY": "canary-2"}, STRICT, "GEMINI_API_KEY is no client key of the gateway"),
        ({**HERE, "GOOGLE_API_KEY": "canary-2"}, STRICT, "GOOGLE_API_KEY is no client key of the gateway"),
        ({**HERE, "GOOGLE_GENAI_USE_VERTEXAI": "True"}, "", "google-genai goes to Vertex AI, past the gateway"),
        ({**HERE, "http_proxy": "http://u:canary@p:1"}, "", "http_proxy is set and NO_PROXY does not except 127.0.0.1"),
        ({**HERE, "ALL_PROXY": "http://p:1", "NO_PROXY": "x"}, "", "ALL_PROXY is set and NO_PROXY does not"),
    ],
)
def test_what_keeps_tools_from_the_gateway_is_a_warning(variables: dict[str, str], text: str, words: str) -> None:
    """Beside the address, which is right."""
    findings = about(variables, text)
    assert ("ok", "GOOGLE_GEMINI_BASE_URL leads here | None") in findings
    assert [words in said for level, said in findings if level == "warning"] == [True]
    assert "canary" not in str(findings)


def test_two_keys_are_told_and_a_proxy_with_its_exception_is_not() -> None:
    """The SDK takes one of them."""
    findings = about({**HERE, "GOOGLE_API_KEY": "x", "HTTP_PROXY": "http://p:1", "no_proxy": "127.0.0.1"})
    assert [level for level, _ in findings] == ["ok", "ok"]
    assert "google-genai takes the first" in findings[1][1]


def test_a_gateway_on_a_unix_socket_cannot_be_named_by_a_variable() -> None:
    """SDKs take no socket."""
    assert "no TCP port" in about({}, address="unix:/run/agm.sock")[0][1]
    assert "no TCP port" in about({}, address=None)[0][1]


# The port


def test_a_free_port_is_free_and_stays_so() -> None:
    """It can be bound afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    listen = (f"tcp:{number}:interface=127.0.0.1",)
    assert levels(port(listen, None, None))[0][0] == "ok"
    with socket.create_server(("127.0.0.1", number)):
        pass


def test_a_port_that_cannot_be_had_has_its_cure() -> None:
    """Bound, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        (finding,) = port((f"tcp:{bound.getsockname()[1]}:interface=127.0.0.1",), None, None)
    assert finding.level == "error"
    assert "take another port" in str(finding.cure)


def test_something_else_that_listens_is_no_agm() -> None:
    """It answers in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            client, _ = other.accept()  # the first one asks nothing
            client.close()
            client, _ = other.accept()
            with client:
                client.recv(65536)
                client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        (finding,) = port((), f"http://127.0.0.1:{other.getsockname()[1]}", None)
        thread.join(10)
    assert finding.level == "error"
    assert "the server there is not agm" in finding.found


def test_addresses_that_cannot_be_looked_at_are_told() -> None:
    """An address with a secret in it is not repeated."""
    assert levels(port(("tcp:1:interface=192.0.2.1",), None, None))[0][0] == "ok"
    ((level, said),) = levels(port((), "http://u:canary@h", None))
    assert (level, "canary" in said) == ("error", False)
    assert "no gateway runs at unix:/nowhere/s" in levels(port(("unix:/nowhere/s",), None, None))[0][1]


# The public address


def told(number: int, trusted: str = "") -> list[tuple[str, str]]:
    """What is found of a public address at this port."""
    config = parse(f'[gateway]\npublic_url = "http://127.0.0.1:{number}/gemini"\n{trusted}', environ={})
    return levels(public(config))


@contextmanager
def answering(*statuses: int, agm: bool = True) -> Iterator[tuple[int, list[str]]]:
    """A server that answers one request after the other with these statuses; its port, and the targets asked for."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for status in statuses:
                client, _ = server.accept()
                with client:
                    asked.append(client.recv(65536).split(b" ")[1].decode())
                    own = "X-Agm-Request-Id: 0123456789abcdef\r\n" if agm else ""
                    client.sendall(f"HTTP/1.1 {status} X\r\n{own}Content-Length: 2\r\n\r\n{{}}".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join(10)


def test_without_a_public_address_there_is_nothing_to_find() -> None:
    assert list(public(parse("", environ={}))) == []
    assert list(public(None)) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxy_that_is_known_as_one_is_well(status: int) -> None:
    with answering(200, status) as (number, asked):
        ((level, found),) = told(number)
    assert (level, "knows that there is a proxy" in found) == ("ok", True)
    assert asked == ["/gemini/healthz", "/gemini/_agm/status"]


def test_a_proxy_that_makes_everybody_local_is_an_error() -> None:
    """Unless it is believed: then it may be right."""
    with answering(200, 200) as (number, _):
        ((level, found),) = told(number)
    assert level == "error"
    assert "count as local" in found
    assert "X-Forwarded-For" in found
    with answering(200, 200) as (number, _):
        ((level, found),) = told(number, 'trusted_proxies = ["loopback"]')
    assert (level, "knows" in found) == ("ok", False)


def test_a_public_address_that_leads_elsewhere_is_a_warning() -> None:
    with answering(200, 404, agm=False) as (number, _):
        ((level, found),) = told(number)
    assert (level, "is not agm" in found) == ("warning", True)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        ((level, found),) = told(bound.getsockname()[1])
    assert (level, "cannot be asked from here" in found) == ("warning", True)


@pytest.mark.parametrize(
    ("listen", "variables", "words"),
    [
        ("tcp:8045", {}, "no listener has TLS"),
        ("ssl:8443:privateKey=k.pem", {}, "programs trust its certificate if the system does"),
        ("ssl:8443:privateKey=k.pem", {"SSL_CERT_FILE": "bundle.pem"}, "SSL_CERT_FILE says what programs"),
    ],
)
def test_whether_pythons_live_can_reach_the_gateway_is_told(listen: str, variables: dict[str, str], words: str) -> None:
    """It is no error: most people never want it."""
    config = parse(f'[gateway]\nlisten = ["{listen}"]', environ={})
    (finding,) = live(config, variables)
    assert finding.level == "ok"
    assert words in finding.found
    assert "agm cert" in (finding.cure or "agm cert")


# Certificates


def test_certificates_of_listeners_are_looked_at(tmp_path: Path) -> None:
    """One that is right, one whose key is another's, and none where there is no TLS."""
    authority = TestAuthority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    for name in ("localhost", "other"):
        pem, key = authority.server_pem(name, until=60)
        (tmp_path / f"{name}.pem").write_bytes(pem)
        (tmp_path / f"{name}.key").write_bytes(key)
    listen = [
        f"ssl:{port}:privateKey={tmp_path}/{key}.key:certKey={tmp_path}/localhost.pem"
        for port, key in ((443, "localhost"), (444, "localhost"), (445, "other"))
    ]
    config = parse(f"[gateway]\nlisten = {listen}\n", path=tmp_path / "agm.toml", environ={})
    found = list(certificates(config, {}, datetime.datetime.now(datetime.UTC)))
    assert [finding.level for finding in found] == ["ok", "error"]
    assert "for localhost, 59 days left" in found[0].found
    assert "does not match the key in" in found[1].found
    assert list(certificates(parse("", environ={}), {}, datetime.datetime.now(datetime.UTC))) == []
