"""Event streams: the events of any stream, however its bytes are cut, are those of a plain reading of the standard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.wire import sse as eventstream
from agm.core.wire.sse import MAX_BARE, EventReader, EventTooLarge, StreamEnd
from tests.core.cuts import cut_streams, every_cut, unhurried

BOM = b"\xef\xbb\xbf"


def read(chunks: Iterable[bytes], **limits: int) -> tuple[list[bytes], StreamEnd]:
    """The events of a stream in chunks, and what its end leaves."""
    reader = EventReader(**limits)
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events, reader.close()


def reference(stream: bytes) -> tuple[list[bytes], bytes | None]:
    """
    The events of a whole stream by the WHATWG's rules, line by line, and the data of an event without a blank line.

    Written for clarity alone; knows nothing of bare documents.
    """
    *lines, unfinished = re.split(rb"\r\n|\n|\r", stream.removeprefix(BOM))
    events: list[bytes] = []
    data = b""
    for line in [*lines, *([unfinished] if unfinished else [])]:
        if not line:
            if data:
                events.append(data[:-1])
            data = b""
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return events, data[:-1] if data else None


LINES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"",
            b'data: {"a": 1}',
            b"data: two words",
            b"data:  kept space",
            b"data:tight",
            b"data:",
            b"data: ",
            b"data",
            b"data: a: b",
            b": a comment",
            b":",
            b"event: error",
            b"id: 7",
            b"retry: 10",
            b"database: x",
            b" data: x",
            "data: größe 🙂".encode(),
            b"data: " + BOM,
            BOM + b"data: x",
        ]
    ),
    st.binary(max_size=12)
    .map(lambda b: re.sub(rb"[\r\n]|\A[\[{]", b"", b))
    .filter(lambda b: b[:1] not in (b"{", b"[")),
)
STREAMS = st.builds(
    lambda bom, lines, last: bom + b"".join(line + eol for line, eol in lines) + last,
    st.sampled_from([b"", b"", BOM]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=14),
    LINES,
).filter(lambda stream: stream.removeprefix(BOM)[:1] not in (b"{", b"["))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\n\r", [b"a", b"b", b"c", b"d"]),
        (b"data: a\ndata:b\ndata\ndata:  c\n\n", [b"a\nb\n\n c"]),
        (b": hello\ndata: a\n: in between\nid: 1\nevent: x\nretry: 5\n\n: only a comment\n\n", [b"a"]),
        (BOM + b"data: a\n\n" + BOM + b"data: not data\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:\n\ndata: \n\ndata\n\n", [b"", b"", b""]),
        (b"\n\n\r\n\n", []),
        (b"", []),
    ],
)
def test_each_way_to_write_a_stream_is_read_at_every_cut(stream: bytes, events: list[bytes]) -> None:
    """LF, CRLF, CR and all mixed, data on several lines, comments, other fields, a byte order mark."""
    assert reference(stream) == (events, None)
    for chunks in every_cut(stream):
        assert read(chunks) == (events, StreamEnd(None, None))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r", b"\r\n"])
def test_a_last_event_without_its_blank_line_is_not_lost(ending: bytes) -> None:
    """The standard drops it; an answer must not lose its end."""
    for chunks in every_cut(b"data: a\r\n\r\ndata: b\r\ndata: c" + ending):
        assert read(chunks) == ([b"a"], StreamEnd(b"b\nc", None))


@unhurried
@given(cut_streams(STREAMS))
def test_any_stream_reads_as_the_standard_says_however_it_is_cut(case: tuple[bytes, list[bytes]]) -> None:
    """The incremental reader and a plain reading of the whole agree."""
    stream, chunks = case
    events, last = reference(stream)
    assert read(chunks) == read([stream]) == (events, StreamEnd(last, None))


@pytest.mark.parametrize(
    "document",
    [
        b'{\n  "error": {\n    "code": 503\n  }\n}\n',
        b'[{\r\n  "error": {}\r\n}\r\n]',
        b'{"error": {}}',
        b'{"a": 1}\n\ndata: not an event any more\n\n',
    ],
)
@pytest.mark.parametrize("before", [b"data: a\r\n\r\n", b"data: a\n\n", b"data: a\r\r", b"data: a\n", b""])
def test_a_bare_document_is_kept_whole_from_its_first_bracket_on(before: bytes, document: bytes) -> None:
    """What Google writes into a failing stream comes out of close() byte for byte, the events before it as ever."""
    events = [b"a"] if len(before) > len(b"data: a\n") else []
    unfinished = b"a" if before == b"data: a\n" else None
    for chunks in every_cut(before + document):
        assert read(chunks) == (events, StreamEnd(unfinished, document))


def test_a_byte_order_mark_does_not_hide_a_bare_document() -> None:
    """The mark belongs to the stream, not to the document."""
    for chunks in every_cut(BOM + b'{"error": {}}\n'):
        assert read(chunks) == ([], StreamEnd(None, b'{"error": {}}\n'))


@pytest.mark.parametrize(
    "stream",
    [
        b"data: 123456789\n\n",
        b"data: 1234\ndata: 5678\n\n",
        b"data\n" * 10 + b"\n",
        b"data:\n" * 10 + b"\n",
        b"x" * 18 + b"\n",
    ],
)
def test_an_event_beyond_the_limit_is_refused_at_every_cut(stream: bytes) -> None:
    """Long lines, many lines and empty lines all count, and what came before in the same chunk is not lost."""
    for chunks in every_cut(b"data: a\n\n" + stream):
        reader = EventReader(max_event=8)
        events: list[bytes] = []
        with pytest.raises(EventTooLarge) as caught:
            events.extend(event for chunk in chunks for event in reader.feed(chunk))
        assert [*events, *caught.value.events] == [b"a"]


@pytest.mark.parametrize("stream", [b"data: 12345678\r\n\r\n", b"data: 1234\ndata: 567\n\n", b"data\n" * 9 + b"\n"])
def test_an_event_of_just_the_limit_passes_at_every_cut(stream: bytes) -> None:
    """The limit is on the data of one event, not on lines with their field's name, nor on the stream."""
    for chunks in every_cut(stream * 3):
        events, end = read(chunks, max_event=8)
        assert [len(event) for event in events] == [len(reference(stream)[0][0])] * 3
        assert end == StreamEnd(None, None)


def test_a_bare_document_beyond_the_limit_is_refused() -> None:
    """Whether it has line ends or not, and whether they come before the stream's end or not."""
    reader = EventReader()
    assert reader.feed(b"{\n" + b" " * (MAX_BARE - 2)) == []
    with pytest.raises(EventTooLarge):
        reader.feed(b" ")
    reader = EventReader()
    assert reader.feed(b"{" + b" " * MAX_BARE) == []
    with pytest.raises(EventTooLarge):
        reader.close()


class Counting(bytearray):
    """A bytearray that counts the bytes which are looked at or copied."""

    touched = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        at = super().find(sub, start, len(self) if end is None else end)
        Counting.touched += (len(self) if at < 0 else at) - start
        return at

    def __iadd__(self, more: Any) -> Counting:
        Counting.touched += len(more)
        return super().__iadd__(more)  # type: ignore[return-value]

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        Counting.touched += len(found) if isinstance(index, slice) else 1  # type: ignore[arg-type]
        return found


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_a_giant_event_in_small_pieces_takes_linear_time(monkeypatch: pytest.MonkeyPatch, eol: bytes) -> None:
    """20 MB in pieces of 1 KB: each byte is looked at and copied a few times, not once per piece."""
    monkeypatch.setattr(eventstream, "bytearray", Counting, raising=False)
    monkeypatch.setattr(Counting, "touched", 0)
    size = 20 * 1024 * 1024
    piece = b"x" * 1024
    reader = EventReader()
    assert reader.feed(b"data: ") == []
    for _ in range(size // len(piece)):
        assert reader.feed(piece) == []
    (event,) = reader.feed(eol + eol)
    assert len(event) == size
    assert size < Counting.touched < 6 * size
    assert reader.feed(eol + b"data: next" + eol + eol) == [b"next"]


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_many_short_lines_in_one_chunk_take_linear_time(eol: bytes) -> None:
    """The search for a line's end does not run to the chunk's end at each line, whatever ends the lines."""

    class Chunk(bytes):
        touched = 0

        def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
            at = super().find(sub, start, len(self) if end is None else end)
            Chunk.touched += (len(self) if at < 0 else at) - start
            return at

    chunk = Chunk(b"data: x" + eol + (b":" + eol) * 20_000 + eol)
    assert EventReader().feed(chunk) == [b"x"]
    assert len(chunk) <= Chunk.touched <= 2 * len(chunk) + 2
