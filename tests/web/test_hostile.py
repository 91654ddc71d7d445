"""Hostile requests: each is answered as ``hostile.txt`` says, the answer is seen, and nothing of it goes astray."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater

from agm.testing import GatewayFactory
from testbed.answers import dechunk
from tests.helpers.support import AnsweringUpstream, Asked, connect, reactor
from tests.web.hostile import Row, rows

TABLE = rows()
GROUPS = list(dict.fromkeys(row.group for row in TABLE))
#: What an upstream may get of a request's headers, beside those that are made for it.
FOR_THE_UPSTREAM = frozenset(
    {"host", "accept-encoding", "content-type", "content-length", "user-agent", "x-goog-api-key", "x-server-timeout"}
)
PROBE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
#: Requests up to this size are sent byte by byte, larger ones in this many pieces.
SMALL = 160
PIECES = 60


def in_pieces(row: Row) -> Iterable[bytes]:
    """The request byte by byte, or cut at places that stay the same from run to run; always between a CR and its LF."""
    data = row.request
    if len(data) <= SMALL:
        return [data[i : i + 1] for i in range(len(data))]
    places = set(random.Random(row.name).sample(range(1, len(data)), PIECES // 2))
    crs = [i + 1 for i in range(min(len(data), 4000)) if data[i : i + 2] == b"\r\n"]
    places.update(crs[: PIECES // 2])
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def parsed(raw: bytes, *, head: bool) -> list[tuple[int, str]]:
    """The answers of a connection, each held to its form; `head` if the first is one to a HEAD request."""
    answers: list[tuple[int, str]] = []
    while raw:
        start, found, rest = raw.partition(b"\r\n\r\n")
        assert found, f"not an answer: {raw[:200]!r}"
        status_line, *lines = start.split(b"\r\n")
        status = int(status_line.split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        bodiless = status < 200 or status == 204 or (head and not answers)
        if bodiless:
            body, raw = b"", rest
        elif b"transfer-encoding" in headers:
            body, whole = dechunk(raw)
            assert whole, "an answer that is cut short"
            raw = rest[rest.index(b"\r\n0\r\n\r\n") + 7 :]
        else:
            length = int(headers[b"content-length"])
            body, raw = rest[:length], rest[length:]
            assert len(body) == length, "an answer that is cut short"
        assert b"canary" not in start, "a header that came from the request"
        assert status < 200 or len(headers[b"x-agm-request-id"]) == 24
        if status >= 200:  # whether 100 Continue is sent depends on how much of the body has come by then
            answers.append((status, "" if status < 400 or bodiless else _reason(status, headers, body)))
    return answers


def _reason(status: int, headers: dict[bytes, bytes], body: bytes) -> str:
    assert headers[b"content-type"] == b"application/json; charset=UTF-8"
    error = json.loads(body)["error"]
    assert error["code"] == status
    assert error["message"]
    assert error["status"].isupper()
    return next(detail["reason"] for detail in error["details"] if detail["@type"].endswith("ErrorInfo"))


async def converse(port: int, row: Row, pieces: Iterable[bytes]) -> list[tuple[int, str]]:
    """Send a request, and one more to see whether the connection goes on; returns the answers to it."""
    client = await connect(port)
    client.transport.setTcpNoDelay(True)
    for piece in pieces:
        if client.lost is not None:
            break
        client.send(piece)
        for _ in range(2):  # one turn to write it, and one for the gateway to read it
            await deferLater(reactor, 0)
    if row.end == "keep":
        client.send(PROBE)
    elif row.end == "cut":
        client.transport.loseWriteConnection()
    await client.closed()
    assert client.lost is not None
    assert client.lost.check(ConnectionDone), "the connection was reset"
    answers = parsed(client.received, head=row.request.startswith(b"HEAD "))
    if row.end == "keep":
        assert answers, "the connection did not go on"
        assert answers.pop() == (200, ""), "the next request was not understood"
    return answers


def answer(asked: Asked) -> tuple[Any, ...]:
    """An upstream's answer to anything."""
    if "streamGenerateContent" in asked.path:
        return 200, b'data: {"candidates": []}\r\n\r\n', {"content-type": "text/event-stream"}
    return 200, {"candidates": []}


def leaks(asked: Asked) -> list[str]:
    """What went to the upstream and should not have."""
    found = [f"header {name}" for name in asked.headers if name not in FOR_THE_UPSTREAM]
    found += [f"canary in {name}" for name, value in asked.headers.items() if "canary" in value.lower()]
    if asked.credential != "k":
        found.append("the credential")
    return found


@pytest.mark.parametrize("delivery", ["whole", "in pieces"])
@pytest.mark.parametrize("group", GROUPS)
@pytest_twisted.ensureDeferred
async def test_every_hostile_request_is_answered_as_the_table_says(
    gateway: GatewayFactory, group: str, delivery: str
) -> None:
    upstream = AnsweringUpstream(answer)
    running = await gateway(
        '[gateway]\nmax_body = "256KiB"\ncors_origins = ["https://page.example"]\n[timeouts]\nrequest_read = 8\n'
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{upstream.url}"]\n'
    )
    wrong: list[str] = []
    for row in (row for row in TABLE if row.group == group):
        upstream.asked.clear()
        try:
            answers = await converse(running.port, row, [row.request] if delivery == "whole" else in_pieces(row))
        except (AssertionError, KeyError, ValueError, IndexError) as e:
            wrong.append(f"{row.name}: {str(e) or repr(e)}")
            continue
        if answers != list(row.answers):
            wrong.append(f"{row.name}: {answers}, not {list(row.answers)}")
        calls = [asked for asked in upstream.asked if not asked.uri.startswith("/v1beta/models?")]  # its own question
        reached = [(asked.uri.encode(), asked.body) for asked in calls]
        if reached != ([] if row.upstream is None else [row.upstream]):
            wrong.append(f"{row.name}: the upstream got {str(reached)[:200]}")
        wrong += [f"{row.name}: the upstream got {leak}" for asked in calls for leak in leaks(asked)]
    await upstream.stop()
    assert not wrong, "\n".join(wrong)


def test_the_table_is_as_large_as_it_is_said_to_be_and_names_each_request_once() -> None:
    assert len(TABLE) >= 350
    assert len({row.name for row in TABLE}) == len(TABLE)
    assert {row.end for row in TABLE} == {"keep", "close", "cut"}


@pytest.mark.parametrize("row", [row for row in TABLE if row.end == "cut"], ids=lambda row: row.name)
def test_a_request_that_ends_early_gets_no_answer_by_the_table(row: Row) -> None:
    assert (row.answers, row.upstream) == ((), None)
