"""Requests as they come: what is read of them, in whatever pieces, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.wire.request_parser import END, Head, Malformed, RequestReader

Event = tuple[str, object]


def read(data: bytes, cuts: list[int] | None = None, *, max_head: int = 32768, max_lines: int = 100) -> list[Event]:
    """The events of `data`, fed in pieces; a refusal is one, and the last."""
    reader = RequestReader(max_head, max_lines)
    places = sorted({min(cut, len(data)) for cut in cuts or []} | {0, len(data)})
    events: list[Event] = []
    try:
        for start, end in pairwise(places):
            reader.feed(data[start:end])
            while (event := reader.next()) is not None:
                if isinstance(event, Head):
                    events.append(("head", (event.method, event.target, event.version, tuple(event.fields))))
                elif event is END:
                    events.append(("end", reader.buffered == 0 or None))
                elif events and events[-1][0] == "body":
                    events[-1] = ("body", bytes(events[-1][1]) + event)  # type: ignore[call-overload]
                else:
                    events.append(("body", event))
    except Malformed as e:
        events.append(("refused", e.status))
    return [event if event[0] != "end" else ("end", None) for event in events]


def head_of(data: bytes) -> Head:
    reader = RequestReader(32768, 100)
    reader.feed(data)
    head = reader.next()
    assert isinstance(head, Head)
    return head


POST = b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

GOOD = {
    "no body": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "a body of a length": (POST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "an empty body": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "a body in chunks": (CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "chunks with extensions": (CHUNKED + b'5;name=value\r\nhello\r\n2;q="a b"\r\n!!\r\n0;last\r\n\r\n', b"hello!!"),
    "chunks with trailers": (CHUNKED + b"00A\r\n0123456789\r\n0\r\nExpires: never\r\nX: y\r\n\r\n", b"0123456789"),
    "empty lines before": (b"\r\n\r\nGET / HTTP/1.0\r\n\r\n", b""),
    "a value of latin-1": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\t!\r\n\r\n", b""),
}


@given(st.sampled_from(sorted(GOOD)), st.lists(st.integers(0, 200), max_size=12))
def test_a_request_is_read_in_whatever_pieces_it_comes(name: str, cuts: list[int]) -> None:
    data, body = GOOD[name]
    whole = read(data)
    assert [kind for kind, _ in whole] == (["head", "body", "end"] if body else ["head", "end"])
    if body:
        assert whole[1] == ("body", body)
    assert read(data, cuts) == whole


def test_byte_by_byte_is_as_good_as_at_once() -> None:
    for data, _ in GOOD.values():
        assert read(data, list(range(len(data)))) == read(data)


def test_nothing_of_the_next_request_is_looked_at_before_it_is_asked_for() -> None:
    reader = RequestReader(1000, 10)
    reader.feed(POST + b"Content-Length: 2\r\n\r\nhi" + b"\x00 this is no request\r\n\r\n")
    head = reader.next()
    assert isinstance(head, Head)
    assert reader.next() == b"hi"
    assert reader.next() is END
    assert not reader.between
    with pytest.raises(Malformed):
        reader.next()


def test_what_a_head_tells() -> None:
    head = head_of(
        b"PUT /a?b HTTP/1.1\r\nX-A: 1\r\nHost:  h \t\r\nx-a: 2\r\nExpect: 100-Continue\r\nContent-Length: 7\r\n\r\n"
    )
    assert (head.method, head.target, head.version, head.length) == (b"PUT", b"/a?b", b"HTTP/1.1", 7)
    assert head.fields == [
        (b"x-a", b"1"),
        (b"host", b"h"),
        (b"x-a", b"2"),
        (b"expect", b"100-Continue"),
        (b"content-length", b"7"),
    ]
    assert head.first[b"x-a"] == b"1"
    assert head.values(b"x-a") == [b"1", b"2"]
    assert head.keep_alive
    assert head.expects


@pytest.mark.parametrize(
    ("line", "version", "kept"),
    [
        (b"", b"1.1", True),
        (b"Connection: keep-alive\r\n", b"1.1", True),
        (b"Connection: close\r\n", b"1.1", False),
        (b"Connection: x\r\nConnection: y , Close\r\n", b"1.1", False),
        (b"", b"1.0", False),
        (b"Connection: keep-alive\r\n", b"1.0", False),
    ],
)
def test_whether_a_connection_stays_open(line: bytes, version: bytes, kept: bool) -> None:
    assert head_of(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + line + b"\r\n").keep_alive is kept


def test_nobody_waits_for_a_continue_without_a_body() -> None:
    assert not head_of(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expects
    assert not head_of(b"GET / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").expects


BAD = {
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare LF among headers": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
    "a NUL": (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target that is not ASCII": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "empty lines without end": (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "an LF first": (b"\nGET / HTTP/1.1\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    "a list of lengths": (POST + b"Content-Length: 1, 1\r\n\r\n", 400),
    "a signed length": (POST + b"Content-Length: +1\r\n\r\n", 400),
    "a length of 5,000 digits": (POST + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "a length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunks twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "another coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "a coding that only looks like it": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "another expectation": (POST + b"Expect: wonders\r\nContent-Length: 1\r\n\r\n", 417),
    "a chunk's size that is none": (CHUNKED + b"x\r\n", 400),
    "a chunk's size with a sign": (CHUNKED + b"-1\r\n", 400),
    "a chunk's size of 17 digits": (CHUNKED + b"10000000000000000\r\n", 400),
    "a chunk's size after a bare LF": (CHUNKED + b"1\nx\r\n", 400),
    "a chunk that is longer than it says": (CHUNKED + b"1\r\nxy\r\n", 400),
    "a chunk without its end": (CHUNKED + b"1\r\nx0\r\n\r\n", 400),
    "an endless extension": (CHUNKED + b"1;" + b"x" * 300, 400),
    "a trailer that is none": (CHUNKED + b"0\r\nno trailer\r\n\r\n", 400),
    "a trailer with a bare LF": (CHUNKED + b"0\r\nX: y\n", 400),
    "many extensions": (CHUNKED + (b"1;" + b"x" * 200 + b"\r\nx\r\n") * 200, 431),
    "endless trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 8000, 431),
    "a long line": (b"GET /" + b"a" * 40000, 431),
    "a large head": (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 40000 + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
}


@pytest.mark.parametrize(("data", "status"), BAD.values(), ids=BAD)
def test_what_two_readers_could_take_for_different_requests_is_refused(data: bytes, status: int) -> None:
    """At once and in pieces."""
    assert read(data)[-1] == ("refused", status)
    assert read(data, list(range(0, len(data), 7)))[-1] == ("refused", status)


def test_the_bounds_are_the_readers_own() -> None:
    request = b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n"
    assert read(request, max_head=26, max_lines=2)[-1][0] == "end"
    assert read(request, max_head=25)[-1] == ("refused", 431)
    assert read(request, max_lines=1)[-1] == ("refused", 431)


def test_a_large_body_passes_without_being_kept() -> None:
    """What came in one read is handed on as one piece, and nothing of it stays."""
    reader = RequestReader(1000, 10)
    reader.feed(POST + b"Content-Length: 3000000\r\n\r\n")
    assert isinstance(reader.next(), Head)
    for _ in range(3):
        piece = b"x" * 1_000_000
        reader.feed(piece)
        assert reader.next() is piece
        assert reader.buffered == 0
    assert reader.next() is END
    assert reader.between


# -- Heads that are alike ----------------------------------------------------------------------------


def test_what_was_found_out_about_a_head_is_there_for_those_that_differ_in_the_length_alone() -> None:
    reader = RequestReader(32768, 100)

    def next_head(data: bytes) -> Head:
        reader.feed(data)
        head = reader.next()
        assert isinstance(head, Head)
        while reader.next() is not END:
            pass
        return head

    first = next_head(POST + b"content-LENGTH: 2 \r\nX: y\r\n\r\nhi")
    first.found["x"] = 1
    other = next_head(POST + b"content-LENGTH: 11 \r\nX: y\r\n\r\nhello there")
    assert (other.length, other.first[b"content-length"], other.found) == (11, b"11", {"x": 1})
    assert (first.length, first.first[b"content-length"]) == (2, b"2")
    assert other.fields == [(b"host", b"a"), (b"content-length", b"11"), (b"x", b"y")]
    assert next_head(POST + b"content-LENGTH: 11 \r\nX: z\r\n\r\nhello there").found == {}
    assert next_head(POST + b"X: z\r\n\r\n").found == {}


@pytest.mark.parametrize("lengths", [(2, 2, 2), (2, 3, 2)], ids=["alike", "of other lengths"])
@pytest.mark.parametrize(
    "head",
    [
        POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n",
        POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n",
    ],
)
def test_each_head_that_expects_something_says_so(head: bytes, lengths: tuple[int, ...]) -> None:
    """Whatever is known of the one before."""
    reader = RequestReader(32768, 100)
    for length in lengths:
        for data, expects in ((head % length, True), (POST + b"Content-Length: %d\r\n\r\n" % length, False)):
            reader.feed(data + b"x" * length)
            found = reader.next()
            assert isinstance(found, Head)
            assert (found.expects, found.length) == (expects, length)
            assert reader.next() == b"x" * length
            assert reader.next() is END
    for length in lengths:
        reader.feed(head % length + b"x" * length)
        found = reader.next()
        assert isinstance(found, Head)
        assert found.expects
        assert reader.rest() == b"x" * length


LIKELY_HEADS = st.sampled_from(
    [
        POST + b"Content-Length: %b\r\n\r\n",
        POST + b"Content-Length:%b\r\nX: y\r\n\r\n",
        POST + b"X: y\r\nContent-Length: %b\r\n\r\n",
        POST + b"Content-Length: 2\r\nX: %b\r\n\r\n",
        POST + b"Content-Length: 2\r\nX-Content-Length: %b\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: %b\r\n\r\n",
        POST + b"Expect: 100-continue\r\nContent-Length: %b\r\n\r\n",
        POST + b"X: %b\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\nX: %b\r\n\r\n"),
        b"POST / HTTP/1.0\r\nContent-Length: %b\r\n\r\n",
        b"POST /?%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
    ]
)
LIKELY_VALUES = st.sampled_from([b"0", b"2", b"02", b"1", b"+2", b"2 ", b"1,2", b"", b"2\r\nY: z", b"9" * 19, b"x"])


@given(st.lists(st.tuples(LIKELY_HEADS, LIKELY_VALUES), min_size=2, max_size=6))
def test_a_head_is_read_alike_whatever_came_before_it(heads: list[tuple[bytes, bytes]]) -> None:
    """The former head saves work, and decides nothing."""
    reader = RequestReader(32768, 100)
    for template, value in heads:
        fresh = RequestReader(32768, 100)
        length: int | None = 0
        seen: list[object] = []
        for it in (reader, fresh):
            it.feed(template % value)
            try:
                head = it.next()
            except Malformed as e:
                seen.append((e.status, str(e)))
            else:
                assert isinstance(head, Head)
                length = head.length
                seen.append([getattr(head, name) for name in Head.__slots__ if name != "found"])
        assert seen[0] == seen[1]
        if isinstance(seen[0], tuple) or (length or 0) > 100:
            return
        for it in (reader, fresh):
            it.feed(b"0\r\n\r\n" if length is None else b"x" * length)
            while it.next() is not END:
                pass
