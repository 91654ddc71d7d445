"""``twistd agm --workers N`` as a person runs it: an even split, deaths, replacements, the stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.load import STREAM, under_load
from testbed.processes import Twistd, environment, until
from testbed.sockets import Client, ask

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        shutil.which("redis-server") is None and shutil.which("valkey-server") is None,
        reason="no redis-server: apt install redis-server",
    ),
]

Start = Callable[..., Twistd]

ACCOUNT = 'name = "a"\nkind = "api-key"\napi_key = "canary-key"\nendpoints = ["http://127.0.0.1:1"]\n'

_SERVES = re.compile(r"worker (\d+) \(process (\d+)\) serves")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts ``twistd agm`` with a configuration; none outlives the test."""
    started: list[Twistd] = []
    file = tmp_path / "agm.toml"

    def go(configuration: str, *arguments: str) -> Twistd:
        file.write_text(configuration)
        file.chmod(0o600)
        twistd = Twistd.start(
            tmp_path / f"run-{len(started)}",
            "agm",
            "--config",
            str(file),
            "--port",
            "0",
            *arguments,
            env=environment(tmp_path),
        )
        started.append(twistd)
        return twistd

    try:
        yield go
    finally:
        for twistd in started:
            twistd.end()


def workers(twistd: Twistd, count: int = 2) -> list[int]:
    """Wait until so many workers have come to serve since the start; their processes, in that order."""
    twistd.until(lambda: len(_SERVES.findall(twistd.log)) >= count, f"{count} workers")
    return [int(pid) for _, pid in _SERVES.findall(twistd.log)]


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_workers_share_the_connections_evenly_and_end_together(start: Start) -> None:
    twistd = start("[gateway]\nworkers = 2\n", "--demo")
    url = twistd.url()
    pids = workers(twistd)
    clients = [Client(url) for _ in range(24)]
    processes: dict[str, int] = {}
    for client in clients:
        client.get("/healthz")
        seen = client.finish()
        assert seen is not None
        tag = seen.headers["x-agm-request-id"][-8:]
        processes[tag] = processes.get(tag, 0) + 1
    assert len(processes) == 2
    assert max(processes.values()) <= 14
    for client in clients:
        client.close()
    assert twistd.stop() == 0
    assert not any(map(alive, pids))
    assert "Traceback" not in twistd.log
    assert twistd.errors == []


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_only_its_own_requests_with_it_and_is_replaced(start: Start) -> None:
    twistd = start("", "--demo", "--workers", "2")
    url = twistd.url()
    pids = workers(twistd)
    with under_load(url, 8, kept=False) as load:
        until(lambda: len(load.processes) == 2, "answers of both")
        os.kill(pids[0], signal.SIGKILL)
        workers(twistd, 3)
        after = set(load.processes)
        until(lambda: len(set(load.processes) - after) == 1 or len(load.processes) == 3, "answers of the new one")
    assert sum(load.errors.values()) <= 8, load.errors
    assert ask(url, "/readyz") == (200, b'{"status":"ok"}')
    assert "ended unexpectedly" in twistd.log
    assert twistd.stop() == 0


@pytest.mark.slow
def test_replacing_the_workers_one_by_one_costs_no_request(start: Start) -> None:
    twistd = start("", "--demo", "--workers", "2")
    url = twistd.url()
    pids = workers(twistd)
    with (
        under_load(url, 4) as kept,
        under_load(url, 2, kept=False) as new,
        under_load(url, 2, target=STREAM) as streams,
    ):
        until(lambda: len(kept.processes) == 2, "answers of both")
        twistd.signal(signal.SIGUSR2)
        twistd.until_logged("all workers are replaced")
        until(lambda: not any(map(alive, pids)), "the end of the old ones")
        until(lambda: len(kept.processes) == 4, "answers of the new ones")
    assert (kept.errors, new.errors, streams.errors) == ({}, {}, {})
    assert twistd.stop() == 0
    assert "Traceback" not in twistd.log


@pytest.mark.slow
def test_workers_whose_supervisor_is_killed_end_and_the_next_start_serves(start: Start) -> None:
    """Without --demo, so that both starts have the same folder for their store."""
    configuration = f"[gateway]\nworkers = 2\n[[accounts]]\n{ACCOUNT}"
    twistd = start(configuration)
    url = twistd.url()
    pids = workers(twistd)
    client = Client(url)
    twistd.kill()
    seen = None
    while seen is None or seen.headers.get("connection") is None:  # a connection that was kept is served, and ends
        client.received = b""
        client.get("/healthz")
        seen = client.finish()
        assert seen is not None
        assert seen.status == 200
    client.close()
    until(lambda: not any(map(alive, pids)), "the end of the workers")
    again = start(configuration)
    assert ask(again.url(), "/readyz") == (200, b'{"status":"ok"}')
    workers(again)
    assert again.stop() == 0
    assert "Traceback" not in again.log


@pytest.mark.slow
def test_a_start_that_no_worker_survives_is_a_line_and_status_1(start: Start) -> None:
    twistd = start('[plugins]\nload = ["no.such.module"]\n', "--demo", "--workers", "2")
    assert twistd.wait() == 1
    assert any("no.such.module" in line for line in twistd.errors)
    assert "Traceback" not in twistd.log


@pytest.mark.slow
def test_a_hanging_worker_holds_nobody_back(start: Start) -> None:
    twistd = start("", "--demo", "--workers", "2")
    url = twistd.url()
    pids = workers(twistd)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        time.sleep(0.4)  # for as long as it counts as turning
        assert [ask(url, "/healthz") for _ in range(10)] == [(200, b'{"status":"ok"}')] * 10
    finally:
        with suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGCONT)
    assert twistd.stop() == 0
