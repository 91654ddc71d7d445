"""What is in ``deploy/``: systemd takes the units, and the command lines of all of them start a gateway."""

from __future__ import annotations

import configparser
import json
import os
import plistlib
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from agm import config
from testbed import balancer
from testbed.processes import BIN, PATIENCE, get
from tests.service.supervised import News, supervised

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGE = (DEPLOY.parent / "docs" / "deploy.md").read_text("utf-8")
#: Several machines.
SCALE = (DEPLOY.parent / "docs" / "scale.md").read_text("utf-8")
SYSTEMD = DEPLOY / "systemd"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
UNITS = [pytest.param(SYSTEMD, id="machine"), pytest.param(SYSTEMD / "user", id="user")]
#: How the folder of the commands is written in each.
INSTALLED = re.compile(r"(/opt/agm|%h/\.local/share/agm|/Users/USERNAME/Library/agm)/bin/")


def unit(*files: Path) -> configparser.ConfigParser:
    """The settings of a unit and its drop-ins; of one that is given several times the last."""
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd have capitals
    parsed.read(files)
    return parsed


def on_a_free_port(command: Sequence[str]) -> list[str]:
    """A command line of a service with the Python that runs the tests, and a port that nobody has."""
    words = [INSTALLED.sub(f"{BIN}/", word) for word in command]
    if words[0] == "twistd":
        words[0] = str(BIN / "twistd")
    if "--listen" not in words:
        words += ["--port", "0"]
    return [re.sub(r"^tcp:8045", "tcp:0", word) for word in words]


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, str]:
    """The environment of a service whose configuration is written already."""
    file = tmp_path / "agm.toml"
    file.write_text(f'[auth]\n[[auth.keys]]\nname = "one"\nkey_sha256 = "{"0" * 64}"\n')
    return {"AGM_CONFIG": str(file), "XDG_STATE_HOME": str(tmp_path / "state")}


# The page


def test_the_pages_name_files_that_are_there_and_all_of_them() -> None:
    named = set(re.findall(r"deploy/[\w./-]*\w", PAGE + SCALE))
    named.remove("deploy/docker/gemini.key")  # the reader makes it
    assert [name for name in sorted(named) if not (DEPLOY.parent / name).exists()] == []
    files = {str(path.relative_to(DEPLOY.parent)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert [file for file in sorted(files) if not any(file.startswith(name) for name in named)] == []


def test_each_configuration_of_the_page_can_be_used(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        key = tmp_path / "key"
        key.write_text("k")
        key.chmod(0o600)
        read = config.parse(re.sub(r"/run/[\w./]+", str(key), block), path=tmp_path / "agm.toml", environ={})
        assert [account.name for account in read.accounts] == ([] if "public_url" in block else ["work"])
        assert read.warnings == ()


@pytest.mark.process
def test_each_shell_block_can_be_read_by_a_shell() -> None:
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        assert subprocess.run(["bash", "-n", "-c", block], timeout=PATIENCE, check=False).returncode == 0, block


def test_secrets_are_where_the_page_says() -> None:
    service = unit(SYSTEMD / "agm.service")["Service"]
    name, _, folder = service["LoadCredential"].partition(":")
    assert f"/run/credentials/agm.service/{name}_work.key" in PAGE
    assert f"{folder}/work.key" in PAGE
    assert "file: ./gemini.key" in (DEPLOY / "docker" / "compose.yaml").read_text()


# systemd


@pytest.mark.parametrize("folder", UNITS)
@pytest.mark.parametrize("activated", [False, True], ids=["alone", "activated"])
@pytest.mark.process
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, folder: Path, activated: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; it is in Debian's package systemd")
    for name in ("agm.service", "agm.socket"):
        (tmp_path / name).write_text(INSTALLED.sub(f"{BIN}/", (folder / name).read_text()))
    if activated:
        dropin = tmp_path / "agm.service.d" / "socket.conf"
        dropin.parent.mkdir()
        dropin.write_text(INSTALLED.sub(f"{BIN}/", (folder / "agm.service.d" / "socket.conf").read_text()))
    scope = ["--user"] if folder.name == "user" else []
    done = subprocess.run(
        [
            "systemd-analyze",
            *scope,
            "--man=no",
            "--recursive-errors=no",
            "verify",
            *map(str, tmp_path.glob("agm.s*[et]")),
        ],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    about_ours = [line for line in done.stdout.splitlines() if "agm" in line]
    assert (done.returncode, about_ours) == (0, []), done.stdout


@pytest.mark.parametrize("folder", UNITS)
@pytest.mark.process
def test_the_unit_starts_the_gateway_which_tells_that_it_is_ready_and_stops_in_time(
    tmp_path: Path, folder: Path, configured: dict[str, str]
) -> None:
    service = unit(folder / "agm.service")["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > config.default().timeouts.drain + 10
    command = on_a_free_port(shlex.split(service["ExecStart"]))
    watched = str(int(float(service["WatchdogSec"]) * 1e6))
    told = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": watched, **configured}
    with News() as news, supervised(tmp_path, command=command, **{**told, "NOTIFY_SOCKET": news.variable}) as twistd:
        assert "READY" in news.next()
        assert get(twistd.url(), "/healthz")[0] == 200
        hang_up = shlex.split(service["ExecReload"].replace("$MAINPID", str(twistd.process.pid)))
        subprocess.run(hang_up, check=True)
        assert "RELOADING" in news.until("RELOADING")
        assert "READY" in news.until("READY")
        assert twistd.stop() == 0
        assert "STOPPING" in news.until("STOPPING")


@pytest.mark.parametrize("folder", UNITS)
@pytest.mark.process
def test_with_the_socket_unit_the_gateway_serves_what_systemd_has_bound(
    tmp_path: Path, folder: Path, configured: dict[str, str]
) -> None:
    host, _, port = unit(folder / "agm.socket")["Socket"]["ListenStream"].rpartition(":")
    assert f"tcp:{port}:interface={host}" in config.default().gateway.listen  # so that `agm status` finds it
    service = unit(folder / "agm.service", folder / "agm.service.d" / "socket.conf")["Service"]
    command = [INSTALLED.sub(f"{BIN}/", word) for word in shlex.split(service["ExecStart"])]
    with (
        socket.create_server((host, 0)) as bound,
        supervised(tmp_path, command=command, sockets={"agm.socket": bound}, **configured) as twistd,
    ):
        assert twistd.url() == f"http://{host}:{bound.getsockname()[1]}"
        assert get(twistd.url(), "/v1beta/models")[0] == 200
        assert twistd.stop() == 0


# launchd


@pytest.mark.process
def test_the_plist_starts_a_gateway_and_starts_it_again_only_after_a_failure(
    tmp_path: Path, configured: dict[str, str]
) -> None:
    service = plistlib.loads((DEPLOY / "launchd" / "agm.plist").read_bytes())
    assert service["KeepAlive"] == {"SuccessfulExit": False}
    assert service["ExitTimeOut"] > config.default().timeouts.drain
    assert service["Umask"] == 0o077
    with supervised(tmp_path, command=on_a_free_port(service["ProgramArguments"]), **configured) as twistd:
        assert get(twistd.url(), "/healthz")[0] == 200
        assert twistd.stop() == 0


# Docker


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def last(name: str) -> str:
    """The argument of the last instruction of this name."""
    return [argument for instruction, argument in instructions() if instruction == name][-1]


def test_the_image_has_a_user_of_its_own_and_what_it_copies_is_there() -> None:
    assert [argument.split()[0] for name, argument in instructions() if name == "FROM"] == ["python:3.11-slim"] * 2
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    sources = [
        source
        for name, argument in instructions()
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    ]
    assert [source for source in sources if not (DEPLOY.parent / source).exists()] == []
    assert {"agm", "twisted", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= set(sources)


@pytest.mark.process
def test_the_command_of_the_image_serves_and_its_health_check_notices(
    tmp_path: Path, configured: dict[str, str]
) -> None:
    variables = dict(word.split("=", 1) for word in last("ENV").split())
    assert variables["AGM_CONFIG"] == "/etc/agm/agm.toml"
    command = on_a_free_port(json.loads(last("CMD")))
    with supervised(tmp_path / "run", command=command, **configured) as twistd:
        url = twistd.url().replace("0.0.0.0", "127.0.0.1")
        check = json.loads(last("HEALTHCHECK").partition("CMD")[2])
        assert check[0] == "python"
        ask = [str(BIN / check[0]), *(word.replace("http://127.0.0.1:8045", url) for word in check[1:])]
        assert subprocess.run(ask, timeout=PATIENCE, check=False).returncode == 0
        assert get(url, "/v1beta/models")[0] == 401  # beyond loopback everybody shows a key
        assert twistd.stop() == 0
    assert subprocess.run(ask, timeout=PATIENCE, check=False, stderr=subprocess.DEVNULL).returncode == 1


def test_the_compose_file_mounts_what_the_image_reads_and_grants_nothing() -> None:
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    for line in ("read_only: true", "cap_drop: [ALL]", "- ./agm.toml:/etc/agm/agm.toml:ro", "- state:/var/lib/agm"):
        assert f"    {line}\n" in text or f"      {line}\n" in text
    assert f'ports: ["127.0.0.1:{last("EXPOSE")}:{last("EXPOSE")}"]' in text
    assert "dockerfile: deploy/docker/Dockerfile" in text
    assert json.loads(last("VOLUME")) == ["/var/lib/agm"]


def test_the_sample_configuration_is_the_one_of_the_page_and_has_no_secret(tmp_path: Path) -> None:
    sample = DEPLOY / "docker" / "agm.toml"
    assert sample.stat().st_mode & 0o444 == 0o444
    key = tmp_path / "gemini"
    key.write_text("k")
    key.chmod(0o400)
    read = config.parse(sample.read_text().replace("/run/secrets/gemini", str(key)), path=sample, environ={})
    shown = next(block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "secrets/gemini" in block)
    meant = config.parse(shown.replace("/run/secrets/gemini", str(key)), path=sample, environ={})
    assert (read.gateway, read.accounts, read.warnings) == (meant.gateway, meant.accounts, ())
    assert read.auth.keys == ()
    assert f"-o {last('USER').split(':')[0]} " in PAGE


def test_the_builder_gets_what_the_image_copies_and_nothing_else() -> None:
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    sources = {
        source
        for name, argument in instructions()
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert sent == sources


# Kubernetes and the balancers


def test_the_configuration_of_the_pods_is_one(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes" / "agm.yaml").read_text("utf-8")
    found = re.search(r"  agm\.toml: \|\n((?:    .*\n|\n)+)", text)
    assert found is not None
    key = tmp_path / "work.key"
    key.write_text("canary-key")
    file = tmp_path / "agm.toml"
    file.write_text(re.sub(r"(?m)^    ", "", found[1]).replace("/run/keys/work.key", str(key)))
    file.chmod(0o600)
    parsed = config.load(file, environ={})
    assert [account.unusable for account in parsed.accounts] == [None]
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert grace is not None
    assert int(grace[1]) > parsed.timeouts.lame_duck + 1.5 + parsed.timeouts.drain


def test_the_manifests_are_what_kubernetes_takes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    yaml = pytest.importorskip("yaml")
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / "agm.yaml").read_text("utf-8")):
        validate.validate(document, "1.30", strict=True)


@pytest.mark.process
def test_haproxy_takes_the_balancers_file(tmp_path: Path) -> None:
    if balancer.find() is None:
        pytest.skip("haproxy is not installed")
    with balancer.balanced(tmp_path, [1, 2]):
        pass
