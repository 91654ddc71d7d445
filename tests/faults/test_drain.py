"""The stop of a real gateway with many answers under way: readiness first, then patience, then a visible cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.answers import Seen
from testbed.processes import Twistd, environment
from testbed.sockets import Client, ask

pytestmark = pytest.mark.process

SSE = "/v1beta/models/emu-slow:streamGenerateContent?alt=sse"
ARRAY = "/v1beta/models/emu-slow:streamGenerateContent?alt=json"
UNARY = "/v1beta/models/emu-latency-2000:generateContent"
#: Twenty answers, of which none is done within a second.
UNDER_WAY = [SSE] * 10 + [ARRAY] * 5 + [UNARY] * 5


@pytest.fixture
def gateway_process(tmp_path: Path) -> Iterator[Twistd]:
    """A demo gateway."""
    twistd = Twistd.start(tmp_path, "agm", "--demo", "--port", "0", env=environment(tmp_path))
    try:
        yield twistd
    finally:
        twistd.end()


def begin(url: str) -> list[Client]:
    """Clients whose answers are under way."""
    clients = []
    for target in UNDER_WAY:
        client = Client(url)
        client.post(target)
        clients.append(client)
    for client, target in zip(clients, UNDER_WAY, strict=True):
        if target != UNARY:
            client.until(b"candidates")
    return clients


def assert_clean(twistd: Twistd) -> None:
    assert twistd.wait() == 0
    assert "Traceback" not in twistd.log
    assert "Unhandled" not in twistd.log
    assert twistd.errors == []


def test_twenty_answers_under_way_are_finished_and_readiness_is_the_first_to_go(gateway_process: Twistd) -> None:
    url = gateway_process.url()
    assert ask(url, "/readyz") == (200, b'{"status":"ok"}')
    clients = begin(url)
    gateway_process.signal()
    gateway_process.until_logged("SIGTERM: stopping")
    told = []
    while (answer := ask(url, "/readyz")) is not None:  # until no connection is taken any more
        told.append(answer[0])
    assert told, "new connections are told that it stops, before they are refused"
    assert set(told) == {503}
    for client in clients:
        seen = client.finish()
        assert seen is not None
        assert (seen.status, seen.complete) == (200, True)
        assert seen.body.count(b'"STOP"') == 1
        client.drain()
        assert client.ended, "the connection closes in good order"
        client.close()
    assert_clean(gateway_process)


def test_while_it_stops_health_answers_and_no_other_request_begins(gateway_process: Twistd) -> None:
    url = gateway_process.url()
    clients = begin(url)
    late = Client(url)
    gateway_process.signal()
    gateway_process.until_logged("SIGTERM: stopping")
    health = ask(url, "/healthz")
    assert health is None or health[0] == 200
    refused = ask(url, "/v1beta/models")
    assert refused is None or (refused[0] == 503 and b'"STOPPING"' in refused[1])
    late.drain()  # an idle connection is closed
    for client in [*clients, late]:
        client.close()
    assert_clean(gateway_process)


def test_a_second_signal_cuts_twenty_answers_so_that_each_client_sees_it(gateway_process: Twistd) -> None:
    url = gateway_process.url()
    clients = begin(url)
    gateway_process.signal()
    gateway_process.until_logged("SIGTERM: stopping")
    gateway_process.signal()
    assert [cut_visibly(client, target) for client, target in zip(clients, UNDER_WAY, strict=True)] == [True] * 20
    assert_clean(gateway_process)


def test_the_end_of_the_drain_cuts_twenty_answers_so_that_each_client_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    file.write_text("[timeouts]\ndrain = 0.5\n")
    twistd = Twistd.start(
        tmp_path / "run", "agm", "--demo", "--port", "0", "--config", str(file), env=environment(tmp_path)
    )
    try:
        clients = begin(twistd.url())
        twistd.signal()
        assert [cut_visibly(client, target) for client, target in zip(clients, UNDER_WAY, strict=True)] == [True] * 20
        assert_clean(twistd)
    finally:
        twistd.end()


def cut_visibly(client: Client, target: str) -> bool:
    """Whether an answer ended so that its client cannot take it for complete."""
    client.drain()
    client.close()
    seen = client.seen
    if seen is None:
        return False
    if not client_has_begun(seen):
        return seen.status == 503 and seen.complete and b'"STOPPING"' in seen.body
    if target == SSE and "error" not in seen.events[-1]:
        return False
    return not seen.complete


def client_has_begun(seen: Seen) -> bool:
    return seen.status == 200


LAME = "[timeouts]\nlame_duck = 2\n"


@pytest.fixture
def lame_duck(tmp_path: Path) -> Iterator[Twistd]:
    """A demo gateway that serves on for two seconds after SIGTERM."""
    file = tmp_path / "agm.toml"
    file.write_text(LAME)
    twistd = Twistd.start(
        tmp_path / "run", "agm", "--demo", "--port", "0", "--config", str(file), env=environment(tmp_path)
    )
    try:
        yield twistd
    finally:
        twistd.end()


def ask_kept(client: Client) -> Seen:
    """The answer to one more request on a connection."""
    client.received = b""
    client.get("/v1beta/models")
    seen = client.finish()
    assert seen is not None
    return seen


def test_a_lame_duck_serves_everybody_while_readiness_sends_them_elsewhere(lame_duck: Twistd) -> None:
    url = lame_duck.url()
    kept = Client(url)
    answered = ask_kept(kept)
    assert (answered.status, answered.headers.get("connection")) == (200, None)
    lame_duck.signal()
    lame_duck.until_logged("SIGTERM: stopping")
    ready = ask(url, "/readyz")
    assert ready is not None
    assert ready[0] == 503
    answered = ask_kept(kept)
    assert (answered.status, answered.headers.get("connection")) == (200, "close")
    kept.drain()
    assert kept.ended
    kept.close()
    statuses = []
    while (answer := ask(url, "/v1beta/models")) is not None:  # until no connection is taken any more
        statuses.append(answer[0])
    assert statuses
    assert set(statuses) == {200}
    assert_clean(lame_duck)


def test_a_second_signal_ends_the_lame_duck_and_the_requests_in_flight_are_finished(lame_duck: Twistd) -> None:
    client = Client(lame_duck.url())
    client.post(SSE)
    client.until(b"candidates")
    lame_duck.signal()
    lame_duck.until_logged("SIGTERM: stopping")
    lame_duck.signal()
    lame_duck.until_logged("no further request is served")
    seen = client.finish()
    assert seen is not None
    assert (seen.status, seen.complete) == (200, True)
    client.close()
    assert_clean(lame_duck)
