"""``agm explain``, ``agm plugins`` and ``agm models``, asked of a gateway that runs and of one that does not."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from agm.cli import main
from agm.cli.explain import readable
from agm.cli.files import Refused
from agm.cli.running import Running, address_of
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from testbed.processes import run

reactor: Any = _reactor

ACCOUNT = '[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "CANARY-key"\n'


@pytest.fixture(autouse=True)
def no_configuration_of_a_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("AGM_CONFIG", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a configuration and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "agm.toml"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    return write


Ran = tuple[int | None, str, str]


@pytest.fixture
def agm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A function that runs a command: its status, standard output and standard error."""

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        status = main(argv)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def agm_aside(agm: Callable[..., Ran]) -> Callable[..., Awaitable[Ran]]:
    """The same beside the reactor, which serves what the command asks."""
    return lambda *argv: deferToThread(agm, *argv)


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# Where a gateway is


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (["tcp:8045:interface=127.0.0.1"], "http://127.0.0.1:8045"),
        (["tcp:port=8045:interface=localhost"], "http://localhost:8045"),
        (["tcp:8045:127.0.0.1"], "http://127.0.0.1:8045"),
        (["tcp:8045"], "http://127.0.0.1:8045"),
        (["tcp:8045:interface=0.0.0.0"], "http://127.0.0.1:8045"),
        (["tcp:8045:interface=127.0.0.2"], "http://127.0.0.2:8045"),
        (["tcp6:8045"], "http://[::1]:8045"),
        (["tcp6:8045:interface=\\:\\:1"], "http://[::1]:8045"),
        (["tcp:8045:interface=\\:\\:"], "http://[::1]:8045"),
        (["unix:/run/agm.sock"], "unix:/run/agm.sock"),
        (["unix:address=/run/a\\:b.sock:mode=600"], "unix:/run/a:b.sock"),
        (["unix:/run/agm.sock", "tcp:8045"], "http://127.0.0.1:8045"),
        (["tcp:8045:interface=192.0.2.7", "tcp:8046"], "http://127.0.0.1:8046"),
        (["tcp:8045:interface=192.0.2.7"], None),
        (["tcp:8045:interface=gateway.example"], None),
        (["tcp:0"], None),
        (["tcp:x"], None),
        (["ssl:8443:privateKey=a.pem"], "https://127.0.0.1:8443"),
        (["ssl:8443:a.pem:b.pem:SSLv23_METHOD:192.0.2.7"], None),
        (["unix:/run/agm.sock", "ssl:443:interface=\\:\\:"], "https://[::1]:443"),
        (["ssl:443", "tcp:8045"], "http://127.0.0.1:8045"),
        (["ssl:8443:privateKey=a.pem:interface=192.0.2.7", "systemd:domain=INET:index=0"], None),
    ],
)
def test_the_address_is_that_of_the_first_listener_on_loopback(listen: list[str], address: str | None) -> None:
    assert address_of(listen) == address


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8045",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://me:CANARY@h:1",
        "http://h/?key=CANARY",
        "http://h/#a",
    ],
)
def test_an_address_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(Refused) as refused:
        Running.at(url, None)
    assert "http://HOST:PORT" in str(refused.value)
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("command", [("explain", "m"), ("plugins",), ("models",)])
def test_a_place_that_was_named_must_be_reachable(agm: Callable[..., Ran], command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{a_free_port()}"
    assert agm(*command, "--url", url) == (1, "", "--url: cannot connect: Connection refused\n")


class Stranger:
    """A server that is no gateway: it answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536):
                    connection.sendall(answer)

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def stranger() -> Iterator[Callable[[bytes], str]]:
    started: list[Stranger] = []

    def start(answer: bytes) -> str:
        started.append(Stranger(answer))
        return started[-1].url

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "is not agm"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", "is not agm"),
        (b"HTTP/1.1 200 OK\r\nx-agm-request-id: 1\r\nContent-Length: 2\r\n\r\n[]", "is not agm"),
        (b"SSH-2.0-whatever\r\n", "no answer"),
        (b"", "no answer"),
    ],
)
def test_whatever_else_answers_there_is_no_gateway(
    agm: Callable[..., Ran], stranger: Callable[[bytes], str], answer: bytes, said: str
) -> None:
    status, out, err = agm("explain", "m", "--url", stranger(answer))
    assert (status, out) == (1, "")
    assert said in err


# A gateway that runs


def listening(running: RunningGateway) -> str:
    return f'[gateway]\nlisten = ["tcp:{running.port}:interface=127.0.0.1"]\n'


@pytest_twisted.ensureDeferred
async def test_a_running_gateway_explains(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]], config: Callable[[str], str]
) -> None:
    running = await gateway(ACCOUNT + '[models.aliases]\n"gpt-*" = "gemini-2.5-flash"\n')
    file = config(listening(running))
    status, out, err = await agm_aside("explain", "gpt-4o", "--config", file, "--json", "--text", "Good morning")
    assert (status, err) == (0, "")
    asked = {"contents": [{"role": "user", "parts": [{"text": "Good morning"}]}]}
    assert json.loads(out) == await running.explain("gpt-4o", body=asked)
    status, out, err = await agm_aside("explain", "gpt-4o", "--config", file)
    assert (status, err) == (0, "")
    assert "gpt-4o → gemini-2.5-flash: alias 'gpt-*' [agm.defaults.aliases]" in out
    assert "CANARY" not in out


@pytest_twisted.ensureDeferred
async def test_every_part_of_a_question_reaches_the_gateway(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]], tmp_path: Path
) -> None:
    running = await gateway('[[auth.keys]]\nname = "laptop"\nkey = "CANARY"\n' + ACCOUNT)
    body = tmp_path / "body.json"
    body.write_text('{ "contents": [ {"parts": [{"text": "é"}]} ] }')
    status, out, _ = await agm_aside(
        *("explain", "m", "--url", running.url, "--json", "--stream", "--alt", "json", "--body", str(body)),
        *("--key", "laptop", "--header", "X-Server-Timeout: 30"),
    )
    found = json.loads(out)
    assert status == 0
    assert found["request"] == {
        "version": "v1beta",
        "method": "streamGenerateContent",
        "model": "m",
        "framing": "array",
    }
    assert found["client_key"] == "laptop"
    assert found["upstream"]["headers"]["X-Server-Timeout"] == "30"
    assert found["upstream"]["body"] == {"contents": [{"parts": [{"text": "é"}]}]}


@pytest.mark.parametrize("method", ["countTokens", "embedContent", "batchEmbedContents", "predict"])
@pytest_twisted.ensureDeferred
async def test_a_body_that_nobody_gave_is_one_that_the_method_takes(
    gateway: GatewayFactory, emulator: RunningEmulator, agm_aside: Callable[..., Awaitable[Ran]], method: str
) -> None:
    model = {"predict": "imagen-4.0-generate-001", "countTokens": "gemini-2.5-flash"}.get(
        method, "gemini-embedding-001"
    )
    running = await gateway(emulator.account())
    _, out, _ = await agm_aside("explain", model, "--method", method, "--url", running.url, "--json")
    body = json.loads(out)["upstream"]["body"]
    assert (await running.ask(model, method=method, body=body)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_request_that_would_be_refused_is_status_1_with_the_client_s_error(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]]
) -> None:
    running = await gateway(ACCOUNT + 'models = ["other"]\n')
    status, out, _ = await agm_aside("explain", "m", "--url", running.url)
    assert status == 1
    assert "refused      404 NOT_FOUND, MODEL_NOT_SERVED" in out
    assert "excluded     work  it lacks the model: its models do not include m" in out
    status, out, _ = await agm_aside("explain", "m", "--url", running.url, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, 404)


@pytest_twisted.ensureDeferred
async def test_a_gateway_behind_a_unix_socket_is_asked_too(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]], config: Callable[[str], str], tmp_path: Path
) -> None:
    running = await gateway(ACCOUNT)
    path = tmp_path / "agm.sock"
    port = reactor.listenUNIX(str(path), running.site)
    try:
        file = config(f'[gateway]\nlisten = ["unix:{path}"]\n')
        for arguments in (("--config", file), ("--url", f"unix:{path}")):
            status, out, err = await agm_aside("explain", "m", *arguments)
            assert (status, err) == (0, "")
            assert "account      work" in out
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_where_a_key_is_asked_for_a_variable_holds_it(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = '[[auth.keys]]\nname = "me"\nkey = "CANARY-client"\n'
    running = await gateway(key + ACCOUNT, auth_mode="strict")
    monkeypatch.setenv("MY_KEY", "CANARY-client")
    monkeypatch.setenv("BAD_KEY", "CANARY-other")
    monkeypatch.setenv("ODD_KEY", "CANARY\u20ac")
    for command in (("explain", "m"), ("plugins",), ("models",)):
        asking = (*command, "--url", running.url)
        status, out, err = await agm_aside(*asking)
        assert (status, out) == (1, "")
        assert "asks for a client key" in err
        assert "--client-key-env VAR" in err
        status, out, err = await agm_aside(*asking, "--client-key-env", "MY_KEY")
        assert (status, err) == (0, "")
        assert "CANARY" not in out
        for variable, said in (("BAD_KEY", "not known"), ("NO_KEY", "no such variable"), ("ODD_KEY", "cannot be")):
            status, out, err = await agm_aside(*asking, "--client-key-env", variable)
            assert (status, out) == (1, "")
            assert said in err
            assert "CANARY" not in err


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_pasted_where_its_name_belongs_is_not_repeated(
    gateway: GatewayFactory,
    agm_aside: Callable[..., Awaitable[Ran]],
    agm: Callable[..., Ran],
    config: Callable[..., str],
) -> None:
    running = await gateway(ACCOUNT)
    for where in (("--url", running.url), ("--offline", "--config", config(ACCOUNT))):
        status, out, err = await agm_aside("explain", "m", *where, "--key", "CANARY")
        assert (status, out) == (1, "")
        assert "no client key of this name" in err
        assert "CANARY" not in err


@pytest_twisted.ensureDeferred
async def test_variables_that_only_the_gateway_has_are_no_hindrance_to_asking_it(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]], config: Callable[[str], str]
) -> None:
    running = await gateway(ACCOUNT)
    elsewhere = '[[accounts]]\nname = "x"\nkind = "api-key"\napi_key_env = "SET_WHERE_THE_GATEWAY_RUNS"\n'
    status, _, err = await agm_aside("explain", "m", "--config", config(listening(running) + elsewhere))
    assert (status, err) == (0, "")


@pytest_twisted.ensureDeferred
async def test_models_are_listed_to_the_last_page_as_the_gateway_has_them(
    gateway: GatewayFactory, agm_aside: Callable[..., Awaitable[Ran]]
) -> None:
    ids = [f"gemini-{n}" for n in range(1203)]
    running = await gateway(f'[models]\nlist = {json.dumps(ids)}\n[models.aliases]\nfast = "gemini-2.5-flash"\n')
    _, out, _ = await agm_aside("models", "--url", running.url, "--json")
    assert [model["name"] for model in json.loads(out)] == [f"models/{name}" for name in (*ids, "fast")]
    _, out, _ = await agm_aside("models", "--url", running.url)
    assert out.splitlines()[-1].split()[:3] == ["fast", "gemini-2.5-flash", "1048576"]


# A gateway that does not run


def test_without_a_running_gateway_one_is_built_that_knows_nothing_yet(
    agm: Callable[..., Ran], config: Callable[[str], str]
) -> None:
    port = a_free_port()
    file = config(f'[gateway]\nlisten = ["tcp:{port}:interface=127.0.0.1"]\n' + ACCOUNT)
    status, out, err = agm("explain", "m", "--config", file)
    assert status == 0
    assert err == (
        f"no gateway runs at http://127.0.0.1:{port}: "
        "explained as after a fresh start: no cooldowns, no conversations\n"
    )
    assert "upstream     POST https://generativelanguage.googleapis.com/v1beta/models/m:generateContent\n" in out
    assert "x-goog-api-key:   [redacted]" in out
    assert "CANARY" not in out + err


def test_offline_says_so_and_asks_nobody(agm: Callable[..., Ran], config: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        file = config(f'[gateway]\nlisten = ["tcp:{listener.getsockname()[1]}:interface=127.0.0.1"]\n' + ACCOUNT)
        for command in (("explain", "m"), ("plugins",), ("models",)):
            status, out, err = agm(*command, "--offline", "--config", file)
            assert status == 0
            assert out
            assert err.startswith("offline: ")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_without_a_listener_on_loopback_the_configuration_explains(
    agm: Callable[..., Ran], config: Callable[[str], str]
) -> None:
    file = config('[gateway]\nlisten = ["tcp:8045:interface=192.0.2.7"]\n' + ACCOUNT)
    status, out, err = agm("explain", "m", "--config", file)
    assert status == 0
    assert err.startswith("no listener of the configuration is on loopback; add one for the tools, or write --url: ")
    assert "client key   none given, but the gateway requires one" in out


def test_without_a_configuration_there_is_no_account(agm: Callable[..., Ran]) -> None:
    status, out, _ = agm("explain", "m", "--offline")
    assert status == 1
    assert "refused      503 UNAVAILABLE, NO_ACCOUNTS" in out
    assert "agm account add" in out


@pytest.mark.parametrize("command", [("explain", "m"), ("plugins",), ("models",)])
def test_a_configuration_that_cannot_be_used_is_refused(
    agm: Callable[..., Ran], config: Callable[[str], str], command: tuple[str, ...]
) -> None:
    file = config("[pool]\nmax_attempts = 0\n")
    for offline in ((), ("--offline",)):
        status, out, err = agm(*command, *offline, "--config", file)
        assert (status, out) == (1, "")
        assert "pool.max_attempts" in err


@pytest.mark.parametrize("command", [("explain", "m"), ("plugins",)])
def test_a_plugin_that_cannot_be_used_is_one_line(agm: Callable[..., Ran], command: tuple[str, ...]) -> None:
    status, out, err = agm(*command, "--plugin", "no_such_plugin")
    assert (status, out) == (1, "")
    assert "plugin no_such_plugin cannot be imported" in err.splitlines()[-1]


def test_the_shape_of_vertex_ai_is_explained_where_its_version_is_named(
    agm: Callable[..., Ran], config: Callable[[str], str]
) -> None:
    both = ACCOUNT + '[[accounts]]\nname = "v"\nkind = "vertex"\naccess_token = "CANARY-t"\nproject = "p"\n'
    code, out, _ = agm("explain", "m", "--api-version", "v1beta1", "--offline", "--json", "--config", config(both))
    found = json.loads(out)
    assert code == 0
    assert found["account"]["name"] == "v"
    assert "/v1beta1/projects/p/locations/global/publishers/google/models/m:generateContent" in found["upstream"]["url"]


def test_a_body_can_come_through_a_pipe(
    agm: Callable[..., Ran], config: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"contents": []}')))
    _, out, _ = agm("explain", "m", "--offline", "--config", config(ACCOUNT), "--body", "-", "--json")
    assert json.loads(out)["upstream"]["body"] == {"contents": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--body", "/nowhere/body.json"), "--body: /nowhere/body.json cannot be read: No such file"),
        (("--body", "{file}"), "is not JSON"),
        (("--header", "CANARY"), "--header: write NAME:VALUE"),
        (("--header", "a b: CANARY"), "One of the headers"),
    ],
)
def test_a_question_that_is_none_is_refused(
    agm: Callable[..., Ran], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("{CANARY")
    status, out, err = agm("explain", "m", "--offline", *(a.format(file=tmp_path / "file") for a in arguments))
    assert (status, out) == (1, "")
    assert said in err
    assert "CANARY" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("m", "--stream", "--method", "countTokens"),
        ("m", "--alt", "sse"),
        ("m", "--method", "generate"),
        ("m", "--body", "-", "--text", "x"),
        (),
    ],
)
def test_arguments_that_contradict_each_other_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *arguments])
    assert ended.value.code == 2


def run_agm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``agm`` in a process of its own, where the reactor can run, with the plugins of a folder."""
    return run(
        [sys.executable, "-m", "agm", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


@pytest.mark.process
def test_a_plugin_that_takes_its_time_is_waited_for(tmp_path: Path, config: Callable[[str], str]) -> None:
    (tmp_path / "slow.py").write_text(
        "from twisted.internet import reactor\n"
        "from twisted.internet.task import deferLater\n"
        "from agm import hookimpl\n\n\n"
        "@hookimpl\nasync def agm_transform_request(body):\n"
        "    await deferLater(reactor, 0.01)\n"
        "    return {**body, 'labels': {'slow': 'yes'}}\n"
    )
    ran = run_agm(tmp_path, "explain", "m", "--plugin", "slow", "--json", "--config", config(ACCOUNT))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["upstream"]["body"]["labels"] == {"slow": "yes"}


@pytest.mark.process
def test_accounts_from_elsewhere_are_not_fetched(tmp_path: Path, config: Callable[[str], str]) -> None:
    (tmp_path / "vault.py").write_text(
        "from agm import hookimpl\n\n\n"
        "@hookimpl\nasync def agm_accounts(config):\n    print('FETCHED')\n    return []\n"
    )
    ran = run_agm(tmp_path, "explain", "m", "--plugin", "vault", "--config", config(ACCOUNT))
    assert (ran.returncode, ran.stderr.splitlines()) == (
        0,
        [
            "offline: explained as after a fresh start: no cooldowns, no conversations",
            "accounts that plugins fetch from elsewhere are missing",
        ],
    )
    assert "FETCHED" not in ran.stdout


@pytest.mark.process
def test_a_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m agm models --offline | true"
    ran = run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr == "offline: as configured, without what the accounts report\n"


# What a person reads


def test_models_are_columns(agm: Callable[..., Ran], config: Callable[[str], str]) -> None:
    file = config('[models]\nlist = ["gemini-2.5-flash"]\n[models.aliases]\nfast = "gemini-2.5-flash"\n"x*" = "y"\n')
    methods = "generateContent streamGenerateContent countTokens"
    assert agm("models", "--offline", "--config", file)[1].splitlines() == [
        "MODEL             BASE MODEL        INPUT TOKENS  OUTPUT TOKENS  METHODS",
        f"gemini-2.5-flash  -                 1048576       65536          {methods}",
        f"fast              gemini-2.5-flash  1048576       65536          {methods}",
    ]


def test_plugins_are_columns_and_below_them_the_hooks(
    agm: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "columned.py").write_text(
        "from agm import hookimpl\n__version__ = '7.5'\n\n\n@hookimpl\ndef agm_map_model(model):\n    return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, err = agm("plugins", "--plugin", "columned")
    assert (status, err) == (0, "offline: loaded here; the running gateway's failure counts are not known\n")
    plugins, _, hooks = out.partition("\n\n")
    assert plugins.splitlines()[1].split() == ["columned", "7.5", "module", "columned", "-"]
    assert "agm_map_model          columned, agm.defaults.aliases" in hooks.splitlines()
    assert "agm_transform_event    -" in hooks.splitlines()
    document = json.loads(agm("plugins", "--plugin", "columned", "--json")[1])
    assert document["plugins"][0]["failures"] is None


EXPLAINED: dict[str, Any] = {
    "request": {"version": "v1beta", "method": "generateContent", "model": "m", "framing": "sse"},
    "client_key": "laptop",
    "client_key_required": True,
    "model": {"asked": "m", "served": "n", "reason": "because", "plugin": "mapper"},
    "edited_by": ["editor"],
    "candidates": ["a", "b"],
    "excluded": [
        {"account": "c", "cause": "resting", "reason": "QUOTA, for n", "retry_after": 27.25, "plugin": None},
        {"account": "long", "cause": "taken away by a plugin", "reason": "no", "retry_after": None, "plugin": "filter"},
        {"account": "d", "cause": "resting", "reason": "DAY, for n", "retry_after": 9000.0, "plugin": None},
    ],
    "account": {"name": "a", "kind": "vertex", "reason": "its turn", "plugin": "picker"},
    "upstream": {
        "method": "POST",
        "url": "https://example.com/x",
        "headers": {"A": "1", "Longer": "2"},
        "body": {"text": "x" * 500},
        "plugin": "wrapper",
    },
    "plugins": [
        {"hook": "agm_map_model", "plugin": "mapper", "said": {"model": "n", "reason": "because"}},
        {"hook": "agm_transform_request", "plugin": "editor", "said": "dict"},
        {"hook": "agm_filter_accounts", "plugin": "filter", "said": {"long": "no"}},
        {"hook": "agm_select_account", "plugin": "picker", "said": {"account": "a"}},
        {"hook": "agm_wrap_request", "plugin": "wrapper", "said": "UpstreamRequest"},
        {"hook": "agm_map_model", "plugin": "other", "said": "n"},
    ],
}


def test_an_explanation_reads_as_aligned_text() -> None:
    lines = readable(EXPLAINED).splitlines()
    body = lines.pop(14)
    assert body == f'               "text": "{"x" * 149}… (512 characters)'
    assert lines == [
        "request      generateContent of m, v1beta, streamed as events",
        "client key   laptop",
        "model        m → n: because [mapper]",
        "body edited  by editor",
        "candidates   a, b",
        "excluded     c     cooling down: QUOTA, for n, 27.2 s left",
        "             long  taken away by a plugin: no [filter]",
        "             d     cooling down: DAY, for n, 2 h 30 min left",
        "account      a (vertex): its turn [picker]",
        "upstream     POST https://example.com/x",
        "             built by wrapper",
        "headers      A:       1",
        "             Longer:  2",
        "body         {",
        "             }",
        "plugins      agm_map_model          mapper   n: because",
        "             agm_transform_request  editor   edited the body",
        "             agm_filter_accounts    filter   without long: no",
        "             agm_select_account     picker   a",
        "             agm_wrap_request       wrapper  built the request",
        "             agm_map_model          other    n",
    ]


def test_a_refusal_names_the_plugin_that_refuses() -> None:
    """Where agm itself refuses, nobody is named."""
    error = {"code": 403, "status": "PERMISSION_DENIED", "message": "No visitors."}
    said = {"error": 403, "message": "No visitors."}
    call = {"hook": "agm_map_model", "plugin": "guard", "said": said}
    found = {"request": EXPLAINED["request"], "client_key": "visitor", "error": error, "plugins": [call]}
    lines = readable({**found, "refused_by": "guard"}).splitlines()
    assert lines[2:] == [
        "refused      by plugin guard: 403 PERMISSION_DENIED",
        "             No visitors.",
        "plugins      agm_map_model  guard  refused with 403: No visitors.",
    ]
    assert readable({**found, "refused_by": None}).splitlines()[2] == "refused      403 PERMISSION_DENIED"


def test_a_long_body_is_cut_and_json_has_all() -> None:
    shown = readable({**EXPLAINED, "upstream": {**EXPLAINED["upstream"], "body": list(range(1000))}})
    assert "… (962 more lines; --json shows all)" in shown


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    model = {"asked": "m\x1b[31m", "served": "n\u202e", "reason": "\x9b2J\nnew line", "plugin": None}
    shown = readable({**EXPLAINED, "model": model})
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert len(shown.splitlines()) == len(readable(EXPLAINED).splitlines())


@pytest.mark.parametrize(
    ("waits", "line"),
    [
        ({"seconds": 2.5, "at_most": 5.0}, "for an account, expected in 2.5 s; 5 s at most"),
        ({"seconds": 0.0, "at_most": 5.0}, "for an account, expected at any moment; 5 s at most"),
    ],
)
def test_a_wait_in_line_is_said(waits: dict[str, float], line: str) -> None:
    explained = {key: EXPLAINED[key] for key in ("request", "client_key", "excluded")}
    assert f"waits        {line}" in readable({**explained, "waits": waits}).splitlines()
