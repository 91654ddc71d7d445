"""Live with Google's SDKs: Python's over TLS, with the certificate of ``agm cert``, and Node's over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from testbed.processes import Twistd, environment, run
from tests.clients.servers import CANARY, CLIENT_KEY, Emulator, GatewayFactory, SessionGateway, check_log, config
from tests.clients.test_node import run as run_node
from tests.helpers.websockets import DEVELOPER

pytestmark = pytest.mark.filterwarnings("ignore")

_TLS_PORT = re.compile(r"listening on https://127\.0\.0\.1:(\d+)")
HELLO = types.Content(role="user", parts=[types.Part(text="Say hello")])


@attrs.frozen
class Secure:
    """A gateway with a TLS listener, and what its clients trust."""

    url: str
    bundle: str


@pytest.fixture(scope="module")
def secure(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A gateway with accounts of both kinds that have Live, and the certificate that a person would make."""
    folder = tmp_path_factory.mktemp("live")
    made = run(
        [sys.executable, "-m", "agm", "cert", "--folder", str(folder / "tls"), "--json"],
        capture_output=True,
        env=environment(folder),
        check=True,
    )
    document = json.loads(made.stdout)
    listener = document["listen"].replace("ssl:8443", "ssl:0")
    text = config(emulator.url, "api-key", accounts=4).replace(
        'listen = ["tcp:0:interface=127.0.0.1"]', f"listen = {json.dumps(['tcp:0:interface=127.0.0.1', listener])}"
    )
    text += (
        f'\n\n[[accounts]]\nname = "vertex"\nkind = "vertex"\naccess_token = "{CANARY}-token"\nproject = "project-v"\n'
        f'endpoints = ["{emulator.url}"]\n'
    )
    file = folder / "agm.toml"
    file.touch(mode=0o600)
    file.write_text(text)
    twistd = Twistd.start(folder / "run", "agm", "--config", str(file))
    try:
        twistd.until(lambda: _TLS_PORT.search(twistd.log), "the TLS listener")
        port = _TLS_PORT.search(twistd.log)
        assert port is not None
        yield Secure(f"https://localhost:{port[1]}", document["environment"]["SSL_CERT_FILE"])
        assert twistd.stop() == 0
        check_log(twistd)
    finally:
        twistd.kill()


@pytest.fixture(autouse=True)
def trust(secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person exports before a program starts."""
    monkeypatch.setenv("SSL_CERT_FILE", secure.bundle)


def client(secure: Secure, key: str = CLIENT_KEY, **more: Any) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=secure.url, **more))


async def turn(session: Any) -> tuple[str, Any]:
    """One turn: what was said, and the count of tokens."""
    await session.send_client_content(turns=HELLO, turn_complete=True)
    text, usage = "", None
    async for message in session.receive():
        text += message.text or ""
        usage = message.usage_metadata or usage
    return text, usage


def test_a_session_of_two_turns(secure: Secure, emulator: Emulator) -> None:
    async def talk() -> None:
        async with client(secure).aio.live.connect(model="house-model", config={"response_modalities": ["TEXT"]}) as s:
            text, usage = await turn(s)
            assert '"Say hello"' in text
            assert usage.response_token_count > 0
            text, _ = await turn(s)
            assert "this is your turn 2" in text

    asyncio.run(talk())
    (entry,) = [one for one in emulator.log("gemini-2.5-pro") if one["rpc"] == "BidiGenerateContent"]
    assert entry["status"] == 101


def test_functions_and_audio(secure: Secure) -> None:
    weather = {"function_declarations": [{"name": "get_weather", "description": "The weather"}]}

    async def talk() -> None:
        configuration = {"response_modalities": ["AUDIO"], "tools": [weather], "output_audio_transcription": {}}
        async with client(secure).aio.live.connect(model="gemini-live", config=configuration) as s:
            await s.send_client_content(turns=HELLO, turn_complete=True)
            async for message in s.receive():
                if message.tool_call is not None:
                    (call,) = message.tool_call.function_calls or ()
                    answer = types.FunctionResponse(id=call.id, name=call.name, response={"sky": "blue"})
                    await s.send_tool_response(function_responses=answer)
                    break
            audio, said = b"", ""
            async for message in s.receive():
                audio += message.data or b""
                content = message.server_content
                if content is not None and content.output_transcription is not None:
                    said += content.output_transcription.text or ""
            assert len(audio) == 4800
            assert '"sky": "blue"' in said
            await s.send_realtime_input(audio=types.Blob(data=bytes(3200), mime_type="audio/pcm;rate=16000"))
            await s.send_realtime_input(audio_stream_end=True)
            heard = [m async for m in s.receive()]
            assert any(m.data for m in heard)

    asyncio.run(talk())


def test_a_refused_session_is_an_error_with_code_and_reason(secure: Secure) -> None:
    async def refused(model: str, key: str = CLIENT_KEY) -> Any:
        with pytest.raises(errors.APIError) as caught:
            async with client(secure, key).aio.live.connect(model=model, config={}):
                pass
        return caught.value.code, str(caught.value)

    code, message = asyncio.run(refused("emu-404"))
    assert code == 1008
    assert "models/emu-404 is not found" in message
    code, message = asyncio.run(refused("emu-429-7.5"))
    assert code == 1011
    assert "You exceeded your current quota" in message
    assert "Try again in" in message


def test_a_session_is_resumed_by_its_handle(secure: Secure) -> None:
    async def talk() -> None:
        asked = client(secure)
        handle = None
        async with asked.aio.live.connect(
            model="gemini-live", config={"response_modalities": ["TEXT"], "session_resumption": {}}
        ) as s:
            await turn(s)
            message = await s._receive()
            assert message.session_resumption_update is not None
            handle = message.session_resumption_update.new_handle
        again = {"response_modalities": ["TEXT"], "session_resumption": {"handle": handle}}
        async with asked.aio.live.connect(model="gemini-live", config=again) as s:
            text, _ = await turn(s)
            assert "this is your turn 2" in text

    asyncio.run(talk())


def test_an_ephemeral_token(secure: Secure) -> None:
    async def talk() -> None:
        maker = client(secure, api_version="v1alpha")
        made = maker.auth_tokens.create(config={"uses": 1})
        asked = client(secure, str(made.name), api_version="v1alpha")
        async with asked.aio.live.connect(model="gemini-live", config={"response_modalities": ["TEXT"]}) as s:
            text, _ = await turn(s)
            assert '"Say hello"' in text

    asyncio.run(talk())


def test_a_live_interaction_is_gone_on_with_and_completed(secure: Secure, emulator: Emulator) -> None:
    async def talk() -> None:
        asked = client(secure)
        made = await asked.aio.interactions.create(model="house-model", input="Say hello", background=True)
        said = ""
        async with asked.aio.interactions.connect(made.id) as live:
            await live.send("And again")
            async for event in live.receive():
                if event.event_type == "step.delta" and event.delta.type == "text":
                    said += event.delta.text
                if event.event_type == "step.stop" and said:
                    await live.complete()
                if event.event_type == "interaction.completed":
                    assert event.usage.total_tokens > 0
        assert '"And again"' in said
        assert (await asked.aio.interactions.get(made.id)).status == "completed"

    asyncio.run(talk())
    (entry,) = [one for one in emulator.log("gemini-2.5-pro") if one["rpc"] == "LiveInteraction"]
    (created,) = [one for one in emulator.log("gemini-2.5-pro") if one["rpc"] == "CreateInteraction"]
    assert entry["account"] == created["account"]


def test_music(secure: Secure) -> None:
    async def listen() -> None:
        async with client(secure).aio.live.music.connect(model="models/lyria-realtime-exp") as s:
            await s.set_weighted_prompts([types.WeightedPrompt(text="jazz", weight=1.0)])
            await s.play()
            async for message in s.receive():
                assert message.server_content is not None
                assert message.server_content.audio_chunks
                break

    asyncio.run(listen())


def test_vertex_mode(secure: Secure) -> None:
    async def talk() -> None:
        asked = genai.Client(
            vertexai=True,
            project="mine",
            location="us-central1",
            credentials=Credentials(CLIENT_KEY),  # type: ignore[no-untyped-call]
            http_options=types.HttpOptions(base_url=secure.url),
        )
        async with asked.aio.live.connect(model="gemini-live", config={"response_modalities": ["TEXT"]}) as s:
            text, usage = await turn(s)
            assert '"Say hello"' in text
            assert usage.response_token_count > 0

    asyncio.run(talk())


def test_node(node: Path, gateways: SessionGateway, emulator: Emulator) -> None:
    """Over plain HTTP, with the key in the query: as at the emulator, to the message."""
    calls = [["live", "gemini-live"], ["live", "emu-404"], ["live", "emu-wsclose-4002"]]
    through = run_node(node, gateways("api-key").url, *calls)
    direct = run_node(node, emulator.url, *calls)
    assert through == direct
    talked, refused, closed = (outcome["value"] for outcome in through)
    assert '"Say hello"' in "".join(
        part["text"]
        for m in talked["messages"]
        for part in m.get("serverContent", {}).get("modelTurn", {}).get("parts", ())
    ).replace('\\"', '"')
    assert refused["closed"][0] == 1008
    assert closed["closed"] == [4002, "The emulator was asked to close with 4002."]
    (unknown,) = run_node(node, gateways("api-key").url, ["live", "gemini-live"], key=f"{CANARY}-wrong")
    assert "401" in str(unknown["value"]["closed"])


def test_a_stop_is_announced_and_ends_in_order(new_gateway: GatewayFactory) -> None:
    """SIGTERM: goAway first, the session goes on, and 1001 when the patience is over; the exit status is 0."""
    running = new_gateway("api-key", accounts=1)
    url = running.url.replace("http", "ws") + DEVELOPER
    with connect(url, additional_headers={"x-goog-api-key": CLIENT_KEY}) as session:
        session.send(json.dumps({"setup": {"model": "models/gemini-live"}}))
        assert json.loads(session.recv()) == {"setupComplete": {}}
        running.twistd.process.send_signal(signal.SIGTERM)
        assert json.loads(session.recv()) == {"goAway": {"timeLeft": "30s"}}
        turns = [{"parts": [{"text": "Still there?"}]}]
        session.send(json.dumps({"clientContent": {"turns": turns, "turnComplete": True}}))
        while "turnComplete" not in str(session.recv()):
            pass
        running.twistd.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            session.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "The gateway is stopping.")
