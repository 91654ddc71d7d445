"""Streams, errors and creations of the Interactions API, as far as they are read."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from agm.core.wire import interactions
from agm.core.wire.answer_filters import StreamFailure
from agm.core.wire.interactions import EditedEvents, NamedEvents
from agm.core.wire.usage import INTERACTIONS, Usage, UsageWatch

CREATED = {"interaction": {"id": "v1_a", "status": "in_progress"}, "event_type": "interaction.created"}
DELTA = {"index": 0, "delta": {"text": 'say "error": {', "type": "text"}, "event_type": "step.delta"}
USAGE = {"total_tokens": 9, "total_input_tokens": 4, "total_output_tokens": 3, "total_thought_tokens": 2}
COMPLETED = {
    "interaction": {"id": "v1_a", "status": "completed", "usage": USAGE, "environment_id": "env_1"},
    "event_type": "interaction.completed",
}
ERROR = {"error": {"message": "canary-key is bad", "code": "gateway_timeout"}, "event_type": "error"}
DONE = b"event: done\ndata: [DONE]\n\n"


def framed(*events: dict[str, object], eol: bytes = b"\n") -> bytes:
    lines = [(f"event: {event['event_type']}".encode(), b"data: " + json.dumps(event).encode()) for event in events]
    return b"".join(name + eol + data + eol + eol for name, data in lines)


def fed(stream: bytes, cuts: list[int], kind: type = NamedEvents) -> tuple[bytes, NamedEvents, list[bytes]]:
    noted: list[bytes] = []
    redact = lambda data: data.replace(b"canary-key", b"[redacted]")  # noqa: E731 - a function of one line
    found = NamedEvents(noted.append, redact)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    out = b"".join(found.feed(stream[a:b]) for a, b in itertools.pairwise(places))
    return out + found.close(), found, noted


CUTS = st.lists(st.integers(0, 2000), max_size=12)


@given(CUTS, st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_passes_byte_for_byte_with_its_end(cuts: list[int], eol: bytes) -> None:
    stream = framed(CREATED, DELTA, COMPLETED, eol=eol) + DONE
    out, found, noted = fed(stream, cuts)
    assert out == stream
    assert found.failure is None
    assert not found.reported
    assert [json.loads(data) for data in noted[:-1]] == [CREATED, DELTA, COMPLETED]


@given(CUTS, st.sampled_from([b"\n", b"\r\n"]))
def test_a_later_error_passes_without_secrets_and_is_reported(cuts: list[int], eol: bytes) -> None:
    stream = framed(CREATED, ERROR, eol=eol) + DONE
    out, found, _ = fed(stream, cuts)
    assert out == stream.replace(b"canary-key", b"[redacted]")
    assert found.failure is None
    assert found.reported


@given(CUTS)
def test_an_error_in_the_first_place_is_a_failure(cuts: list[int]) -> None:
    out, found, _ = fed(framed(ERROR), cuts)
    assert out == b""
    assert found.failure is not None
    assert found.failure.code == 504
    assert not found.failure.foreign


@given(CUTS)
def test_a_bare_error_is_a_failure_wherever_it_stands(cuts: list[int]) -> None:
    bare = b'{\n  "error": {\n    "message": "busy",\n    "code": "service_unavailable"\n  }\n}\n'
    for before in (b"", framed(CREATED, DELTA)):
        out, found, _ = fed(before + bare, cuts)
        assert out == before
        assert found.failure is not None
        assert found.failure.code == 503


@given(st.sampled_from([b"<html>no</html>", b"[1, 2]", b'{"id": "v1_a"}', b"x" * 100]), CUTS)
def test_what_is_no_stream_is_nobodys_answer(page: bytes, cuts: list[int]) -> None:
    out, found, _ = fed(page, cuts)
    assert out == b""
    assert found.failure is not None
    assert found.failure.foreign


@given(CUTS)
def test_a_last_event_gets_its_blank_line(cuts: list[int]) -> None:
    stream = framed(CREATED, COMPLETED)
    for cut_off in (1, 2):
        assert fed(stream[:-cut_off], cuts)[0] == stream
    assert fed(framed(CREATED)[:-1], cuts)[0] == framed(CREATED)
    assert fed(framed(CREATED, ERROR)[:-1], cuts)[1].reported


def test_a_first_event_without_an_end_is_given_up() -> None:
    found = NamedEvents(lambda data: None)
    assert found.feed(b"event: x\ndata: " + b"y" * (interactions.MAX_FIRST + 1)) == b""
    assert found.failure is not None


def test_an_edited_stream_keeps_its_names() -> None:
    def change(data: bytes) -> bytes:
        return data.replace(b"say", b"SAY")

    noted: list[bytes] = []
    edited = EditedEvents(change, noted.append)
    out = edited.feed(framed(CREATED, DELTA)) + edited.feed(DONE) + edited.close()
    assert out == framed(CREATED, {**DELTA, "delta": {"text": 'SAY "error": {', "type": "text"}}) + DONE
    assert json.loads(noted[1]) == DELTA
    failed = EditedEvents(change, noted.append)
    assert failed.feed(framed(ERROR)) == b""
    assert failed.failure is not None
    assert failed.failure.code == 504


def test_an_error_event_is_in_this_apis_form() -> None:
    ours = interactions.error_event(StreamFailure.of(502, "The upstream broke off the answer."))
    assert ours == (
        b'event: error\ndata: {"error":{"message":"The upstream broke off the answer.","code":"bad_gateway"},'
        b'"event_type":"error"}\n\n'
    )
    theirs = interactions.error_event(StreamFailure.upstream(b'{"error":{"message":"m","code":"gateway_timeout"}}'))
    assert json.loads(theirs.partition(b"data: ")[2])["error"] == {"message": "m", "code": "gateway_timeout"}
    assert b"internal_error" in interactions.error_event(StreamFailure(b"no JSON", 599))


def test_what_a_stream_tells_of_its_account() -> None:
    video = {"delta": {"type": "video", "uri": "https://x/v1beta/files/abc:download?alt=media"}, "event_type": "step"}
    said = {"delta": {"type": "text", "text": '"uri": files/no'}, "event_type": "step.delta"}
    found = [
        list(interactions.names_in_event(json.dumps(event).encode())) for event in (CREATED, COMPLETED, video, said)
    ]
    assert found == [["interactions/v1_a"], ["interactions/v1_a", "environments/env_1"], ["files/abc"], []]


def test_a_creation_is_read_and_asked_of_another_model() -> None:
    body = b'{ "model" : "models/a", "input": ["x", 1.50], "stream":true,"store":false}'
    read = interactions.read_creation(body)
    assert read is not None
    assert (read.asks, read.stream, read.store) == ("a", True, False)
    assert interactions.with_model(body, "b") == b'{"model":"b","input":["x", 1.50],"stream":true,"store":false}'
    agent = interactions.read_creation(b'{"agent": "agents/mine", "model": null}')
    assert agent is not None
    assert agent.asks == "mine"
    assert interactions.read_creation(b"{") is None
    odd = interactions.read_creation(b'{"model": 7}')
    assert odd is not None
    assert odd.asks == ""


@given(st.lists(st.integers(0, 3000), max_size=6))
def test_tokens_are_counted_in_streams_and_documents(cuts: list[int]) -> None:
    noise = {"status": "unknown", "usage": {"cpu": 3}}
    call = {"step": {"type": "function_call", "arguments": noise}, "event_type": "step.start"}
    for answer in (framed(CREATED, call, COMPLETED) + DONE, json.dumps(COMPLETED["interaction"], indent=2).encode()):
        watch = UsageWatch(names=INTERACTIONS)
        places = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]
        for a, b in itertools.pairwise(places):
            watch.feed(answer[a:b])
        assert watch.read() == (Usage(prompt=4, output=3, thoughts=2, total=9), "completed")
