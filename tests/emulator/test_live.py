"""Live sessions of the emulator: what they say to what they are told, without a socket and with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from agm.emulator import live
from agm.emulator.calls import Call
from agm.emulator.errors import GoogleError
from agm.emulator.live import Close, Session, say
from agm.emulator.replies import Cut, Fill, Hang, Reset, Send, Wait
from agm.emulator.site import answer, unlogged
from agm.emulator.state import State
from agm.emulator.websocket import BadFrame, Frames, accepted, close_frame, frame
from tests.emulator.conftest import Listening

DEVELOPER = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
CONSTRAINED = "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateContentConstrained"
MUSIC = "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateMusic"
VERTEX = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent"
FULL_NAME = "projects/p/locations/global/publishers/google/models/gemini-live"
HELLO = {"clientContent": {"turns": [{"role": "user", "parts": [{"text": "Hello"}]}], "turnComplete": True}}


class Talk:
    """A session, and what comes of each message."""

    def __init__(self, path: str = DEVELOPER, *, state: State | None = None, **headers: str) -> None:
        self.state = state or State(Clock())
        self.entry = unlogged(0)
        given = {"x-goog-api-key": "alice", **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.session = Session(Call("GET", path, {}, given), self.state, self.entry)

    def steps(self, document: Any) -> list[Any]:
        return list(self.session.received(json.dumps(document).encode()))

    def told(self, document: Any) -> list[Any]:
        """The documents that come of a message."""
        steps = self.steps(document)
        assert all(isinstance(step, Send) for step in steps), steps
        return [documented(step) for step in steps]

    def set_up(self, model: str = "models/gemini-live", **setup: Any) -> Talk:
        (complete,) = self.told({"setup": {"model": model, **setup}})
        assert "setupComplete" in complete
        return self


def documented(step: Any) -> Any:
    data = step.data
    at = 2 if data[1] < 126 else 4 if data[1] == 126 else 10
    assert data[0] == 0x82, "Google's messages are in binary frames"
    return json.loads(data[at:])


def text_of(messages: list[Any]) -> str:
    turns = [message["serverContent"]["modelTurn"] for message in messages if "modelTurn" in str(message)]
    return "".join(part.get("text", "") for turn in turns for part in turn["parts"])


def test_a_turn_is_answered_in_pieces_and_counted() -> None:
    messages = Talk().set_up().told(HELLO)
    assert '"Hello"' in text_of(messages)
    assert len(messages) > 3
    assert messages[-2] == {"serverContent": {"generationComplete": True}}
    assert messages[-1]["serverContent"] == {"turnComplete": True}
    usage = messages[-1]["usageMetadata"]
    assert usage["promptTokenCount"] == 2
    assert usage["responseTokenCount"] > 0
    assert "candidatesTokenCount" not in usage


def test_both_spellings_are_read_and_the_conversation_goes_on() -> None:
    talk = Talk().set_up()
    talk.told({"client_content": {"turns": [{"parts": [{"text": "My name is Ada"}]}], "turn_complete": True}})
    again = talk.told(HELLO)
    assert "My name is Ada" in text_of(again)
    assert talk.told({"clientContent": {"turns": [{"parts": [{"text": "x"}]}]}}) == []


def test_vertex_wants_the_full_name_and_counts_in_its_own_words() -> None:
    talk = Talk(VERTEX, authorization="Bearer t1").set_up(FULL_NAME)
    usage = talk.told(HELLO)[-1]["usageMetadata"]
    assert usage["candidatesTokenCount"] > 0
    assert talk.entry.model == "gemini-live"
    with pytest.raises(GoogleError):
        Talk(VERTEX, authorization="Bearer expired")
    assert Talk(VERTEX, authorization="Bearer t").steps({"setup": {"model": "models/x"}})[0].code == 1007


def test_audio_is_heard_and_spoken() -> None:
    config = {"generationConfig": {"responseModalities": ["AUDIO"]}}
    talk = Talk().set_up(inputAudioTranscription={}, outputAudioTranscription={}, **config)
    assert talk.told({"realtimeInput": {"audio": {"mimeType": "audio/pcm;rate=16000", "data": "AAAA"}}}) == []
    messages = talk.told({"realtimeInput": {"audioStreamEnd": True}})
    assert messages[0]["serverContent"]["inputTranscription"]["text"] == "(3 bytes of speech)"
    blobs = [
        p["inlineData"] for m in messages if "inlineData" in str(m) for p in m["serverContent"]["modelTurn"]["parts"]
    ]
    assert len(blobs) == 2
    assert blobs[0]["mimeType"] == "audio/pcm;rate=24000"
    assert any("outputTranscription" in m["serverContent"] for m in messages if "serverContent" in m)
    assert text_of(Talk().set_up().told({"realtime_input": {"text": "Hi"}})).count('"Hi"') == 1


def test_functions_are_called_and_their_answers_quoted() -> None:
    talk = Talk().set_up(tools=[{"functionDeclarations": [{"name": "get_weather"}]}])
    (call,) = talk.told(HELLO)
    (function,) = call["toolCall"]["functionCalls"]
    assert function["name"] == "get_weather"
    response = {"id": function["id"], "name": "get_weather", "response": {"sky": "blue"}}
    assert '"sky": "blue"' in text_of(talk.told({"toolResponse": {"functionResponses": [response]}}))


def test_a_session_is_resumed_by_its_account_only() -> None:
    talk = Talk().set_up(sessionResumption={})
    update = talk.told(HELLO)[-1]["sessionResumptionUpdate"]
    assert update["resumable"]
    resumption = {"sessionResumption": {"handle": update["newHandle"]}}
    again = Talk(state=talk.state).set_up(**resumption)
    assert '"Hello"; this is your turn 2' in text_of(again.told(HELLO))
    other = Talk(state=talk.state, x_goog_api_key="bob")
    (close,) = other.steps({"setup": {"model": "models/gemini-live", **resumption}})
    assert close == Close(1008, "BidiGenerateContent session not found")


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("emu-400", 1007, "Request contains"),
        ("emu-404", 1008, "models/emu-404 is not found for API version v1beta, or is not supported for bidiGenerate"),
        ("emu-429", 1011, "You exceeded your current quota"),
        ("emu-503", 1011, "This model is currently"),
    ],
)
def test_a_refused_setup_is_a_close_code_with_googles_words(model: str, code: int, reason: str) -> None:
    (close,) = Talk().steps({"setup": {"model": f"models/{model}"}})
    assert close.code == code
    assert close.reason.startswith(reason)


def test_what_is_no_setup_and_a_bad_key_are_refused() -> None:
    assert Talk().steps(HELLO)[0].code == 1007
    assert Talk().steps({"setup": {"model": "models/m", "nonsense": 1}})[0].code == 1007
    assert Talk().set_up().steps({"setup": {"model": "models/m"}})[0].code == 1007
    assert Talk().session.received(b"{")[0].code == 1007  # type: ignore[union-attr]
    (close,) = Talk(x_goog_api_key="bad-key-1").steps({"setup": {"model": "models/m"}})
    assert (close.code, close.reason[:21]) == (1007, "API key not valid. Pl")


@pytest.mark.parametrize(
    ("model", "last", "messages"),
    [
        ("emu-cut", Cut, 1),
        ("emu-drop-2", Cut, 2),
        ("emu-rst-0", Reset, 0),
        ("emu-hang-1", Hang, 1),
        ("emu-midstream", Close, 1),
        ("emu-wsclose-4001", Close, 1),
        ("emu-halfframe", Cut, 2),
        ("emu-goaway-3", Close, 6),
        ("emu-slow", Wait, 5),
    ],
)
def test_faults_come_in_the_answer(model: str, last: type, messages: int) -> None:
    steps = Talk().set_up(f"models/{model}").steps(HELLO)
    assert isinstance(steps[-1], last)
    assert sum(isinstance(step, Send) for step in steps) == messages


def test_faults_before_setup_is_complete() -> None:
    setup = {"setup": {"model": "models/emu-close"}}
    assert Talk().steps(setup) == [Cut()]
    assert Talk().steps({"setup": {"model": "models/emu-hang"}}) == [Hang()]
    assert Talk().steps({"setup": {"model": "models/emu-latency-50"}})[0] == Wait(0.05)
    steps = Talk().set_up("models/emu-giant-1").steps(HELLO)
    assert isinstance(steps[0], Fill)
    assert steps[0].count == 16


def test_a_token_is_made_by_a_key_and_used_once() -> None:
    state = State(Clock())
    body = {"uses": 1, "bidiGenerateContentSetup": {"model": "models/locked"}}
    call = Call("POST", "/v1alpha/auth_tokens", {}, {"x-goog-api-key": "alice"}, json.dumps(body).encode())
    made = json.loads(answer(call, state, unlogged(0)).steps[0].data)  # type: ignore[union-attr]
    assert made["name"].startswith("auth_tokens/")
    talk = Talk(CONSTRAINED, state=state, authorization=f"Token {made['name']}").set_up("models/asked")
    assert (talk.entry.account, talk.entry.model) == ("alice", "locked")
    again = Talk(CONSTRAINED, state=state, authorization=f"Token {made['name']}")
    assert again.steps({"setup": {"model": "models/asked"}})[0].code == 1008


def test_a_token_ends() -> None:
    state = State(Clock())
    name = live.new_token(b'{"uses": 0}', state.account_named("alice"), state)["name"]
    Talk(CONSTRAINED, state=state, authorization=f"Token {name}").set_up()
    state.clock.advance(61)
    talk = Talk(CONSTRAINED, state=state, authorization=f"Token {name}")
    assert talk.steps({"setup": {"model": "models/m"}})[0].code == 1008
    with pytest.raises(GoogleError):
        live.new_token(b'{"expireTime": "soon"}', state.account_named("alice"), state)


def test_music_plays() -> None:
    talk = Talk(MUSIC).set_up("models/lyria-realtime-exp")
    prompts = [{"text": "jazz", "weight": 1.0}, {"text": "emu-filter this", "weight": 1.0}]
    (filtered,) = talk.told({"clientContent": {"weightedPrompts": prompts}})
    assert filtered["filteredPrompt"]["text"] == "emu-filter this"
    assert talk.told({"musicGenerationConfig": {"bpm": 120}}) == []
    pieces = talk.told({"playbackControl": "PLAY"})
    assert len(pieces) == 3
    assert pieces[0]["serverContent"]["audioChunks"][0]["mimeType"] == "audio/l16;rate=48000;channels=2"
    assert talk.told({"playbackControl": "STOP"}) == []
    assert talk.steps({"nonsense": {}})[0].code == 1007


def test_the_same_session_has_the_same_bytes() -> None:
    assert Talk().set_up().steps(HELLO) == Talk().set_up().steps(HELLO)


def test_frames_are_read_and_written() -> None:
    masked = b"\x01\x82abcd" + bytes((ord("h") ^ ord("a"), ord("i") ^ ord("b")))
    frames = Frames()
    assert frames.feed(masked[:3]) == []
    assert frames.feed(masked[3:] + b"\x89\x80abcd") == [live_message(9, b"")]
    assert frames.feed(b"\x80\x81abcd" + bytes((ord("!") ^ ord("a"),))) == [live_message(1, b"hi!")]
    for bad in (b"\x81\x02hi", b"\xc1\x80abcd", b"\x80\x80abcd", b"\x09\x80abcd", b"\x82\xff\x7f" + b"\xff" * 7):
        with pytest.raises(BadFrame):
            Frames().feed(bad)
    assert accepted("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert len(close_frame(1011, "ü" * 200)) <= 127
    assert frame(2, b"x" * 70_000)[:2] == b"\x82\x7f"
    assert say({}).data == b"\x82\x03{}\n"


def live_message(opcode: int, payload: bytes) -> Any:
    from agm.emulator.websocket import Message

    return Message(opcode, payload)


@pytest_twisted.ensureDeferred
async def test_a_session_on_a_socket(running: Listening) -> None:
    """Handshake, messages, a ping, the close codes of both sides, and the log."""

    def talk() -> list[Any]:
        found: list[Any] = []
        url = running.url.replace("http", "ws")
        with connect(f"{url}/{DEVELOPER}?key=alice") as socket:
            socket.send(json.dumps({"setup": {"model": "models/gemini-live"}}))
            found.append(json.loads(socket.recv()))
            assert socket.ping().wait(5)
            socket.send(json.dumps(HELLO))
            while "turnComplete" not in (message := json.loads(socket.recv())).get("serverContent", {}):
                found.append(message)
        with connect(url + DEVELOPER, additional_headers={"x-goog-api-key": "alice"}) as socket:
            socket.send(json.dumps({"setup": {"model": "models/emu-429"}}))
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv()
            assert closed.value.rcvd is not None
            found.append((closed.value.rcvd.code, closed.value.rcvd.reason[:31]))
        with connect(url + DEVELOPER, additional_headers={"x-goog-api-key": "alice"}) as socket:
            socket.send(json.dumps({"setup": {"model": "models/emu-slow"}}))
            socket.recv()
            socket.send(json.dumps(HELLO))
            socket.recv()
            socket.send(json.dumps(HELLO))
            found.append(json.loads(socket.recv()))
        return found

    found = await deferToThread(talk)
    assert found[0] == {"setupComplete": {}}
    assert found[-2] == (1011, "You exceeded your current quota")
    assert found[-1] == {"serverContent": {"interrupted": True}}
    first = running.entries[0]
    assert (first.status, first.account, first.model, first.rpc, first.finished) == (
        *(101, "alice", "gemini-live", "BidiGenerateContent", True),
    )
    assert b"setup" in first.body


@pytest_twisted.ensureDeferred
async def test_what_opens_no_socket_is_404(running: Listening) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    def get() -> int:
        try:
            return int(urlopen(running.url + DEVELOPER).status)
        except HTTPError as e:
            return e.code

    assert await deferToThread(get) == 404
