"""Answers on their way: what passes, what is changed, and what is known for an error, at every cut of the bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import Unavailable
from agm.core.wire import answer_filters as answers
from agm.core.wire.answer_filters import (
    AnswerFilter,
    CollectedBody,
    EventPipe,
    Framing,
    PlainArray,
    PlainBody,
    PlainDocument,
    PlainEvents,
    StreamFailure,
    error_event,
    plain_event,
)
from agm.core.wire.envelope import NotAnEnvelope, UpstreamError, unwrap
from agm.core.wire.sse import MAX_BARE
from tests.core.cuts import cut_at, cut_streams, every_cut, unhurried

ERROR = {"error": {"code": 503, "message": 'high demand \\ "{[" größe', "status": "UNAVAILABLE", "details": [{}]}}
COMPACT = json.dumps(ERROR, ensure_ascii=False, separators=(",", ":")).encode()
SPACED = json.dumps(ERROR, separators=(",", ": ")).encode()
PRETTY = json.dumps(ERROR, indent=2).encode()
GOOD = b'data: {"candidates": [{"content": {"parts": [{"text": "an \\"error\\": {\\"error\\": 1}"}]}}]}\r\n\r\n'


def run(filter_: AnswerFilter, chunks: Iterable[bytes]) -> bytes:
    """All that the client gets of an answer in chunks, which the upstream completes."""
    return b"".join([*map(filter_.feed, chunks), filter_.close()])


def failure_of(filter_: AnswerFilter) -> StreamFailure:
    """The failure of an answer that has one."""
    failure = filter_.failure
    assert failure is not None
    return failure


# -- Failures ----------------------------------------------------------------------------------------


def test_a_failure_of_our_own_is_google_rpc_status_on_one_line() -> None:
    """SDKs recognise a failing stream by the one key, which comes first."""
    failure = StreamFailure.of(502, "It broke.")
    assert failure.document == b'{"error":{"code":502,"message":"It broke.","status":"UNAVAILABLE"}}'
    assert failure.code == 502


def test_an_error_event_is_one_line_and_a_blank_line() -> None:
    """The last event of a broken answer is framed as Google frames events."""
    assert error_event(StreamFailure.upstream(b'{"error":{"code":429}}')) == b'data: {"error":{"code":429}}\r\n\r\n'


def test_a_failure_of_the_upstream_carries_its_code() -> None:
    """What the upstream said is what decides about another attempt."""
    assert StreamFailure.upstream(COMPACT) == StreamFailure(COMPACT, 503)


def test_a_failure_of_the_gateways_keeps_its_error() -> None:
    """Its reason and its wait reach the client."""
    error = Unavailable("No.", reason="PLUGIN_FAILED", retry_after=3.0)
    failure = StreamFailure.ours(error)
    assert failure.code == 503
    assert b"\n" not in failure.document
    assert json.loads(failure.document) == json.loads(error.body())


def test_an_edit_that_fails_ends_the_answer() -> None:
    """A plugin's mistake is told as such, in a stream and in a body."""

    def fail(document: bytes) -> bytes:
        raise Unavailable("The plugin failed.")

    for filter_ in (pipe(change=fail), CollectedBody(fail, limit=100)):
        assert run(filter_, [b"data: {}\n\n"]) == b""
        assert failure_of(filter_).document == StreamFailure.ours(Unavailable("The plugin failed.")).document


# -- Plain bodies ------------------------------------------------------------------------------------


def test_a_plain_body_passes_in_the_turn_in_which_it_comes() -> None:
    """Nothing is held, nothing is added."""
    body = PlainBody()
    assert [body.feed(b"{"), body.feed(b""), body.feed(b"}"), body.close()] == [b"{", b"", b"}", b""]
    assert body.failure is None


# -- Plain events ------------------------------------------------------------------------------------

_FRAGMENTS = st.sampled_from(
    [
        GOOD,
        b'data: {"a": 1}\n\n',
        b'data: {"text": "x"}\r\r',
        b"data:\r\n\r\n",
        b"data: [DONE]\r\n\r\n",
        b": data: {",
        b"data: {",
        b"dat",
        b'data: {"err',
        b'data: {"errors": 1}\n\n',
        b'data: {"error" 1}\n\n',
        b'  {"error": 1}\n',
        b'data: {"a": [{"error": 1}]}\n\n',
        b'{"er',
        b'{"candidates": []}\n',
        b"[\r\n",
        b"[1,2]\n",
        b"{\n",
        b"[{",
        b"\r",
        b"\n",
        b"\r\n",
        b'"error"',
        b" ",
        b":",
    ]
)
#: Anything but the opening of an error at the start of a line, behind a first event.
SOUND = (
    st.lists(_FRAGMENTS, max_size=10)
    .map(lambda fragments: b"data: 1\n\n" + b"".join(fragments))
    .filter(lambda s: not answers._ERROR_START.search(b"\n" + s))
)


def completed(stream: bytes) -> set[bytes]:
    """What may come of a stream: itself, or itself with its last blank line completed, if it lacks that."""
    if re.search(rb"(\r\n|\n|\r(?!\n))(\r\n|\n|\r)\Z", b"\n\n" + stream):
        return {stream}
    return {stream + end for end in (b"\n", b"\r\n", b"\r\n\r\n")}


@unhurried
@given(cut_streams(SOUND))
def test_plain_events_pass_byte_for_byte(case: tuple[bytes, list[bytes]]) -> None:
    """Whatever the stream holds and however it is cut; only a last blank line that is missing is added."""
    stream, chunks = case
    passing = PlainEvents()
    assert run(passing, chunks) in completed(stream)
    assert passing.failure is None


@unhurried
@given(cut_streams(st.lists(_FRAGMENTS | st.sampled_from([b"data: " + COMPACT, PRETTY, b"\n"])).map(b"".join)))
def test_no_cut_changes_what_becomes_of_a_stream(case: tuple[bytes, list[bytes]]) -> None:
    """Errors among sound and unsound lines are found at every cut, or at none; what passes before is the same."""
    stream, chunks = case
    whole, cut = PlainEvents(), PlainEvents()
    assert run(whole, [stream]) == run(cut, chunks)
    assert whole.failure == cut.failure


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(b"data: " + SPACED + b"\r\n\r\n", id="event"),
        pytest.param(b"data:" + COMPACT + b"\n\n", id="event, tight"),
        pytest.param(b'data: \t{ "error" : {}}\n\n', id="event, wide"),
        pytest.param(b"data: " + SPACED, id="event without an end"),
        pytest.param(b"data: [" + SPACED + b"]\r\n\r\n", id="array in an event"),
        pytest.param(b"data: " + PRETTY.replace(b'{\n  "error"', b'{"error"').replace(b"\n", b"\ndata: "), id="lines"),
        pytest.param(PRETTY + b"\n", id="bare"),
        pytest.param(PRETTY, id="bare without an end"),
        pytest.param(PRETTY.replace(b"\n", b"\r\n"), id="bare CRLF"),
        pytest.param(COMPACT, id="bare on one line"),
        pytest.param(b"[" + PRETTY + b"\n]", id="array"),
        pytest.param(b"[\n" + PRETTY + b"\n]\n", id="array with line ends"),
        pytest.param(b"[" + COMPACT + b",{}]", id="array with more in it"),
        pytest.param(PRETTY + b"\r\n\r\n" + GOOD, id="bare with something after it"),
        pytest.param(b"data: " + COMPACT + b"\r\n\r\n" + GOOD, id="event with another after it"),
    ],
)
@pytest.mark.parametrize("before", [GOOD, GOOD + b": c\r\n", GOOD.replace(b"\r\n", b"\n"), b"", b"data: x\r\r"])
def test_an_error_in_a_stream_is_found_at_every_cut_and_never_passed_on(before: bytes, error: bytes) -> None:
    """What came before it has passed; nothing of the error has, nor anything after it."""
    for chunks in every_cut(before + error):
        passing = PlainEvents()
        assert run(passing, chunks) == before
        failure = failure_of(passing)
        assert json.loads(failure.document)["error"].keys() in (ERROR["error"].keys(), {}.keys())
        assert b"\n" not in failure.document
        assert b"\r" not in failure.document
        assert failure.document.startswith(b'{"error":')


@pytest.mark.parametrize(
    "stream",
    [
        GOOD,
        b'data: {"errors": [1]}\n\n' + GOOD,
        b'data: {"error": oops}\n\n' + GOOD,
        b'data: {"error": "a}"x}\n\n' + GOOD,
        b'data: {"error":}\n' * 5 + b"\n" + GOOD,
        b'data: {"x": {"error": {"code": 503}}}\r\n\r\n',
        b'data: x{"error": 1}\r\n\r\n',
        b'event: data: {"error": 1}\r\n\r\n',
        GOOD + b'dada: {"error": {}}\r\n\r\n',
        GOOD + b'{"candidates": []}\r\n\r\n',
        GOOD + b'{"error" 1}\n\n',
        GOOD + b'[{"candidates": []}\n,\r\n{}]\n\n',
        GOOD + b'{"error": {]}\n\n',
    ],
)
def test_what_only_looks_like_an_error_passes_unchanged_at_every_cut(stream: bytes) -> None:
    """A false alarm costs nothing, and later events are still looked at."""
    for chunks in every_cut(stream):
        passing = PlainEvents()
        assert run(passing, chunks) == stream
        assert passing.failure is None
    passing = PlainEvents()
    assert run(passing, [stream, b"data: ", COMPACT]) == stream
    assert failure_of(passing).document == COMPACT


@pytest.mark.parametrize(
    "start",
    [
        b"\xef\xbb\xbf",
        b"\n",
        b"\r\n\r",
        b": a comment\n",
        b":\r\n\r\n: another: one\r\n\r\n",
        b"event: message\n",
        b"id: 1\r",
        b"retry: 10\n",
        b"data\n",
        b"event\r\n",
    ],
)
def test_a_stream_begins_with_its_first_event_at_every_cut(start: bytes) -> None:
    """Comments and blank lines before it wait for it, and pass with it."""
    stream = start + GOOD
    for chunks in every_cut(stream):
        passing = PlainEvents()
        assert run(passing, chunks) == stream
        assert passing.failure is None


@pytest.mark.parametrize(
    "stream",
    [
        b"<!DOCTYPE html><title>Blocked</title>\n",
        b"Blocked: by policy\n\n",
        b"dada: {}\n\n",
        b"dat",
        b'{"candidates": []}\r\n\r\n',
        b'\n[{"candidates": []}]\n',
        b'{"error" 1}\n\n',
        b": comment\n\n<html>",
        b"\x1f\x8b\x08\x00",
        b'{"candidates": "' + b"x" * MAX_BARE,
        b": " + b"x" * 5000,
        b": x\n" * 20_000,
    ],
)
def test_what_does_not_begin_like_a_stream_of_events_is_none_of_googles(stream: bytes) -> None:
    """A page, a document in another framing, comments without end: nothing of it passes, however it is cut."""
    cuts = (
        every_cut(stream)
        if len(stream) < 100
        else [[stream], [stream[i : i + 999] for i in range(0, len(stream), 999)]]
    )
    for chunks in cuts:
        passing = PlainEvents()
        assert run(passing, chunks) == b""
        assert passing.failure is not None
        assert passing.failure.foreign


@pytest.mark.parametrize("stream", [b"", b"\n\n", b": comment", b": comment\n\n", b"\xef\xbb\xbf: one\r\n: two\r\n"])
def test_comments_alone_are_no_answer(stream: bytes) -> None:
    """As an empty stream: nothing passes."""
    for chunks in every_cut(stream):
        passing = PlainEvents()
        assert run(passing, chunks) == b""
        assert passing.failure is None


@pytest.mark.parametrize("body", [b"<html>", b" \n<html>", b"[1]", b"x", b"\x1f\x8b"])
def test_a_unary_answer_is_an_object(body: bytes) -> None:
    """Whatever else comes is none of Google's."""
    for chunks in every_cut(body):
        passing = PlainDocument()
        run(passing, chunks)
        assert passing.failure is not None
        assert passing.failure.foreign
    passing = PlainDocument()
    assert run(passing, [b" ", b'\n{"a": 1}', b"\n"]) == b' \n{"a": 1}\n'
    assert passing.failure is None


@pytest.mark.parametrize(
    "body", [b"<html><title>Blocked</title></html>", b'{"candidates": []}' + b" " * 80, b"x" * 100]
)
def test_a_streamed_array_is_an_array(body: bytes) -> None:
    """Whatever else comes is none of Google's."""
    for chunks in every_cut(body):
        passing = PlainArray()
        assert run(passing, chunks) == b""
        assert passing.failure is not None
        assert passing.failure.foreign


@pytest.mark.parametrize("error", [b"data: " + SPACED, PRETTY, b"[" + PRETTY, COMPACT])
def test_an_error_that_is_cut_short_is_a_failure_too(error: bytes) -> None:
    """A stream that ends in the middle of its error must not look complete to a client that ignores bare lines."""
    for length in range(error.index(b":", 6) + 1, len(error.rstrip(b"}")) + 1):
        passing = PlainEvents()
        assert run(passing, [GOOD, error[:length]]) == GOOD
        assert failure_of(passing).code == 502


def test_nothing_passes_after_a_failure() -> None:
    """The stream is over for the client, whatever the upstream still sends."""
    passing = PlainEvents()
    assert passing.feed(b"data: " + COMPACT + b"\r\n\r\n") == b""
    assert passing.feed(GOOD) == b""
    assert passing.close() == b""


def test_an_event_goes_out_in_the_turn_in_which_it_came_in() -> None:
    """Only what may still become an error is held back, and only until it cannot."""
    passing = PlainEvents()
    assert passing.feed(GOOD) == GOOD
    assert passing.feed(b'data: {"e') == b""
    assert passing.feed(b'x": 1}') == b'data: {"ex": 1}'
    assert passing.feed(b"\r\n") == b"\r\n"
    assert passing.feed(b"\r\n") == b"\r\n"
    assert passing.feed(b'{"candidates": [') == b'{"candidates": ['
    assert passing.feed(b'\n{ "error":') == b"\n"


def test_an_opening_without_end_is_not_held_for_ever() -> None:
    """Memory stays bounded: white space in an opening, and an error that never ends."""
    passing = PlainEvents()
    given_ = b"data: {" + b" " * 300
    assert b"".join(passing.feed(given_[i : i + 1]) for i in range(len(given_))) == given_
    passing = PlainEvents()
    endless = b'{"error": "' + b"x" * MAX_BARE
    assert passing.feed(GOOD) == GOOD
    assert passing.feed(endless[:-11]) == b""
    assert passing.feed(endless[-11:]) == endless
    assert passing.failure is None
    assert passing.feed(b'"}\n') == b'"}\n'


@pytest.mark.parametrize(
    ("stream", "added"),
    [
        (b"data: a\r\n\r\n", b""),
        (b"data: a\n\n", b""),
        (b"data: a\r\r", b""),
        (b"data: a\n\r\n", b""),
        (b"data: a\r\n\n", b""),
        (b"data: a\r\r\n", b""),
        (b"data: a\n\r", b""),
        (b"data: a\r\n\r", b""),
        (b"data: a\r\n", b"\r\n"),
        (b"data: a\n", b"\n"),
        (b"data: a\r", b"\r\n"),
        (b"data: a", b"\r\n\r\n"),
        (b"data: {", b"\r\n\r\n"),
        (b"", b""),
    ],
)
def test_a_missing_last_blank_line_is_completed(stream: bytes, added: bytes) -> None:
    """Half of the clients lose an event that has none; a stream that has one stays as it is."""
    for chunks in every_cut(stream):
        assert run(PlainEvents(), chunks) == stream + added


# -- Plain arrays ------------------------------------------------------------------------------------

ELEMENT = b'{\n  "candidates": [\n    {"error": [{"error": "]}"}]}\n  ]\n}'
ARRAY = b"[" + ELEMENT + b"\n,\r\n" + ELEMENT + b"\n]"


@pytest.mark.parametrize(
    "array", [ARRAY, b"[{}]", b"[ {} ]\n", b'\n[\n{"errors": 1}\n]', b'[{"error" 1}]', b'["error"]']
)
def test_an_array_passes_byte_for_byte_at_every_cut(array: bytes) -> None:
    """Errors are looked for where elements start, not where a window or a chunk does."""
    for chunks in every_cut(array):
        passing = PlainArray()
        assert run(passing, chunks) == array
        assert passing.failure is None


def test_an_error_inside_of_an_element_is_no_failure_wherever_the_chunks_end() -> None:
    """A function call may well have an argument called error, at the head of a list."""
    array = b'[{"args": {"items": [{"error": "' + b"x" * 100 + b'"}, [{"error": 1}]]}}\n]'
    for at in range(len(array)):
        for more in (1, 33, 64, 70):
            passing = PlainArray()
            assert run(passing, cut_at(array, {at, at + more})) == array
            assert passing.failure is None


@pytest.mark.parametrize(
    "error",
    [
        b"[" + PRETTY + b"\n]",
        b"[" + COMPACT + b"]\n",
        b" [\n" + PRETTY + b"]",
        b"[" + COMPACT + b",{}]",
        PRETTY + b"\n",
        COMPACT,
        COMPACT + b" trailing",
    ],
)
def test_an_error_instead_of_an_array_is_found_at_every_cut_and_never_passed_on(error: bytes) -> None:
    """Another attempt can still be made: the client has got nothing."""
    for chunks in every_cut(error):
        passing = PlainArray()
        assert run(passing, chunks) == b""
        assert failure_of(passing).code == 503
        assert json.loads(failure_of(passing).document) == ERROR


@pytest.mark.parametrize("separator", [b"\n,\r\n", b"\n,\n"])
def test_a_later_error_element_is_a_failure_at_every_cut(separator: bytes) -> None:
    """The client's connection will be aborted, so what passed of it does not matter; nothing is changed in it."""
    array = b"[" + ELEMENT + separator + PRETTY + b"\n]"
    for chunks in every_cut(array):
        passing = PlainArray()
        assert array.startswith(run(passing, chunks))
        assert failure_of(passing).code == 502


@pytest.mark.parametrize("length", range(3, len(ARRAY) - 1))
def test_an_array_that_is_not_closed_is_a_failure(length: int) -> None:
    """Also where it breaks off just after some other closing bracket."""
    passing = PlainArray()
    assert ARRAY.startswith(run(passing, [ARRAY[:length]]))
    assert failure_of(passing).code == 502


@pytest.mark.parametrize("body", [b"hello", b'"a string"', b"[{", b'{"err', b'[{"error": {', b'{"error": {}'])
def test_what_is_no_array_is_a_failure(body: bytes) -> None:
    """Whatever a proxy in between may have written."""
    for chunks in every_cut(body):
        passing = PlainArray()
        run(passing, chunks)
        assert failure_of(passing).code == 502


@pytest.mark.parametrize("body", [b"", b" ", b"[]", b"[\n]", b" [ ] \n", b"["])
def test_an_array_without_elements_gives_nothing(body: bytes) -> None:
    """An empty answer is no answer: it stays unanswered, so that another attempt can be made."""
    for chunks in every_cut(body):
        passing = PlainArray()
        assert run(passing, chunks) == b""
        assert passing.failure is None


def test_an_array_is_not_held_for_ever() -> None:
    """Neither white space without end nor an error without end is collected."""
    passing = PlainArray()
    assert passing.feed(b"[" + b" " * 64) == b"[" + b" " * 64
    passing = PlainArray()
    endless = b'[{"error": "' + b"x" * MAX_BARE
    assert passing.feed(endless[:100]) == b""
    assert passing.feed(endless[100:]) == endless
    assert passing.feed(b'"}]') == b'"}]'
    assert passing.close() == b""
    assert passing.failure is None


# -- Events read one by one --------------------------------------------------------------------------

DOCUMENTS = [{"a": 1}, {"text": "größe \r\n \u2028"}, {"n": 1.5e300, "l": [[], {}]}]


def wrapped(document: object, **layout: Any) -> bytes:
    """An event of Code Assist's."""
    return b"data: " + json.dumps({"response": document, "traceId": "t"}, **layout).encode() + b"\r\n\r\n"


def pipe(
    framing: Framing = Framing.SSE, change: Callable[[bytes], bytes] = unwrap, *, forward_done: bool = True
) -> EventPipe:
    """The pipe under test."""
    return EventPipe(change, framing, forward_done=forward_done)


def test_events_are_unwrapped_at_every_cut() -> None:
    """The value of response goes out, its bytes as they were, framed as Google frames them."""
    stream = b'data: {"response": {"n" : 1.50, "t":"\\u00e4"} , "traceId":"x"}\n\ndata: {"response":{}}\n\n'
    for chunks in every_cut(stream):
        piping = pipe()
        assert run(piping, chunks) == b'data: {"n" : 1.50, "t":"\\u00e4"}\r\n\r\ndata: {}\r\n\r\n'
        assert piping.failure is None


def test_each_event_goes_out_in_the_turn_in_which_it_came_in() -> None:
    """Also the first and the last of an array."""
    events, array = pipe(), pipe(Framing.ARRAY)
    assert events.feed(wrapped(1)) == b"data: 1\r\n\r\n"
    assert [array.feed(wrapped(1)), array.feed(wrapped(2)), array.close()] == [b"[1", b"\n,\r\n2", b"\n]"]


def test_an_array_of_events_has_googles_separators_and_no_more() -> None:
    """google-generativeai wants the bracket first and nothing after the last one."""
    for chunks in every_cut(b"".join(map(wrapped, ({"a": 1}, {"b": 2}, {})))):
        assert run(pipe(Framing.ARRAY), chunks) == b'[{"a": 1}\n,\r\n{"b": 2}\n,\r\n{}\n]'


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@unhurried
@given(
    documents=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5),
    indent=st.sampled_from([None, 2]),
    eol=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    places=st.sets(st.integers(0, 400), max_size=9),
)
def test_any_documents_come_out_as_they_went_in(
    documents: Sequence[dict[str, Any]], indent: int | None, eol: bytes, places: set[int]
) -> None:
    """As events and as an array, from one line or from many, however they are cut."""
    stream = b""
    for document in documents:
        text = json.dumps({"response": document}, indent=indent).encode()
        stream += b"".join(b"data: " + line + eol for line in text.split(b"\n")) + eol
    chunks = cut_at(stream, places)
    array = run(pipe(Framing.ARRAY), chunks)
    assert json.loads(array or b"[]") == documents
    events = run(pipe(), chunks)
    assert events.count(b"\r\n\r\n") == len(documents)
    assert b"\n" not in events.replace(b"\r\n\r\n", b"")
    assert [json.loads(event.removeprefix(b"data: ")) for event in events.split(b"\r\n\r\n")[:-1]] == documents


def test_data_on_several_lines_is_put_on_one() -> None:
    """Four clients of nine read no other events."""
    stream = b'data: {"response":\ndata: {\ndata:   "a": 1\ndata: }}\n\n'
    assert run(pipe(), [stream]) == b'data: {   "a": 1 }\r\n\r\n'


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE] \r\n\r\n"])
def test_an_upstreams_done_is_forwarded_or_dropped(done: bytes) -> None:
    """As the configuration says; in an array it has no place."""
    stream = [wrapped(1), done]
    assert run(pipe(forward_done=True), stream) == b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n"
    assert run(pipe(forward_done=False), stream) == b"data: 1\r\n\r\n"
    assert run(pipe(Framing.ARRAY, forward_done=True), stream) == b"[1\n]"
    assert run(pipe(), [wrapped(1), b"data: [DONE]"]) == b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n"


@pytest.mark.parametrize("framing", [Framing.SSE, Framing.ARRAY])
def test_empty_data_is_left_out(framing: Framing) -> None:
    """An empty event breaks seven clients of nine."""
    stream = b"data:\n\ndata: \n\ndata:  \n\ndata\n\n: comment\n\n"
    piping = pipe(framing)
    assert run(piping, [stream]) == b""
    assert piping.failure is None
    assert run(pipe(), [stream, wrapped(1), stream]) == b"data: 1\r\n\r\n"


@pytest.mark.parametrize("framing", [Framing.SSE, Framing.ARRAY])
def test_an_empty_stream_gives_nothing(framing: Framing) -> None:
    """Not even brackets: an empty answer is to be retried."""
    assert run(pipe(framing), []) == b""


@pytest.mark.parametrize("framing", [Framing.SSE, Framing.ARRAY])
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"data: " + COMPACT + b"\r\n\r\n", 503),
        (b"data: [" + COMPACT + b"]\r\n\r\n", 503),
        (b"data: " + SPACED, 503),
        (PRETTY, 503),
        (b"[" + PRETTY + b"\n]\n", 503),
        (b"data: oops\n\n", 502),
        (b'data: {"response": 1\n\n', 502),
        (b'data: {"response": 1', 502),
        (b'data: {"traceId": "t"}\n\n', 502),
        (b"data: 5\n\n", 502),
        (b"data: " + b"[" * 100_000 + b"\n\n", 502),
        (b'{"candidates": []}', 502),
        (b"[1]", 502),
        (b"{\n" + b" " * MAX_BARE, 502),
        (b"{" + b" " * MAX_BARE, 502),
    ],
)
def test_an_event_that_is_an_error_or_unreadable_ends_the_answer(framing: Framing, bad: bytes, code: int) -> None:
    """What came before it has passed; an array is not closed, and nothing comes after."""
    for chunks in ([wrapped(1) + bad], [wrapped(1), bad], [wrapped(1), bad[:9], bad[9:]]):
        piping = pipe(framing)
        assert run(piping, [*chunks, b"\r\n\r\n", wrapped(2)]) == (
            b"[1" if framing is Framing.ARRAY else b"data: 1\r\n\r\n"
        )
        assert failure_of(piping).code == code
        assert (json.loads(failure_of(piping).document) == ERROR) == (code == 503)
        assert piping.close() == b""


def test_a_bare_line_beyond_the_limit_ends_the_answer_with_the_stream() -> None:
    """It is known for what it is only when nothing more comes."""
    piping = pipe()
    assert run(piping, [wrapped(1), b"{" + b" " * MAX_BARE]) == b"data: 1\r\n\r\n"
    assert b"is larger than" in failure_of(piping).document


def test_an_event_beyond_all_limits_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same chunk completed before it still goes out, and an error among that is the one that is told."""
    monkeypatch.setattr(answers, "EventReader", lambda: answers_reader(max_event=100))
    large = b"data: " + b"x" * 101 + b"\n\n"
    piping = pipe()
    assert run(piping, [wrapped(1) + large, wrapped(2)]) == b"data: 1\r\n\r\n"
    assert b"larger than 100 bytes" in failure_of(piping).document
    piping = pipe()
    assert run(piping, [b'data: {"error": {"code": 429}}\n\n' + large]) == b""
    assert failure_of(piping).code == 429


answers_reader = answers.EventReader


def test_what_an_edit_cannot_read_ends_the_answer() -> None:
    """A number that no float holds must not be an exception in the transport."""
    edited = pipe(change=lambda event: msgspec.json.encode(msgspec.json.decode(plain_event(event))))
    assert run(edited, [b'data: {"a": 1}\n\ndata: {"a": 1e999}\n\n']) == b'data: {"a":1}\r\n\r\n'
    assert failure_of(edited).code == 502
    assert b"1e999" not in failure_of(edited).document


# -- Collected bodies --------------------------------------------------------------------------------


def test_a_collected_body_is_changed_as_a_whole() -> None:
    """Nothing goes out before its end; then the value of response does, as it was."""
    body = CollectedBody(unwrap, limit=100)
    assert [body.feed(b'{"response": {"a" '), body.feed(b": 1.0}}\n"), body.close()] == [b"", b"", b'{"a" : 1.0}']
    assert body.failure is None


def test_an_empty_collected_body_gives_nothing() -> None:
    """Which the exchange takes for an empty answer."""
    body = CollectedBody(unwrap, limit=100)
    assert run(body, []) == b""
    assert body.failure is None


def test_a_collected_body_is_bounded() -> None:
    """One byte more than the limit is a failure, at once and for good."""
    fits = CollectedBody(lambda document: document, limit=10)
    assert run(fits, [b"12345", b"67890"]) == b"1234567890"
    body = CollectedBody(lambda document: document, limit=10)
    assert [body.feed(b"12345"), body.feed(b"678901")] == [b"", b""]
    assert "larger than 10 bytes" in json.loads(failure_of(body).document)["error"]["message"]
    assert run(body, [b"x"]) == b""
    assert failure_of(body).code == 502


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (COMPACT, 503),
        (b"[" + PRETTY + b"]", 503),
        (b"<html>", 502),
        (b'{"response": 1', 502),
        (b"{}", 502),
        (b"[]", 502),
        (b"[" * 100_000, 502),
    ],
)
def test_a_collected_body_that_is_an_error_or_unreadable_is_a_failure(document: bytes, code: int) -> None:
    """Before a byte of it went out, so that another attempt can be made."""
    body = CollectedBody(unwrap, limit=10**6)
    assert run(body, [document]) == b""
    assert failure_of(body).code == code


def test_what_an_edit_cannot_read_of_a_collected_body_is_a_failure() -> None:
    """As for events."""
    body = CollectedBody(lambda document: msgspec.json.encode(msgspec.json.decode(document)), limit=100)
    assert run(body, [b'{"a": 1e999}']) == b""
    assert failure_of(body).code == 502


# -- Plain events that are read ----------------------------------------------------------------------


def test_a_plain_event_is_checked_and_otherwise_left_as_it_is() -> None:
    """Any JSON that is no error is an event."""
    for document in (b'{"a" : 1.0}', b" [1]", b"5"):
        assert plain_event(document) == document


def test_a_plain_event_may_be_an_error_or_unreadable() -> None:
    """The two are told apart."""
    with pytest.raises(UpstreamError) as caught:
        plain_event(PRETTY)
    assert json.loads(caught.value.document) == ERROR
    for document in (b"oops", b"{", b"[" * 100_000):
        with pytest.raises(NotAnEnvelope):
            plain_event(document)
