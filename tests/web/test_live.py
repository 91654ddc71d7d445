"""Live sessions, as dialogues of a client and an upstream whose every byte the test writes; and with the emulator."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from agm.core.ownership import Maker
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import ScriptedUpstream, connect, eventually, settle
from tests.helpers.websockets import (
    COMPLETE,
    DEVELOPER,
    SETUP,
    VERTEX,
    Peer,
    accept,
    handshake,
    open_socket,
    set_up,
)

HELLO = {"clientContent": {"turns": [{"role": "user", "parts": [{"text": "Hello"}]}], "turnComplete": True}}


def accounts(upstream: ScriptedUpstream, count: int = 1, extra: str = "") -> str:
    return "\n".join(
        f'[[accounts]]\nname = "a{n}"\nkind = "api-key"\napi_key = "canary-{n}"\n'
        f'endpoints = ["{upstream.url}"]\n{extra}'
        for n in range(count)
    )


async def refused(port: int, *headers: str, path: str = DEVELOPER, request: bytes | None = None) -> Any:
    """The status and the error of a handshake that is not granted."""
    wire = await connect(port)
    wire.send(request or handshake(path, *headers))
    await eventually(lambda: b"\r\n\r\n" in wire.received and wire.received.endswith(b"}\n"), "an error")
    head, _, body = wire.received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


# Frames


@pytest_twisted.ensureDeferred
async def test_frames_pass_as_they_come_with_opcode_fragments_and_mask(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    before = len(up.wire.received)
    fragments = b"\x02\x83abcd" + bytes(a ^ b for a, b in zip(b"one", b"abc", strict=True))
    fragments += b"\x80\x83wxyz" + bytes(a ^ b for a, b in zip(b"two", b"wxy", strict=True))
    client.raw(fragments)
    await eventually(lambda: up.wire.received[before:] == fragments, "the very same bytes")
    begin = len(client.wire.received)
    large = b"\x02\x7e\x01\x00" + b"x" * 256 + b"\x80\x01y"
    up.raw(large[:100])
    await eventually(lambda: client.wire.received[begin:] == large[:100], "what has come of a frame")
    up.raw(large[100:])
    await eventually(lambda: client.wire.received[begin:] == large, "the very same bytes")


@pytest_twisted.ensureDeferred
async def test_the_first_message_is_sent_with_its_mask_and_the_accounts_credential(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream) + '\n[models.aliases]\n"house" = "gemini-live"\n')
    client = await open_socket(running.port, f"/{DEVELOPER}?key=secret")
    up = await accept(upstream)
    head = up.wire.received.partition(b"\r\n\r\n")[0]
    assert head.startswith(f"GET {DEVELOPER} HTTP/1.1\r\n".encode())
    assert b"x-goog-api-key: canary-0" in head
    assert b"secret" not in head
    assert json.loads(await up.message()) == SETUP
    assert client.look().messages == []
    again = await open_socket(running.port, setup={"setup": {"model": "models/house", "tools": [1]}})
    mapped = await accept(upstream, 1)
    assert json.loads(await mapped.message()) == {"setup": {"model": "models/gemini-live", "tools": [1]}}
    assert again.look().messages == []


@pytest_twisted.ensureDeferred
async def test_what_the_client_says_early_waits_for_the_setup(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client = await open_socket(running.port)
    up = await accept(upstream)
    client.say(HELLO)
    await up.message()
    await settle(0.05)
    assert len(up.look().messages) == 1
    up.say(COMPLETE)
    assert json.loads(await up.message(1)) == HELLO
    assert await client.message() == COMPLETE
    assert client.messages[0][0] == "bytes"


@pytest_twisted.ensureDeferred
async def test_pings_are_answered_on_their_own_hop_and_never_inside_of_a_frame(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    up.raw(b"\x82\x05ab")
    await eventually(lambda: client.wire.received.endswith(b"ab"), "the beginning of a frame")
    client.ping(b"here?")
    await settle(0.05)
    assert client.look().pongs == []
    up.raw(b"cde")
    await eventually(lambda: client.look().pongs == [b"here?"], "the pong behind the frame")
    assert client.messages[-1] == ("bytes", b"abcde")
    up.ping(b"there?")
    await eventually(lambda: up.look().pongs == [b"there?"], "a pong to the upstream")
    assert client.look().pings == []


# Before the session is set up


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("code", "reason"),
    [(1011, "You exceeded your current quota"), (1011, "Internal error"), (1008, "API key was reported as leaked")],
)
async def test_another_account_is_tried_before_the_setup_is_complete(
    gateway: GatewayFactory, upstream: ScriptedUpstream, code: int, reason: str
) -> None:
    running = await gateway(accounts(upstream, 2))
    client = await open_socket(running.port)
    first = await accept(upstream)
    await first.message()
    first.close(code, reason)
    second = await accept(upstream, 1)
    assert json.loads(await second.message()) == SETUP
    second.say(COMPLETE)
    assert await client.message() == COMPLETE
    keys = {wire.received.partition(b"canary-")[2][:1] for wire in upstream.connections}
    assert keys == {b"0", b"1"}


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_drops_or_refuses_the_handshake_is_passed_over(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream, 3))
    client = await open_socket(running.port)
    first = await accept(upstream)
    await first.message()
    first.wire.transport.abortConnection()
    second = await upstream.connection(1)
    second.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}")
    third = await accept(upstream, 2)
    await third.message()
    third.say(COMPLETE)
    assert await client.message() == COMPLETE


@pytest_twisted.ensureDeferred
async def test_after_the_setup_no_other_account_is_tried(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway(accounts(upstream, 2))
    client, up = await set_up(running.port, upstream)
    up.close(1011, "Internal error encountered.")
    assert await client.close_frame() == (1011, "Internal error encountered.")
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
async def test_the_last_refusal_is_told_with_its_words_and_the_wait(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client = await open_socket(running.port)
    up = await accept(upstream)
    await up.message()
    up.close(1011, "You exceeded your current quota, please check your plan")
    code, reason = await client.close_frame()
    assert code == 1011
    assert reason.startswith("You exceeded your current quota, please check your plan Try again in ")
    again = await open_socket(running.port)
    code, reason = await again.close_frame()
    assert code == 1011
    assert "Try again in" in reason
    assert len(upstream.connections) == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("first", "code", "words"),
    [
        ("no json", 1007, "has to be a JSON object"),
        ({"clientContent": {}}, 1007, "has to be its setup"),
        ({"setup": {}}, 1007, "setup.model"),
        ({"setup": {"model": "models/m?x"}}, 1007, "setup.model"),
        ({"setup": {"model": "models/m", "sessionResumption": {"handle": "h"}}}, 1008, "not known to this gateway"),
    ],
)
async def test_a_first_message_that_is_no_setup_is_refused(
    gateway: GatewayFactory, upstream: ScriptedUpstream, first: Any, code: int, words: str
) -> None:
    running = await gateway(accounts(upstream))
    client = await open_socket(running.port, setup=first)
    found = await client.close_frame()
    assert found[0] == code
    assert words in found[1]
    assert upstream.connections == []


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_setup_that_does_not_come_is_not_waited_for(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway("[timeouts]\nrequest_read = 0.1\n" + accounts(upstream))
    client = await open_socket(running.port, setup=None)
    assert (await client.close_frame())[0] == 1007
    await client.wire.closed()


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_does_not_set_up_is_given_up(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway("[timeouts]\nfirst_byte = 0.1\n" + accounts(upstream))
    client = await open_socket(running.port)
    up = await accept(upstream)
    code, reason = await client.close_frame()
    assert code == 1011
    assert "did not set up the session" in reason
    await up.wire.closed()


# Who may open a session


@pytest_twisted.ensureDeferred
async def test_what_is_no_handshake_is_told_so(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway(accounts(upstream))
    plain = f"GET {DEVELOPER} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    status, error = await refused(running.port, request=plain)
    assert (status, error["details"][0]["reason"]) == (426, "UPGRADE_INVALID")
    status, error = await refused(running.port, path="/ws/google.ai.something")
    assert status == 404
    assert "Live sessions are opened at /ws/" in error["message"]
    status, _ = await refused(running.port, request=plain.replace(b"GET", b"POST"))
    assert status == 405


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_origin_opens_nothing(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """Browsers ask nobody before they open a WebSocket."""
    running = await gateway('[gateway]\ncors_origins = ["https://good.example"]\n' + accounts(upstream))
    status, error = await refused(running.port, "Origin: https://evil.example")
    assert (status, error["details"][0]["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
    status, error = await refused(running.port, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: websocket")
    assert status == 403
    await open_socket(running.port, DEVELOPER, "Origin: https://good.example", setup=None)
    assert upstream.connections == []


KEYS = """
[auth]
mode = "strict"
[[auth.keys]]
name = "one"
key = "canary-one"
models = ["m"]
max_sessions = 1
[[auth.keys]]
name = "two"
key = "canary-two"
"""


@pytest_twisted.ensureDeferred
async def test_a_client_key_is_asked_for_and_holds_for_the_model(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(KEYS + accounts(upstream))
    assert (await refused(running.port))[0] == 401
    assert (await refused(running.port, path=f"{DEVELOPER}?key=wrong"))[0] == 401
    client = await open_socket(
        running.port, DEVELOPER, "x-goog-api-key: canary-one", setup={"setup": {"model": "models/other"}}
    )
    assert await client.close_frame() == (1008, "This client key may not use models/other.")
    await set_up(running.port, upstream, 0, "Authorization: Bearer canary-one")


@pytest_twisted.ensureDeferred
async def test_a_key_has_so_many_sessions_and_an_account_likewise(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(KEYS + accounts(upstream, 1, "max_sessions = 2"))
    first, _ = await set_up(running.port, upstream, 0, "x-goog-api-key: canary-one")
    status, error = await refused(running.port, "x-goog-api-key: canary-one")
    assert (status, error["details"][0]["reason"]) == (429, "CLIENT_KEY_SESSIONS")
    await set_up(running.port, upstream, 1, "x-goog-api-key: canary-two")
    third = await open_socket(running.port, DEVELOPER, "x-goog-api-key: canary-two")
    code, reason = await third.close_frame()
    assert code == 1011, reason
    assert running.gateway.sessions.count == 2
    first.close()
    await eventually(lambda: running.gateway.sessions.count == 1, "a session less")
    await set_up(running.port, upstream, 2, "x-goog-api-key: canary-one")
    assert running.gateway.pool.loads()["a0"] == 0


@pytest_twisted.ensureDeferred
async def test_a_vertex_shaped_session_is_a_vertex_accounts(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    vertex = (
        f'[[accounts]]\nname = "v"\nkind = "vertex"\naccess_token = "canary-t"\nproject = "p"\n'
        f'location = "us-central1"\nendpoints = ["{upstream.url}"]\n'
    )
    running = await gateway(vertex)
    named = {"setup": {"model": "projects/x/locations/y/publishers/google/models/m"}}
    client = await open_socket(running.port, VERTEX, "Authorization: Bearer ya29.mine", setup=named)
    up = await accept(upstream)
    assert up.wire.received.startswith(f"GET {VERTEX} HTTP/1.1\r\n".encode())
    assert b"Bearer canary-t" in up.wire.received
    assert b"ya29.mine" not in up.wire.received
    asked = json.loads(await up.message())
    assert asked == {"setup": {"model": "projects/p/locations/us-central1/publishers/google/models/m"}}
    up.say(COMPLETE)
    await client.message()
    developer = await open_socket(running.port)
    assert (await developer.close_frame())[0] == 1008


# Limits and backpressure


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_large_closes_with_1009(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway('[limits]\nmessage = "1KiB"\n' + accounts(upstream))
    client, up = await set_up(running.port, upstream)
    client.say("x" * 1025)
    code, reason = await client.close_frame()
    assert (code, "[limits] message" in reason) == (1009, True)
    assert (await up.close_frame())[0] == 1001
    client, up = await set_up(running.port, upstream, 1)
    up.say(b"x" * 1025)
    assert (await client.close_frame())[0] == 1011
    assert (await up.close_frame())[0] == 1009


@pytest_twisted.ensureDeferred
async def test_a_client_that_breaks_the_protocol_is_told_so(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    client.raw(b"\x81\x02hi")
    code, reason = await client.close_frame()
    assert (code, reason) == (1002, "A frame is not masked.")
    assert (await up.close_frame())[0] == 1001


@pytest_twisted.ensureDeferred
async def test_whoever_takes_nothing_holds_back_the_other(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """Both ways, and in bounded memory: what is written is read again once there is room."""
    running = await gateway(accounts(upstream))
    for to_client in (True, False):
        client, up = await set_up(running.port, upstream, 0 if to_client else 1)
        source, sink = (up, client) if to_client else (client, up)
        sink.wire.transport.pauseProducing()
        message = b"x" * 65536
        for _ in range(512):
            source.say(message)
        await settle(0.3)
        held = len(source.wire.transport.dataBuffer) + source.wire.transport._tempDataLen
        assert held > 16 * 65536, "the source was held back"
        if to_client:
            await eventually(lambda: [relay.paused for relay in running.gateway.live.relays()] == [True], "the pause")
        sink.wire.transport.resumeProducing()
        await eventually(lambda s=sink: s.wire.count > 512 * 65536, "all of it")  # type: ignore[misc]
        client.wire.transport.abortConnection()
        await eventually(lambda: not running.gateway.live.relays(), "the end")


# Ends


@pytest_twisted.ensureDeferred
async def test_a_clients_close_goes_to_the_upstream_with_code_and_reason(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    client.close(4001, "enough")
    assert await up.close_frame() == (4001, "enough")
    assert await client.close_frame() == (4001, "enough")
    await client.wire.closed()
    up.close(4001, "enough")
    await up.wire.closed()
    (record,) = running.gateway.live.latest()
    assert (record["outcome"], record["status"], record["finish_reason"]) == ("ok", 101, "CLOSE_4001")
    assert record["framing"] == "live"


@pytest_twisted.ensureDeferred
async def test_a_close_without_a_code_stays_without(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    up.close(None)
    assert await client.close_frame() == (1005, "")
    client.close(None)
    await client.wire.closed()
    await up.wire.closed()


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_session(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    client.wire.transport.abortConnection()
    assert await up.close_frame() == (1001, "The client left.")
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    assert running.gateway.live.latest()[0]["outcome"] == "cancelled"


@pytest_twisted.ensureDeferred
async def test_an_upstream_that_drops_is_told_as_1011_and_inside_of_a_frame_by_the_drop(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    up.wire.transport.abortConnection()
    assert (await client.close_frame())[0] == 1011
    client, up = await set_up(running.port, upstream, 1)
    up.raw(b"\x82\x05ab")
    await eventually(lambda: client.wire.received.endswith(b"ab"), "the beginning of a frame")
    up.wire.transport.loseConnection()
    await client.wire.closed()
    assert client.look().closed is None
    outcomes = [one["outcome"] for one in running.gateway.live.latest()]
    assert outcomes == ["aborted", "aborted"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_answer_the_close_is_dropped(
    gateway: GatewayFactory, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agm.web.session.CLOSE_WAIT", 0.1)
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    up.close(1000)
    await client.close_frame()
    await client.wire.closed()
    await up.wire.closed()


@pytest_twisted.ensureDeferred
async def test_silent_sides_are_asked_for_a_sign_of_life_and_dropped_without(
    gateway: GatewayFactory, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agm.web.session.PING_EVERY", 0.2)
    running = await gateway(accounts(upstream))
    client, up = await set_up(running.port, upstream)
    for _ in range(4):
        await eventually(lambda: client.look().pings and up.look().pings, "pings")
        for peer in (client, up):
            peer.pong(peer.pings.pop())
    await eventually(lambda: client.look().pings and up.look().pings, "pings")
    client.pong()
    assert (await client.close_frame()) == (1011, "The upstream gives no sign of life any more.")
    client, up = await set_up(running.port, upstream, 1)
    await eventually(lambda: up.look().pings, "a ping")
    up.pong()
    await client.wire.closed()


@pytest_twisted.ensureDeferred
async def test_a_session_ends_with_its_client_key(
    gateway: GatewayFactory, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agm.web.session.PING_EVERY", 0.2)
    running = await gateway(KEYS + accounts(upstream))
    ended, up = await set_up(running.port, upstream, 0, "x-goog-api-key: canary-one")
    kept, _ = await set_up(running.port, upstream, 1, "x-goog-api-key: canary-two")
    config = running.gateway.config
    keys = tuple(key for key in config.auth.keys if key.name != "one")
    await running.gateway.reload(attrs.evolve(config, auth=attrs.evolve(config.auth, keys=keys)))
    assert await ended.close_frame() == (1008, "This client key has been revoked.")
    assert (await up.close_frame())[0] == 1008
    assert not kept.look().closed


@pytest_twisted.ensureDeferred
async def test_a_stop_is_told_by_go_away_and_then_1001(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway("[timeouts]\ndrain = 2\n" + accounts(upstream))
    client, up = await set_up(running.port, upstream)
    waiting = await open_socket(running.port, setup=None)
    up.raw(b"\x02\x01a")  # a message that is not complete: nothing may come into it
    await eventually(lambda: client.wire.received.endswith(b"a"), "a fragment")
    drained = Deferred.fromCoroutine(running.site.drain(0.5))
    assert await waiting.close_frame() == (1001, "The gateway is stopping.")
    await settle(0.05)
    up.raw(b"\x80\x01b")
    assert json.loads(await client.message(2)) == {"goAway": {"timeLeft": "2s"}}
    assert client.messages[1] == ("bytes", b"ab")
    assert await client.close_frame() == (1001, "The gateway is stopping.")
    assert (await up.close_frame())[0] == 1001
    client.close(1001)
    waiting.close(1001)
    await drained


# What is counted and remembered


@pytest_twisted.ensureDeferred
async def test_tokens_are_summed_over_the_turns(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(emulator.account("work"))
    client = await open_socket(running.port)
    await client.message()
    for _ in range(2):
        count = len(client.messages)
        client.say(HELLO)
        await eventually(
            lambda c=count: b"turnComplete" in b"".join(m for _, m in client.look().messages[c:]), "a turn"
        )  # type: ignore[misc]
    usages = [json.loads(m)["usageMetadata"] for _, m in client.messages if b"usageMetadata" in m]
    assert len(usages) == 2
    client.close()
    await eventually(lambda: running.gateway.live.ended == 1, "the record")
    (record,) = running.gateway.live.latest()
    assert record["prompt_tokens"] == sum(usage["promptTokenCount"] for usage in usages)
    assert record["output_tokens"] == sum(usage["responseTokenCount"] for usage in usages)
    assert (record["method"], record["account"], record["outcome"]) == ("BidiGenerateContent", "work", "ok")
    assert record["sent"] > 0


@pytest_twisted.ensureDeferred
async def test_a_session_in_flight_is_shown(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    running = await gateway(accounts(upstream))
    await set_up(running.port, upstream)
    (shown,) = running.gateway.live.open_requests()
    assert (shown["method"], shown["framing"], shown["state"], shown["account"]) == (
        *("BidiGenerateContent", "live", "answering", "a0"),
    )
    metrics = (await running.fetch("GET", "/metrics")).body.decode()
    assert "agm_sessions_open 1.0" in metrics


#: Two keys of a team, and one of nobody's.
TEAM = "".join(
    f'[[auth.keys]]\nname = "{name}"\nkey = "canary-{name}"\n{team}'
    for name, team in (("one", 'team = "search"\n'), ("two", 'team = "search"\n'), ("three", ""))
)


async def resumed(running: RunningGateway, handle: str, *headers: str) -> Peer:
    setup = {"setup": {"model": "models/m", "sessionResumption": {"handle": handle}}}
    return await open_socket(running.port, DEVELOPER, *headers, setup=setup)


@pytest_twisted.ensureDeferred
async def test_a_handle_leads_back_to_its_account_and_to_its_client_alone(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(KEYS + emulator.account("work") + emulator.account("play"))
    one, two = "x-goog-api-key: canary-one", "x-goog-api-key: canary-two"
    setup = {"setup": {"model": "models/m", "sessionResumption": {}}}
    for owner in ("work", "play"):
        for name in ("work", "play"):
            await running.fetch("POST", f"/_agm/accounts/{name}/enable", body=b"{}", key="canary-two")
        other = "play" if owner == "work" else "work"
        running.gateway.pool.reset(owner)
        account = next(a for a in running.gateway.pool.accounts if a.name == other)
        running.gateway.pool.disable(account, "for this test")
        client = await open_socket(running.port, DEVELOPER, two, setup=setup)
        await client.message()
        client.say(HELLO)
        await eventually(lambda c=client: b"newHandle" in c.look().messages[-1][1], "a handle")  # type: ignore[misc]
        handle = json.loads(client.messages[-1][1])["sessionResumptionUpdate"]["newHandle"]
        client.close()
        running.gateway.pool.reset(other)
        again = await resumed(running, handle, two)
        await again.message()
        assert emulator.accounts[-1] == owner
        again.close()
        stranger = await resumed(running, handle, one)
        assert (await stranger.close_frame())[0] == 1008


@pytest_twisted.ensureDeferred
async def test_a_token_opens_a_session_for_the_key_that_made_it(
    gateway: GatewayFactory, emulator: RunningEmulator, lines: list[str]
) -> None:
    running = await gateway(KEYS + emulator.account("work") + emulator.account("play"))
    body = json.dumps({"uses": 2, "bidiGenerateContentSetup": {"model": "models/m"}}).encode()
    made = await running.fetch("POST", "/v1alpha/auth_tokens", body=body, key="canary-one")
    assert made.status == 200
    token = made.json["name"]
    owner = emulator.accounts[-1]
    constrained = DEVELOPER.replace("v1beta", "v1alpha") + "Constrained"
    client = await open_socket(running.port, f"{constrained}?access_token={token}")
    await client.message()
    assert emulator.accounts[-1] == owner
    assert emulator.log[-1].rpc == "BidiGenerateContentConstrained"
    status, error = await refused(running.port, f"Authorization: Token {token}", path=constrained)
    assert (status, error["details"][0]["reason"]) == (429, "CLIENT_KEY_SESSIONS")
    status, error = await refused(running.port, "Authorization: Token auth_tokens/other", path=constrained)
    assert status == 401
    other = json.dumps({"bidiGenerateContentSetup": {"model": "models/other"}}).encode()
    assert (await running.fetch("POST", "/v1alpha/auth_tokens", body=other, key="canary-one")).status == 403
    assert (await running.fetch("POST", "/v1alpha/auth_tokens", body=b"[]", key="canary-one")).status == 400
    client.close()
    await eventually(lambda: running.gateway.live.ended > 1, "the record")
    assert token not in "".join(lines)
    assert token.partition("/")[2] not in "".join(lines)


@pytest_twisted.ensureDeferred
async def test_a_live_interaction_is_gone_on_with_by_its_client_at_its_account(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(KEYS + accounts(upstream, 2))
    path, one, two = "/v1beta/interactions/live", "x-goog-api-key: canary-one", "x-goog-api-key: canary-two"
    revision = "api-revision: 2026-05-20"
    create = {"event_type": "interaction.create", "model": "m"}
    client = await open_socket(running.port, path, two, revision, setup=create)
    up = await accept(upstream)
    assert up.wire.received.startswith(b"GET /v1beta/interactions/live HTTP/1.1\r\n")
    assert b"Api-Revision: 2026-05-20\r\n" in up.wire.received
    owner = up.wire.received.partition(b"canary-")[2][:1]
    assert json.loads(await up.message()) == create
    up.say({"event_type": "interaction.created", "interaction": {"id": "v1_x"}})
    await client.message()
    client.close()
    connect_to = {"event_type": "interaction.connect", "id": "v1_x"}
    for number in (1, 2):
        again = await open_socket(running.port, path, two, setup=connect_to)
        there = await accept(upstream, number)
        assert json.loads(await there.message()) == connect_to
        assert there.wire.received.partition(b"canary-")[2][:1] == owner
        there.say({"event_type": "interaction.connected", "interaction_id": "v1_x"})
        await again.message()
    stranger = await open_socket(running.port, path, one, setup=connect_to)
    assert await stranger.close_frame() == (1008, "This interaction is not known to this gateway.")


@pytest_twisted.ensureDeferred
async def test_a_plugin_drops_adds_and_ends(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """As in a stream; an end closes both sides as a good one."""
    from agm.api import EndStream, hookimpl

    class Editing:
        @hookimpl
        def agm_transform_event(self, event: dict[str, Any], account: Any) -> Any:
            match event.get("n"):
                case 1:
                    return []
                case 2:
                    return [{"of": account.name}, event]
                case 3:
                    return EndStream([{"last": True}])
            return None

    running = await gateway(accounts(upstream), plugins=[Editing()])
    client = await open_socket(running.port)
    up = await accept(upstream)
    up.say(COMPLETE)
    for number in (1, 2, 3, 4):
        up.say({"n": number})
    said = [json.loads(await client.message(number)) for number in range(4)]
    assert said == [{"setupComplete": {}}, {"of": "a0"}, {"n": 2}, {"last": True}]
    assert (await client.close_frame())[0] == 1000
    assert (await up.close_frame())[0] == 1000


@pytest_twisted.ensureDeferred
async def test_an_interaction_that_a_request_made_is_gone_on_with_by_its_client_or_its_team(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    running = await gateway(TEAM + accounts(upstream, 2))
    path = "/v1beta/interactions/live"
    connect_to = {"event_type": "interaction.connect", "id": "v1_made"}
    running.gateway.calls.context.ownership.remember("interactions/v1_made", "a1", Maker("one", "search"))
    for key in ("canary-one", "canary-two"):
        await open_socket(running.port, path, f"x-goog-api-key: {key}", setup=connect_to)
        there = await accept(upstream, 0 if key == "canary-one" else 1)
        assert json.loads(await there.message()) == connect_to
    stranger = await open_socket(running.port, path, "x-goog-api-key: canary-three", setup=connect_to)
    assert await stranger.close_frame() == (1008, "This interaction is not known to this gateway.")


@pytest_twisted.ensureDeferred
async def test_a_handle_answers_to_the_team_of_its_client(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(TEAM + emulator.account("work"))
    setup = {"setup": {"model": "models/m", "sessionResumption": {}}}
    client = await open_socket(running.port, DEVELOPER, "x-goog-api-key: canary-one", setup=setup)
    await client.message()
    client.say(HELLO)
    await eventually(lambda: b"newHandle" in client.look().messages[-1][1], "a handle")
    handle = json.loads(client.messages[-1][1])["sessionResumptionUpdate"]["newHandle"]
    client.close()
    again = await resumed(running, handle, "x-goog-api-key: canary-two")
    assert b"setupComplete" in (await again.message())
    again.close()
    stranger = await resumed(running, handle, "x-goog-api-key: canary-three")
    assert (await stranger.close_frame())[0] == 1008


@pytest_twisted.ensureDeferred
async def test_plugins_edit_what_both_sides_say(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    from agm import hookimpl

    class Editing:
        may_pass_unseen = True

        @hookimpl
        def agm_transform_request(self, body: dict[str, Any]) -> dict[str, Any]:
            return {**body, "seen": True}

        @hookimpl
        def agm_transform_event(self, event: dict[str, Any]) -> dict[str, Any]:
            return {**event, "heard": True}

    running = await gateway(accounts(upstream), plugins=[Editing()])
    client = await open_socket(running.port)
    up = await accept(upstream)
    assert json.loads(await up.message()) == {**SETUP, "seen": True}
    client.say({"early": 1})
    up.say(COMPLETE)
    assert json.loads(await client.message()) == {"setupComplete": {}, "heard": True}
    client.say({"n": 2})
    client.say(b"no json")
    assert json.loads(await up.message(1)) == {"early": 1, "seen": True}
    assert json.loads(await up.message(2)) == {"n": 2, "seen": True}
    assert await up.message(3) == b"no json"
    up.say({"a": 1})
    assert json.loads(await client.message(1)) == {"a": 1, "heard": True}
    client.close()
    assert (await up.close_frame())[0] == 1000


@pytest.mark.parametrize(("hook", "side"), [("agm_transform_request", "client"), ("agm_transform_event", "upstream")])
@pytest_twisted.ensureDeferred
async def test_what_no_plugin_can_be_shown_ends_the_session(
    gateway: GatewayFactory, upstream: ScriptedUpstream, hook: str, side: str
) -> None:
    from agm import hookimpl

    editing: Any = type("Editing", (), {hook: hookimpl(lambda self: None)})()
    running = await gateway(accounts(upstream), plugins=[editing])
    client = await open_socket(running.port)
    up = await accept(upstream)
    up.say(COMPLETE)
    await client.message()
    (client if side == "client" else up).say(b"no json")
    code, reason = await client.close_frame()
    assert code == 1008
    assert reason.startswith("Messages of a Live session that are no JSON objects cannot be shown to plugin")
    assert len(up.look().messages) == 1
    assert len(client.look().messages) == 1
