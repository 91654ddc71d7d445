"""``twistd agm`` as a person runs it: how it refuses to start, where it listens, how it stops."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.processes import BIN, PATIENCE, Twistd, connection, environment, get, post, run, running, until
from tests.upstream.certificates import TestAuthority

pytestmark = pytest.mark.process

ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()

Start = Callable[..., Twistd]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts ``twistd agm`` with arguments; none of them outlives the test."""
    started: list[Twistd] = []

    def go(*arguments: str, **more: str) -> Twistd:
        folder = tmp_path / f"twistd-{len(started)}"
        twistd = Twistd.start(folder, "agm", *arguments, env=environment(folder, **more))
        started.append(twistd)
        return twistd

    try:
        yield go
    finally:
        for twistd in started:
            twistd.end()


def refused(twistd: Twistd) -> list[str]:
    """The lines of a start that failed as it should: with status 1, and no traceback anywhere."""
    assert twistd.wait() == 1, twistd.log
    assert "Traceback" not in twistd.log + "\n".join(twistd.errors)
    return twistd.errors


# Starts that are refused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "eighty"], "agm: --port 'eighty' is not a port: give a number from 0 to 65535"),
        (["--port", "65536"], "agm: --port '65536' is not a port: give a number from 0 to 65535"),
        (["--port", "-1"], "agm: --port '-1' is not a port: give a number from 0 to 65535"),
        (["--prot", "1"], "agm: option --prot not recognized; twistd agm --help shows the options"),
        (["8045"], "agm: Wrong number of arguments; twistd agm --help shows the options"),
        (["--listen", "tpc:8045"], "agm: 'tpc:8045' is not a server endpoint: Unknown endpoint type: 'tpc'"),
        (["--listen", ""], "agm: '' is not a server endpoint: Unknown endpoint type: ''"),
        (["--config", "/nowhere/agm.toml"], "agm: /nowhere/agm.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(start: Start, arguments: list[str], line: str) -> None:
    (error,) = refused(start(*arguments))
    assert error.startswith(line)


def test_a_port_that_is_taken_is_one_line_on_standard_error_and_one_in_the_log(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        twistd = start("--port", str(port))
        why = f"cannot listen on tcp:{port}:interface=127.0.0.1: Address already in use: "
        (line,) = refused(twistd)
        assert line.startswith(f"agm: {why}")
        assert line.endswith(f" (pid {os.getpid()}) holds it; end that, or take --port {port + 1}")
    assert twistd.log.count(why) == 1


def test_a_socket_in_no_folder_is_one_line(start: Start) -> None:
    assert refused(start("--listen", "unix:/nowhere/agm.sock")) == [
        "agm: cannot listen on unix:/nowhere/agm.sock: No such file or directory"
    ]


def test_a_daemon_that_cannot_listen_tells_its_parent_and_leaves_no_pid_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(
            [BIN / "twistd", "--pidfile=agm.pid", "--logfile=agm.log", "agm", f"--port={taken.getsockname()[1]}"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert b"cannot listen on" in done.stderr
    until(lambda: not (tmp_path / "agm.pid").exists(), "the pid file is removed")
    assert "Traceback" not in (tmp_path / "agm.log").read_text()


def test_each_problem_of_a_configuration_is_a_line_of_its_own(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text('[gateway]\nmax_bdy = 1\n[pool]\nmax_attempts = 0\n[[accounts]]\nname = "a"\nkind = "vertx"\n')
    lines = refused(start("--port", "0", "--config", str(file)))
    assert [line.split(": ")[:3] for line in lines] == [
        ["agm", str(file), "gateway.max_bdy"],
        ["agm", str(file), "pool.max_attempts"],
        ["agm", str(file), "accounts[0].kind"],
    ]


def test_a_file_that_the_environment_names_must_exist(start: Start) -> None:
    (line,) = refused(start("--port", "0", AGM_CONFIG="/nowhere/agm.toml"))
    assert "/nowhere/agm.toml" in line
    assert "AGM_CONFIG" in line


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name\n", ["broken", "cannot be imported", "nothing_of_this_name"]),
        ("def f(:\n", ["broken", "cannot be imported", "SyntaxError"]),
        (
            "from agm import hookimpl\n\n\n@hookimpl\ndef agm_map_modle(model):\n    return None\n",
            ["broken", "there is no hook agm_map_modle", "did you mean agm_map_model?"],
        ),
    ],
    ids=["import", "syntax", "misspelt"],
)
def test_a_plugin_that_cannot_be_used_is_one_line_that_names_it(
    start: Start, tmp_path: Path, source: str, said: list[str]
) -> None:
    (tmp_path / "broken.py").write_text(source)
    (line,) = refused(start("--port", "0", "--plugin", "broken", PYTHONPATH=str(tmp_path)))
    assert [part for part in said if part not in line] == []


def test_a_plugin_that_is_not_there_is_one_line(start: Start) -> None:
    (line,) = refused(start("--port", "0", "--plugin", "no_such_plugin"))
    assert "plugin no_such_plugin cannot be imported" in line


# Where it listens


def test_it_listens_on_every_endpoint_that_is_named(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "agm.sock"
    twistd = start("--demo", "--port", "0", "--listen", f"unix:{path}", "--listen", "tcp:0:interface=127.0.0.2")
    addresses = twistd.addresses(3)
    assert [address.rpartition(":")[0] for address in addresses] == ["http://127.0.0.1", "unix", "http://127.0.0.2"]
    assert [get(address, "/healthz") for address in addresses] == [(200, b'{"status":"ok"}')] * 3
    client, answer = post(addresses[1], "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
    assert json.loads(answer.read())["candidates"]
    client.close()
    assert twistd.stop() == 0
    assert not path.exists()


def test_the_environment_names_the_configuration(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text('[gateway]\nlisten = ["tcp:0:interface=127.0.0.1"]\n[models]\nlist = ["only-this"]\n')
    twistd = start(AGM_CONFIG=str(file))
    assert [model["name"] for model in json.loads(get(twistd.url(), "/v1beta/models")[1])["models"]] == [
        "models/only-this"
    ]


def test_the_command_line_names_the_configuration_before_the_environment(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text('[models]\nlist = ["only-this"]\n')
    twistd = start("--port", "0", "--config", str(file), AGM_CONFIG="/nowhere/agm.toml")
    assert b"models/only-this" in get(twistd.url(), "/v1beta/models")[1]


def test_beyond_loopback_without_a_key_everything_but_health_is_refused_and_the_log_says_why(start: Start) -> None:
    twistd = start("--demo", "--listen", "tcp:0:interface=0.0.0.0")
    url = twistd.url().replace("0.0.0.0", "127.0.0.1")
    assert get(url, "/healthz") == (200, b'{"status":"ok"}')
    for target in ("/v1beta/models", "/v1beta/models/gemini-2.5-flash", "/anything"):
        status, body = get(url, target, x_goog_api_key="a-guess")
        assert (status, json.loads(body)["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert "no client key is configured: every request will be refused with 401" in twistd.log
    assert "a-guess" not in twistd.log


def test_beyond_loopback_no_key_is_asked_for_where_the_configuration_says_so(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text('[auth]\nmode = "off"\n[gateway]\nlisten = ["tcp:0"]\n')
    twistd = start("--config", str(file))
    assert get(twistd.url().replace("0.0.0.0", "127.0.0.1"), "/v1beta/models")[0] == 200


def test_without_accounts_it_starts_and_says_which_command_adds_one(start: Start) -> None:
    twistd = start("--port", "0")
    assert get(twistd.url(), "/healthz")[0] == 200
    client, answer = post(twistd.url(), "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
    assert answer.status == 503
    assert "agm account add" in json.loads(answer.read())["error"]["message"]
    client.close()
    assert "agm account add" in twistd.log


# How it stops


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_gateway_ends_with_status_0(start: Start, number: int) -> None:
    twistd = start("--demo", "--port", "0")
    idle = connection(twistd.url())
    idle.request("GET", "/healthz")
    idle.getresponse().read()  # a connection that is kept alive holds nothing up
    twistd.signal(number)
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log
    assert "Unhandled" not in twistd.log
    assert twistd.errors == []
    idle.close()


def test_sighup_without_a_configuration_ends_nothing(start: Start) -> None:
    twistd = start("--demo", "--port", "0")
    url = twistd.url()
    twistd.signal(signal.SIGHUP)
    twistd.until_logged("there is no configuration file to reload")
    assert get(url, "/healthz")[0] == 200
    assert twistd.stop() == 0


@pytest.mark.slow
def test_a_listener_with_tls_finds_its_files_beside_the_configuration_and_is_renewed(
    start: Start, tmp_path: Path
) -> None:
    """Wherever it was started from.  One of --listen is renewed, too, by SIGHUP as well."""
    authority = TestAuthority()
    certificate, key = authority.server_pem("localhost")
    (tmp_path / "server.pem").write_bytes(key + certificate)
    file = tmp_path / "agm.toml"
    file.write_text('[gateway]\nlisten = ["ssl:0:interface=127.0.0.1"]\n')
    twistd = start("--config", str(file))
    trusting = ssl.create_default_context(cadata=authority.pem.decode("ascii"))

    def shown(address: str) -> str:
        with (
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), PATIENCE) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True) or b"")

    assert shown(twistd.url()) == certificate.decode("ascii")
    bare = start("--listen", f"ssl:0:privateKey={tmp_path}/server.pem:interface=127.0.0.1")
    assert shown(bare.url()) == certificate.decode("ascii")
    new, key = authority.server_pem("localhost")
    (tmp_path / "server.pem").write_bytes(key + new)
    bare.signal(signal.SIGHUP)
    bare.until_logged("is in use from now on")
    assert shown(bare.url()) == new.decode("ascii")
    twistd.until_logged("is in use from now on")
    assert shown(twistd.url()) == new.decode("ascii")


def test_an_account_without_its_secret_does_not_keep_the_gateway_from_starting(start: Start, tmp_path: Path) -> None:
    """It is told at the start, and a client hears what helps."""
    file = tmp_path / "agm.toml"
    file.write_text('[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "NOT_SET_ANYWHERE"\n')
    twistd = start("--port", "0", "--config", str(file))
    client, answer = post(twistd.url(), "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
    assert answer.status == 503
    cure = "the environment variable NOT_SET_ANYWHERE is not set; write export NOT_SET_ANYWHERE=… before the start"
    assert cure in json.loads(answer.read())["error"]["message"]
    client.close()
    assert twistd.log.count(f"accounts[0].api_key_env: {cure}; until then 'a' is off") == 1
    assert twistd.stop() == 0


def test_a_stream_under_way_is_served_to_its_end_before_the_gateway_stops(start: Start) -> None:
    twistd = start("--demo", "--port", "0")
    url = twistd.url()
    client, answer = post(url, "/v1beta/models/emu-slow:streamGenerateContent?alt=sse", ASK)
    first = answer.readline()
    assert first.startswith(b"data: ")
    twistd.signal()
    twistd.until_logged("waiting up to 30 seconds")
    with pytest.raises(ConnectionRefusedError):
        get(url, "/healthz")
    rest = answer.read()  # raises IncompleteRead if the stream was cut
    assert rest.count(b"data: ") == 3
    assert b'"finishReason": "STOP"' in rest
    client.close()
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log


def test_a_request_that_waits_for_its_upstream_is_served_before_the_gateway_stops(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(PATIENCE)
        file.write_text(
            '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\n'
            f'endpoints = ["http://127.0.0.1:{upstream.getsockname()[1]}"]\n'
        )
        twistd = start("--port", "0", "--config", str(file))
        client = connection(twistd.url())
        client.request("POST", "/v1beta/models/m:generateContent", ASK, {"Content-Type": "application/json"})
        asked, _ = upstream.accept()
        with asked:
            twistd.signal()
            twistd.until_logged("waiting up to 30 seconds for 1 request;")
            asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"{}")
    client.close()
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log


def cut(answer: http.client.HTTPResponse) -> bool:
    """Whether an answer breaks off."""
    try:
        answer.read()
    except (http.client.IncompleteRead, ConnectionError):
        return True
    return False


def test_a_second_signal_cuts_what_is_under_way(start: Start) -> None:
    twistd = start("--demo", "--port", "0")
    client, answer = post(twistd.url(), "/v1beta/models/emu-slow:streamGenerateContent?alt=sse", ASK)
    answer.readline()
    twistd.signal()
    twistd.until_logged("waiting up to 30 seconds")
    twistd.signal()
    assert cut(answer)
    client.close()
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log


def test_the_drain_has_an_end(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text("[timeouts]\ndrain = 0\n")
    twistd = start("--demo", "--port", "0", "--config", str(file))
    client, answer = post(twistd.url(), "/v1beta/models/emu-slow:streamGenerateContent?alt=sse", ASK)
    answer.readline()
    twistd.signal()
    assert cut(answer)
    client.close()
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log


def test_requests_are_in_the_log_when_the_gateway_has_stopped(tmp_path: Path) -> None:
    """What was answered a moment before SIGTERM, and what was still under way; only its owner can read the file."""
    with running(tmp_path / "emulator", "agm-emulator", "--port", "0") as emulator:
        emulator.until_logged("EmulatorSite starting on ")
        port = re.findall(r"starting on ([0-9]+)", emulator.log)[0]
        folder = tmp_path / "gateway"
        folder.mkdir()
        config = folder / "agm.toml"
        config.write_text(
            f'[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "work"\nendpoints = ["http://127.0.0.1:{port}"]\n'
        )
        env = environment(folder)
        with running(folder, "agm", "--port", "0", "--config", str(config), env=env) as gateway:
            url = gateway.url()
            slow, answer = post(url, "/v1beta/models/emu-slow:streamGenerateContent?alt=sse", ASK)
            for _ in range(5):
                client, quick = post(url, "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
                quick.read()
                client.close()
            gateway.signal()
            assert answer.read().count(b"data: ") > 1
            slow.close()
            assert gateway.wait() == 0
    logs = list(folder.rglob("requests-*"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in logs] == [0o600]
    ran = subprocess.run(
        [sys.executable, "-m", "agm", "usage", "--by", "model", "--json", "--config", str(config)],
        env=env,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    found = {row["model"]: row["requests"] for row in json.loads(ran.stdout)}
    assert found == {"gemini-2.5-flash": 5, "emu-slow": 1}


@pytest.mark.slow
def test_a_demo_remembers_nothing_unless_it_is_told_where(tmp_path: Path) -> None:
    config = tmp_path / "agm.toml"
    for text, files in (("", []), ('[request_log]\npath = "log.db"\n', ["log.db"])):
        config.write_text(text)
        with running(tmp_path / "gateway", "agm", "--demo", "--port", "0", "--config", str(config)) as gateway:
            client, answer = post(gateway.url(), "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
            assert answer.status == 200
            client.close()
            assert gateway.stop() == 0
        assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(("requests", "log.db"))] == files
