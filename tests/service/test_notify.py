"""What a service manager is told, by :mod:`agm.app.systemd` and by the process."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from agm.app.systemd import ServiceManager
from testbed.processes import get
from tests.service.supervised import News, supervised

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")


def told(manager: ServiceManager, news: News) -> list[dict[str, str]]:
    manager.ready("serving")
    manager.reloading()
    manager.stopping("stopping", 40)
    manager.alive()
    return [news.next() for _ in range(4)]


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=linux)])
def test_each_piece_of_news_is_a_datagram(abstract: bool) -> None:
    with News(abstract=abstract) as news:
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": news.variable}, 1)
        ready, reloading, stopping, alive = told(manager, news)
    assert ready == {"READY": "1", "STATUS": "serving"}
    assert reloading.pop("RELOADING") == "1"
    assert int(reloading.pop("MONOTONIC_USEC")) > 0
    assert stopping == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "40000000", "STATUS": "stopping"}
    assert alive == {"WATCHDOG": "1"}


@pytest.mark.parametrize("variable", ["", "relative", "@", "vsock:2:1"])
def test_without_a_socket_that_can_be_told_nothing_is_sent(variable: str) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": variable, "WATCHDOG_USEC": "1000000"}, 1)
    assert manager == ServiceManager()
    manager.ready("nobody hears it")


def test_news_that_nobody_takes_is_passed_over(tmp_path: Path) -> None:
    ServiceManager.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, 1).ready("serving")


def test_a_manager_that_reads_nothing_holds_nobody_up() -> None:
    with News() as news:
        manager = ServiceManager.from_environment({"NOTIFY_SOCKET": news.variable}, 1)
        for _ in range(2000):  # more than its queue takes
            manager.alive()
        assert news.next() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "7"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_is_heeded_if_it_is_meant_for_this_process(environ: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager.from_environment({"NOTIFY_SOCKET": "/x", **environ}, 7).watchdog == seconds


@pytest.mark.process
def test_ready_is_told_once_it_answers_and_stopping_before_the_drain(tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text("[timeouts]\ndrain = 7\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["agm", "--demo", "--port", str(port), "--config", str(file)]
    with News() as news, supervised(tmp_path / "run", *arguments, NOTIFY_SOCKET=news.variable) as twistd:
        assert news.next() == {"READY": "1", "STATUS": "serving from 3 accounts"}
        assert get(f"http://127.0.0.1:{port}", "/healthz")[0] == 200  # at once: nothing is waited for
        twistd.signal(signal.SIGHUP)
        assert news.next()["RELOADING"] == "1"
        assert news.next()["READY"] == "1"
        twistd.signal()
        assert news.next() == {
            "STOPPING": "1",
            "EXTEND_TIMEOUT_USEC": "17000000",
            "STATUS": "stopping after 0 requests",
        }
        assert twistd.wait() == 0


@pytest.mark.process
def test_ready_is_not_told_by_a_start_that_fails(tmp_path: Path) -> None:
    with News() as news, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with supervised(tmp_path, "agm", "--port", str(port), NOTIFY_SOCKET=news.variable) as twistd:
            assert twistd.wait() == 1
        ServiceManager.from_environment({"NOTIFY_SOCKET": news.variable}, 1).alive()
        assert news.next() == {"WATCHDOG": "1"}  # the test's own, and nothing before it


@pytest.mark.process
def test_a_watchdog_hears_of_it_again_and_again(tmp_path: Path) -> None:
    more = {"WATCHDOG_USEC": "200000"}
    with News() as news, supervised(tmp_path, "agm", "--demo", "--port", "0", NOTIFY_SOCKET=news.variable, **more):
        assert [sorted(news.next()) for _ in range(4)].count(["WATCHDOG"]) == 3
