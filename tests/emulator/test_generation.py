"""Every fault, on all three kinds and in every framing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agm.emulator import framing
from agm.emulator.faults import FAULTS, STATUSES
from agm.emulator.generation import split_inside_characters
from agm.emulator.replies import Cut, Fill, Hang, Reset, Send, Wait
from tests.emulator.dialogue import HELLO, KINDS, Answered, Dialogue, text_of

kinds = pytest.mark.parametrize("kind", KINDS)


def unary(emu: Dialogue, kind: str, model: str, body: Any = None) -> Answered:
    return emu.model(kind, model, body=body)


def sse(emu: Dialogue, kind: str, model: str, body: Any = None) -> Answered:
    return emu.model(kind, model, "streamGenerateContent", body, alt="sse")


def array(emu: Dialogue, kind: str, model: str, body: Any = None) -> Answered:
    return emu.model(kind, model, "streamGenerateContent", body)


def unwrapped(document: Any) -> Any:
    return document.get("response", document)


# -- without a fault


@kinds
def test_a_unary_answer(emu: Dialogue, kind: str) -> None:
    """Pretty JSON with its length; code-assist's in an envelope."""
    answered = unary(emu, kind, "gemini-2.5-flash")
    assert answered.status == 200
    assert answered.header("content-type") == "application/json; charset=UTF-8"
    assert answered.reply.length == len(answered.body)
    assert answered.body == framing.unary(answered.json)
    assert '"Hello <there>"' in text_of([answered.json])
    assert ("traceId" in answered.json) == (kind == "code-assist")


@kinds
def test_a_stream_of_events(emu: Dialogue, kind: str) -> None:
    """Chunked, each event in a write of its own."""
    answered = sse(emu, kind, "gemini-2.5-flash")
    assert answered.header("content-type") == "text/event-stream"
    assert answered.reply.length is None
    encode = framing.compact if kind == "code-assist" else framing.one_line
    for step in answered.reply.steps:
        if isinstance(step, Send):
            assert step.data == b"data: " + encode(json.loads(step.data[6:])) + b"\r\n\r\n"
    assert [step for step in answered.reply.steps if isinstance(step, Wait)] == [Wait(0)] * (len(answered.events) - 1)
    assert answered.text == text_of([unary(emu, kind, "gemini-2.5-flash").json])


@kinds
def test_a_stream_as_an_array(emu: Dialogue, kind: str) -> None:
    """Without ``alt=sse``; the same documents."""
    answered = array(emu, kind, "gemini-2.5-flash")
    assert answered.header("content-type") == "application/json; charset=UTF-8"
    assert answered.body.startswith(b"[{\n")
    assert answered.body.endswith(b"}\n]")
    assert answered.body.count(b"}\n,\r\n{") == len(answered.json) - 1
    assert [unwrapped(document) for document in answered.json] == sse(emu, kind, "gemini-2.5-flash").events


def test_enums_as_numbers(emu: Dialogue) -> None:
    """``$alt=json;enum-encoding=int``, as google-generativeai asks."""
    path = "/v1beta/models/m:streamGenerateContent?$alt=json;enum-encoding=int"
    assert emu.ask("POST", path, HELLO).json[-1]["candidates"][0]["finishReason"] == 1
    answered = emu.ask("POST", "/v1beta/models/m:generateContent?$alt=json;enum-encoding=int", HELLO)
    assert answered.json["usageMetadata"]["promptTokensDetails"][0]["modality"] == 1


def test_compact_unary_json_on_request(emu: Dialogue) -> None:
    """``prettyPrint=false``."""
    assert b"\n" not in emu.ask("POST", "/v1beta/models/m:generateContent?prettyPrint=false", HELLO).body


# -- errors in place of an answer


@kinds
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_emu_status(emu: Dialogue, kind: str, status: int) -> None:
    """Every call fails, in every framing, and without Retry-After."""
    for answered in (
        unary(emu, kind, f"emu-{status}"),
        sse(emu, kind, f"emu-{status}"),
        array(emu, kind, f"emu-{status}"),
    ):
        assert answered.status == answered.error["code"] == status
        assert answered.header("retry-after") is None
        assert (answered.header("x-cloudaicompanion-trace-id") is not None) == (kind == "code-assist")


@kinds
def test_errors_of_streams_are_arrays_where_google_has_it_so(emu: Dialogue, kind: str) -> None:
    """Always on code-assist, elsewhere without ``alt=sse``."""
    assert isinstance(unary(emu, kind, "emu-503").json, dict)
    assert isinstance(sse(emu, kind, "emu-503").json, list) == (kind == "code-assist")
    assert isinstance(array(emu, kind, "emu-503").json, list)
    assert array(emu, kind, "emu-503").body.endswith(b"}\n]")


@kinds
@pytest.mark.parametrize(
    "name",
    ["429rpm-9", "429day", "429nodetails", "quota-9", "capacity429", "capacity503", "403validation", "403disabled"],
)
def test_emu_errors_with_details(emu: Dialogue, kind: str, name: str) -> None:
    """Their status is in their name, but for the quota."""
    answered = unary(emu, kind, f"emu-{name}")
    wanted = next((int(digits) for digits in ("429", "403", "503") if digits in name), 429)
    assert answered.status == answered.error["code"] == wanted


@kinds
def test_status_faults_reach_every_method(emu: Dialogue, kind: str) -> None:
    """countTokens too; faults of generation do not."""
    assert emu.model(kind, "emu-503", "countTokens", {"contents": HELLO["contents"]}).status == 503
    assert emu.model(kind, "emu-cut", "countTokens", {"contents": HELLO["contents"]}).json["totalTokens"] == 4


def test_status_faults_reach_embeddings_and_pictures(emu: Dialogue) -> None:
    """All methods of a model."""
    for method in ("embedContent", "batchEmbedContents", "predict"):
        assert emu.model("api-key", "emu-429rpm", method, {}).status == 429


def test_emu_once(emu: Dialogue) -> None:
    """The first call of that very name only."""
    assert [unary(emu, "api-key", "emu-503-once-a").status for _ in range(3)] == [503, 200, 200]
    assert unary(emu, "vertex", "emu-503-once-a").status == 200
    assert unary(emu, "api-key", "emu-503-once-b").status == 503
    assert sse(emu, "api-key", "emu-emptystream-once-c").body == b""
    assert sse(emu, "api-key", "emu-emptystream-once-c").body != b""


@kinds
def test_emu_errarray(emu: Dialogue, kind: str) -> None:
    """An array even where Google has none."""
    for call in (unary, sse, array):
        answered = call(emu, kind, "emu-errarray")
        assert answered.status == 503
        assert answered.json[0]["error"]["code"] == 503
    assert unary(emu, kind, "emu-errarray-429").status == 429


# -- streams that end badly


@kinds
@pytest.mark.parametrize(("name", "count"), [("cut", 1), ("drop-0", 0), ("drop-3", 3)])
def test_emu_cut_and_drop(emu: Dialogue, kind: str, name: str, count: int) -> None:
    """So many good events without a finish, then the end of the connection."""
    answered = sse(emu, kind, f"emu-{name}")
    assert len(answered.events) == count
    assert answered.reply.steps[-1] == Cut()
    assert not any("finishReason" in document["candidates"][0] for document in answered.events)
    broken = array(emu, kind, f"emu-{name}")
    assert broken.reply.steps[-1] == Cut()
    assert not broken.body.endswith(b"]")


@kinds
@pytest.mark.parametrize("count", [0, 2])
def test_emu_rst(emu: Dialogue, kind: str, count: int) -> None:
    """As drop, with a reset, once what came before has left."""
    answered = sse(emu, kind, f"emu-rst-{count}")
    assert len(answered.events) == count
    assert answered.reply.steps[-1] == Reset()
    assert answered.waits


@kinds
@pytest.mark.parametrize(("name", "last"), [("cut", Cut()), ("drop-5", Cut()), ("rst-5", Reset())])
def test_a_unary_answer_breaks_off_halfway(emu: Dialogue, kind: str, name: str, last: object) -> None:
    """With more bytes announced than come."""
    answered = unary(emu, kind, f"emu-{name}")
    assert answered.reply.length is not None
    assert len(answered.body) == answered.reply.length // 2
    assert answered.reply.steps[-1] == last


@kinds
def test_emu_midstream_and_errdata(emu: Dialogue, kind: str) -> None:
    """Good events, then one with an error, and an orderly end."""
    for name, count in (("midstream", 1), ("errdata-2", 2), ("errdata-0", 0)):
        answered = sse(emu, kind, f"emu-{name}")
        assert [next(iter(event)) for event in answered.events] == ["candidates"] * count + ["error"]
        assert answered.events[-1]["error"]["code"] == 503
        assert list(map(type, answered.reply.steps))[-1] is Send
        as_array = array(emu, kind, f"emu-{name}").json
        assert [next(iter(unwrapped(document))) for document in as_array] == ["candidates"] * count + ["error"]
        assert unary(emu, kind, f"emu-{name}").status == 503


@kinds
def test_emu_errtail(emu: Dialogue, kind: str) -> None:
    """Good events, then a bare pretty-printed document."""
    events, tail = sse(emu, kind, "emu-errtail-2").body.rsplit(b"\r\n\r\n", 1)
    assert events.count(b"data: ") == 2
    assert tail.startswith(b'{\n  "error": {\n')
    assert tail.endswith(b"}\n")
    assert "error" in array(emu, kind, "emu-errtail-2").json[-1]
    assert unary(emu, kind, "emu-errtail-2").status == 503


@kinds
def test_emu_emptystream(emu: Dialogue, kind: str) -> None:
    """200 and nothing."""
    assert (sse(emu, kind, "emu-emptystream").status, sse(emu, kind, "emu-emptystream").body) == (200, b"")
    assert array(emu, kind, "emu-emptystream").body == b"[]"
    assert unary(emu, kind, "emu-emptystream").reply.length == 0


@kinds
def test_emu_hang(emu: Dialogue, kind: str) -> None:
    """Nothing at all, or silence after some events."""
    assert sse(emu, kind, "emu-hang").reply.steps == (Hang(),)
    assert unary(emu, kind, "emu-hang").reply.steps == (Hang(),)
    assert emu.model(kind, "emu-hang", "countTokens").reply.steps == (Hang(),)
    some = sse(emu, kind, "emu-hang-2")
    assert len(some.events) == 2
    assert some.reply.steps[-1] == Hang()
    assert sse(emu, kind, "emu-hang-0").reply.steps == (Send(b""), Hang())
    half = unary(emu, kind, "emu-hang-1")
    assert half.reply.length is not None
    assert len(half.body) == half.reply.length // 2


@kinds
def test_emu_close(emu: Dialogue, kind: str) -> None:
    """Not even a status line."""
    assert unary(emu, kind, "emu-close").reply.steps == (Cut(),)


# -- pace and size


@kinds
def test_emu_latency(emu: Dialogue, kind: str) -> None:
    """The wait is before the status line, for every method."""
    for method in ("generateContent", "streamGenerateContent", "countTokens"):
        answered = emu.model(kind, "emu-latency-250", method, alt="sse")
        assert answered.reply.steps[0] == Wait(0.25)
        assert answered.body


@kinds
def test_emu_ttft(emu: Dialogue, kind: str) -> None:
    """The wait is behind the headers."""
    for call in (unary, sse, array):
        assert call(emu, kind, "emu-ttft-250").reply.steps[:2] == (Send(b""), Wait(0.25))


@kinds
def test_emu_slow(emu: Dialogue, kind: str) -> None:
    """Four events, three pauses."""
    answered = sse(emu, kind, "emu-slow")
    assert len(answered.events) == 4
    assert answered.waits == [0.7, 0.7, 0.7]
    assert answered.events[-1]["candidates"][0]["finishReason"] == "STOP"
    assert len(array(emu, kind, "emu-slow").json) == 4
    assert sum(unary(emu, kind, "emu-slow").waits) == pytest.approx(2.1)


@kinds
@pytest.mark.parametrize("size", [1, 7])
def test_emu_drip(emu: Dialogue, kind: str, size: int) -> None:
    """The normal bytes in small writes."""
    for call in (unary, sse, array):
        answered = call(emu, kind, f"emu-drip-{size}")
        assert all(len(step.data) <= size for step in answered.reply.steps if isinstance(step, Send))
        assert b"finishReason" in answered.body
        assert answered.reply.length in (None, len(answered.body))


@kinds
@pytest.mark.parametrize("count", [1, 40])
def test_emu_chunks(emu: Dialogue, kind: str, count: int) -> None:
    """So many events, each with its number."""
    events = sse(emu, kind, f"emu-chunks-{count}").events
    assert [text_of([event]) for event in events] == [
        f"This is piece {index + 1:7} of {count:7}. " for index in range(count)
    ]
    assert "finishReason" in events[-1]["candidates"][0]
    assert text_of([unary(emu, kind, f"emu-chunks-{count}").json]) == text_of(events)


@kinds
@pytest.mark.parametrize("mebibytes", ["1", "0.25"])
def test_emu_giant(emu: Dialogue, kind: str, mebibytes: str) -> None:
    """So much text, of which one event is ever held; the finish comes last."""
    for call in (sse, array):
        answered = call(emu, kind, f"emu-giant-{mebibytes}")
        text = answered.text
        assert text.count("x") == float(mebibytes) * 2**20
        assert text.endswith(".")
        assert sum(len(step.data) for step in answered.reply.steps if isinstance(step, Send)) < 150_000
        assert isinstance(answered.reply.steps[1], Fill)
        documents = answered.events if call is sse else [unwrapped(one) for one in answered.json]
        reasons = [document["candidates"][0].get("finishReason") for document in documents]
        assert reasons == [None] * (len(reasons) - 1) + ["STOP"]


@kinds
@pytest.mark.parametrize("name", ["bigunary", "giant"])
def test_emu_bigunary(emu: Dialogue, kind: str, name: str) -> None:
    """One document of so much text, with its exact length."""
    answered = unary(emu, kind, f"emu-{name}-2")
    assert answered.reply.length == len(answered.body)
    assert text_of([answered.json]) == "x" * (2 * 2**20)
    assert sse(emu, kind, "emu-bigunary-1").text.count("x") == 2**20


# -- events that Google does not write


@kinds
def test_emu_badjson(emu: Dialogue, kind: str) -> None:
    """The second of three events is half a document."""
    events = sse(emu, kind, "emu-badjson").body.split(b"\r\n\r\n")
    assert json.loads(events[0][6:])
    assert json.loads(events[2][6:])
    with pytest.raises(json.JSONDecodeError):
        json.loads(events[1][6:])
    for answered in (array(emu, kind, "emu-badjson"), unary(emu, kind, "emu-badjson")):
        with pytest.raises(json.JSONDecodeError):
            json.loads(answered.body)
    broken = unary(emu, kind, "emu-badjson")
    assert broken.reply.length == len(broken.body)


@kinds
def test_emu_noblank(emu: Dialogue, kind: str) -> None:
    """Only the last event lacks its blank line."""
    body = sse(emu, kind, "emu-noblank").body
    assert body.endswith(b"}\r\n")
    assert not body.endswith(b"\r\n\r\n")
    assert b"\r\n\r\ndata: " in body
    assert unary(emu, kind, "emu-noblank").body.endswith(b"}")


@kinds
def test_emu_lf(emu: Dialogue, kind: str) -> None:
    """No carriage return anywhere."""
    body = sse(emu, kind, "emu-lf").body
    assert b"\r" not in body
    assert body.endswith(b"}\n\n")


@kinds
def test_emu_done(emu: Dialogue, kind: str) -> None:
    """OpenAI's mark at the end of a good stream."""
    body = sse(emu, kind, "emu-done").body
    assert body.endswith(b"}\r\n\r\ndata: [DONE]\r\n\r\n")
    assert b"DONE" not in array(emu, kind, "emu-done").body


@kinds
def test_emu_multiline(emu: Dialogue, kind: str) -> None:
    """The data lines of an event join to its document."""
    events = sse(emu, kind, "emu-multiline").body.split(b"\r\n\r\n")[:-1]
    for event in events:
        lines = event.split(b"\r\n")
        assert len(lines) > 10
        assert json.loads(b"\n".join(line.removeprefix(b"data: ") for line in lines))


@kinds
def test_emu_splitutf8(emu: Dialogue, kind: str) -> None:
    """Every write but the last ends inside of a character."""
    for call in (sse, array, unary):
        answered = call(emu, kind, "emu-splitutf8")
        assert "世界你好" in answered.text
        writes = [step.data for step in answered.reply.steps if isinstance(step, Send)]
        assert len(writes) > 20
        sent = b""
        for data in writes[:-1]:
            sent += data
            with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
                sent.decode()


def test_splitting_loses_nothing() -> None:
    """A text without such characters stays whole."""
    assert split_inside_characters(b"abc") == [b"abc"]
    assert split_inside_characters("aé世b".encode()) == [b"a\xc3", b"\xa9\xe4", b"\xb8\x96b"]


@kinds
def test_emu_nofinish(emu: Dialogue, kind: str) -> None:
    """A stream that simply stops saying things."""
    for call in (sse, array, unary):
        answered = call(emu, kind, "emu-nofinish")
        assert b"finishReason" not in answered.body
        assert "Hello" in text_of(
            answered.events if call is sse else [answered.json] if call is unary else answered.json
        )


@kinds
def test_emu_emptyparts(emu: Dialogue, kind: str) -> None:
    """The finishing event has nothing to say."""
    events = sse(emu, kind, "emu-emptyparts").events
    assert events[-1]["candidates"][0]["content"] == {"role": "model"}
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"
    assert not any("finishReason" in event["candidates"][0] for event in events[:-1])
    assert "Hello" in text_of(events)
    assert unwrapped(unary(emu, kind, "emu-emptyparts").json)["candidates"][0]["content"] == {"role": "model"}


@kinds
def test_emu_blockprompt(emu: Dialogue, kind: str) -> None:
    """One document without candidates."""
    for documents in (
        sse(emu, kind, "emu-blockprompt").events,
        [unwrapped(one) for one in array(emu, kind, "emu-blockprompt").json],
        [unwrapped(unary(emu, kind, "emu-blockprompt").json)],
    ):
        assert [document["promptFeedback"]["blockReason"] for document in documents] == ["SAFETY"]
        assert "candidates" not in documents[0]


def test_every_fault_has_its_test() -> None:
    """A fault without one in this file, or in that of sessions, would be a rumour."""
    source = Path(__file__).read_text() + Path(__file__).with_name("test_live.py").read_text()
    assert [name for name in FAULTS if f"emu-{name}" not in source and f'"{name}' not in source] == []
