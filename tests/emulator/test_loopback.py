"""The emulator on real sockets: what a reply's steps do to a connection, and what the log says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from agm.emulator.playback import Playback
from agm.emulator.replies import Reply, Wait
from agm.emulator.site import make_site, unlogged
from agm.emulator.state import Clock
from testbed.answers import dechunk
from tests.emulator.conftest import Listening
from tests.helpers.support import Wire, connect, eventually, get, post, settle

reactor: Any = _reactor

STREAM = "/v1beta/models/{}:streamGenerateContent?alt=sse"
UNARY = "/v1beta/models/{}:generateContent"
KEY = "x-goog-api-key: secret-key"

async_test = pytest_twisted.ensureDeferred


async def ask(running: Listening, target: str, model: str = "m") -> Wire:
    """A connection on which one call was sent."""
    wire = await connect(running.port)
    wire.send(post(target.format(model), b'{"contents":[{"parts":[{"text":"hi"}]}]}', KEY))
    return wire


def body_of(answered: bytes) -> bytes:
    return answered.partition(b"\r\n\r\n")[2]


def length_of(answered: bytes) -> int:
    for line in answered.lower().split(b"\r\n"):
        if line.startswith(b"content-length: "):
            return int(line[16:])
    raise AssertionError(answered)


@async_test
async def test_a_unary_answer_with_its_length_on_a_connection_that_stays(running: Listening) -> None:
    """Two calls on one connection, a third on another; the log tells them apart."""
    wire = await ask(running, UNARY)
    first = await wire.until(b'"responseId"', b"}\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert length_of(first) == len(body_of(first))
    assert first.count(b"\r\nServer: ") == first.count(b"\r\nContent-Type: ") == 1
    wire.received = b""
    wire.send(get("/v1beta/models?key=secret-key"))
    await wire.until(b'"models"', b"\n}\n")
    other = await ask(running, UNARY)
    await other.until(b'"responseId"')
    numbers = [entry.connection for entry in running.entries]
    assert numbers[0] == numbers[1] != numbers[2]
    assert running.entries[0].document()["response_bytes"] == length_of(first)
    assert all(entry.finished and entry.client_gone is None for entry in running.entries)
    assert "secret-key" not in json.dumps([entry.document(with_body=True)["headers"] for entry in running.entries])


@async_test
async def test_events_come_in_chunks_of_their_own(running: Listening) -> None:
    """And the stream ends with the last chunk."""
    wire = await ask(running, STREAM, "emu-chunks-3")
    answered = await wire.until(b"\r\n0\r\n\r\n")
    body, complete = dechunk(answered)
    assert complete
    assert [line for line in answered.split(b"\r\n") if line.startswith(b"data: ")] == body.strip().split(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in answered


@async_test
async def test_a_dropped_stream_has_no_last_chunk(running: Listening) -> None:
    """The connection closes in order, the answer does not end."""
    wire = await ask(running, STREAM, "emu-drop-2")
    body, complete = dechunk(await wire.closed())
    assert (body.count(b"data: "), complete) == (2, False)
    assert wire.lost is not None
    assert wire.lost.check(ConnectionDone)
    await eventually(lambda: not running.entries[0].finished)
    assert running.entries[0].client_gone is None


@async_test
async def test_a_reset_is_one(running: Listening) -> None:
    """After the events, which arrive."""
    wire = await ask(running, STREAM, "emu-rst-2")
    body, complete = dechunk(await wire.closed())
    assert (body.count(b"data: "), complete) == (2, False)
    assert wire.lost is not None
    assert wire.lost.check(ConnectionLost)  # a FIN would be ConnectionDone
    assert running.entries[0].client_gone is None


@async_test
async def test_a_cut_unary_answer_is_shorter_than_announced(running: Listening) -> None:
    """By half."""
    wire = await ask(running, UNARY, "emu-cut")
    answered = await wire.closed()
    assert len(body_of(answered)) == length_of(answered) // 2


@async_test
async def test_a_closed_connection_says_nothing(running: Listening) -> None:
    """No status line."""
    wire = await ask(running, UNARY, "emu-close")
    assert await wire.closed() == b""


@async_test
async def test_headers_come_before_the_first_byte(running: Listening) -> None:
    """With ``ttft``; with ``latency`` they wait as well."""
    wire = await ask(running, STREAM, "emu-ttft-60000")
    assert body_of(await wire.until(b"\r\n\r\n")) == b""
    late = await ask(running, STREAM, "emu-latency-60000")
    soon = await ask(running, STREAM, "emu-latency-10")
    await soon.until(b"0\r\n\r\n")
    assert late.received == b""
    wire.transport.abortConnection()
    late.transport.abortConnection()
    await eventually(lambda: [entry.client_gone is not None for entry in running.entries] == [True, True, False])


@pytest.mark.parametrize("target", [STREAM, UNARY])
@async_test
async def test_a_client_that_leaves_is_noticed(running: Listening, target: str) -> None:
    """While nothing is said."""
    wire = await ask(running, target, "emu-hang")
    await eventually(lambda: running.entries)
    wire.transport.loseConnection()
    await eventually(lambda: running.entries[0].client_gone is not None)
    assert not running.entries[0].finished


@pytest.mark.parametrize("target", [STREAM, UNARY])
@async_test
async def test_a_reader_that_does_not_read_stops_the_answer(running: Listening, target: str) -> None:
    """A gibibyte is never made for it, and its leaving is noticed."""
    wire = await ask(running, target, "emu-giant-1024")
    wire.transport.pauseProducing()
    await eventually(lambda: running.entries and running.entries[0].response_bytes > 0)
    await settle(0.3)
    stopped = running.entries[0].response_bytes
    await settle(0.3)
    assert running.entries[0].response_bytes == stopped < 64 * 2**20
    wire.transport.abortConnection()
    await eventually(lambda: running.entries[0].client_gone is not None)


@pytest.mark.parametrize("target", [STREAM, UNARY])
@async_test
async def test_a_reader_that_reads_gets_all_of_it(running: Listening, target: str) -> None:
    """Eight mebibytes and their end."""
    wire = await ask(running, target, "emu-giant-8")
    wire.keep = False
    await eventually(lambda: running.entries and running.entries[0].finished)
    await eventually(lambda: wire.count > running.entries[0].response_bytes > 8 * 2**20)


@async_test
async def test_a_form_is_not_parsed_and_a_body_may_be_chunked(running: Listening) -> None:
    """The body is the request's own affair."""
    wire = await connect(running.port)
    form = b"grant_type=refresh_token&client_id=c&refresh_token=alice"
    wire.send(post("/token", form, "Content-Type: application/x-www-form-urlencoded"))
    await wire.until(b'"ya29.emu-alice-1"')
    chunks = b'1b\r\n{"contents":[{"parts":[{"te\r\nd\r\nxt":"hi"}]}]}\r\n0\r\n\r\n'
    head = f"POST {UNARY.format('m')} HTTP/1.1\r\nHost: x\r\n{KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head.encode() + chunks)
    await wire.until(b"responseId")
    assert running.entries[-1].body_length == 40


@async_test
async def test_targets_are_decoded(running: Listening) -> None:
    """``%3A`` is a colon, ``%20`` a space; the URL of an upload is how the client came."""
    wire = await connect(running.port)
    wire.send(post("/v1beta/models/a%20b%3AgenerateContent", b'{"contents":[{"parts":[{"text":"x"}]}]}', KEY))
    await wire.until(b'"modelVersion": "a b"')
    wire.send(
        post("/upload/v1beta/files", b"", KEY, "X-Goog-Upload-Protocol: resumable", "X-Goog-Upload-Command: start")
    )
    await wire.until(b"http://127.0.0.1/upload/v1beta/files?upload_id=")


@async_test
async def test_control_on_the_wire_is_not_logged(running: Listening) -> None:
    """A script over HTTP, and a log of what came after it."""
    wire = await connect(running.port)
    wire.send(post("/_emu/script", b'{"account": "secret-key", "steps": ["503"]}'))
    await wire.until(b'"steps": 1')
    wire.send(post(UNARY.format("m"), b'{"contents":[{"parts":[{"text":"x"}]}]}', KEY))
    await wire.until(b"503 Service Unavailable")
    wire.send(get("/_emu/log"))
    answered = await wire.until(b'"entries"', b"\n}\n")
    document = json.loads(answered[answered.rindex(b'{\n  "entries"') :])
    assert [(entry["status"], entry["model"]) for entry in document["entries"]] == [(503, "m")]


@pytest.mark.expects_logged_failures
@async_test
async def test_a_failure_of_the_emulators_own_is_a_500(running: Listening, logged_failures: list[Any]) -> None:
    """And is logged, without the request's secrets."""
    broken: Any = object()
    running.state.scripts["secret-key"] = broken
    wire = await ask(running, UNARY)
    await wire.until(b"500 Internal Server Error", b'"status": "INTERNAL"')
    [event] = logged_failures
    assert event["log_failure"].check(AttributeError)
    logged_failures.clear()


@pytest.mark.expects_logged_failures
@async_test
async def test_a_reply_that_cannot_be_carried_out_closes_its_connection(logged_failures: list[Any]) -> None:
    """The client is not left waiting."""

    class Impossible(Resource):
        isLeaf = True

        def render(self, request: Any) -> int:
            Playback(reactor, Clock(reactor), request, Reply(200, steps=(Wait(-1),)), unlogged(0)).start()
            return NOT_DONE_YET

    site = Site(Impossible())
    site.noisy = False
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    wire = await connect(port.getHost().port)
    wire.send(get("/"))
    assert await wire.closed() == b""
    await port.stopListening()
    assert len(logged_failures) == 1
    logged_failures.clear()


@async_test
async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    """Where there is no Nagle to switch off."""
    site = make_site(reactor)
    site.noisy = False
    port = reactor.listenUNIX(str(tmp_path / "emu"), site)
    wire = await connectProtocol(UNIXClientEndpoint(reactor, str(tmp_path / "emu")), Wire())
    wire.send(get("/v1beta/models?key=k"))
    await wire.until(b'"models"')
    wire.transport.loseConnection()
    await wire.closed()
    await port.stopListening()
