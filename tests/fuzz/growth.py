"""
How the time grows that a bad input takes: twice the size may take twice as long, and not much more.

Each case makes an input of a size and reads it.  Sizes are doubled until an input takes long enough to be measured; the
growth from one to the next tells what kind it is.  The machine's load disturbs this, so it is no test of the
suite: what once was quadratic is tested there by counting.
"""

from __future__ import annotations

import contextlib
import gzip
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from agm import config
from agm.core import bodies, classify, errors, ownership
from agm.core.errors import GatewayError
from agm.core.kinds import COLLECTIONS
from agm.core.request import Body
from agm.core.wire import answer_filters as answers
from agm.core.wire import envelope, target, usage
from agm.core.wire.answer_filters import AnswerFilter, Framing
from agm.core.wire.gzip import inflate
from agm.core.wire.request_parser import Malformed, RequestReader
from agm.core.wire.sse import EventReader, EventTooLarge

#: Twice the size may take this many times as long; twice is linear, four times quadratic.
MOST = 3.0
#: Seconds that an input must take to be measured, and the size at which the search for it ends.
LONG_ENOUGH = 0.05
LARGEST = 1 << 20


def _bytewise(data: bytes) -> Iterable[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def _reads(data: bytes) -> Iterable[bytes]:
    """As much at once as a transport reads."""
    return (data[i : i + 65536] for i in range(0, len(data), 65536))


def _events(data: Iterable[bytes]) -> None:
    reader = EventReader()
    try:
        for chunk in data:
            reader.feed(chunk)
        reader.close()
    except EventTooLarge:
        pass


def _filter(make: Callable[[], AnswerFilter], data: Iterable[bytes]) -> None:
    filter_ = make()
    for chunk in data:
        filter_.feed(chunk)
    filter_.close()


def _requests(data: Iterable[bytes]) -> None:
    reader = RequestReader(max_head=1 << 30, max_lines=1 << 30)
    try:
        for chunk in data:
            reader.feed(chunk)
            while reader.next() is not None:
                pass
    except Malformed:
        pass


def _path(path: bytes) -> None:
    for read in (
        target.parse_call,
        target.parse_collection,
        lambda path: ownership.parse(path, "POST"),
        lambda path: ownership.parse(path, "GET"),
    ):
        with contextlib.suppress(GatewayError):
            read(path)


def _body(data: bytes) -> None:
    for read in (
        lambda: envelope.wrap(data, project="p", model="m", request_id="r", user_agent="u", session_id="s"),
        lambda: envelope.with_roles(data),
        lambda: envelope.plain_count(data),
        lambda: deque(iter(bodies.Reading(data).go_on, False), maxlen=0),
        lambda: ownership.written_in(data, COLLECTIONS),
        lambda: Body(data).fingerprint,
    ):
        with contextlib.suppress(GatewayError, bodies.Unreadable):
            read()


def _error(data: bytes) -> None:
    classify.classify(429, data, now=1.8e9, retry_after="1" * len(data))
    errors.with_retry_info(data, 1.0)
    envelope.error_document(data)
    ownership.names_told(data)
    watch = usage.UsageWatch()
    watch.feed(data)
    watch.read()


def _inflate(data: bytes) -> None:
    with contextlib.suppress(GatewayError):
        inflate(data, 1 << 30)


def _config(text: str) -> None:
    with contextlib.suppress(config.ConfigError):
        config.parse(text, environ={})


_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_TURN = b'{"parts": [{"text": "a"}]},'
_EMPTY = gzip.compress(b"", mtime=0)

#: What makes an input of a size and reads it, by its name.
CASES: Mapping[str, Callable[[int], object]] = {
    "events: one line, byte by byte": lambda n: _events(_bytewise(b"data: " + b"x" * n)),
    "events: many lines without data": lambda n: _events([b"data:\n" * n]),
    "events: carriage returns": lambda n: _events([b"\r" * n]),
    "events: carriage returns before one LF": lambda n: _events([b"data: x\r" * n + b"\n"]),
    "events: a bare document, byte by byte": lambda n: _events(_bytewise(b"{" + b"x" * min(n, 1 << 20))),
    "events: byte by byte": lambda n: _events(_bytewise(b"data: x\r\n\r\n" * n)),
    **{
        f"answers: {name}, {shape}": lambda n, make=make, data=data: _filter(make, data(n))  # type: ignore[misc]
        for name, make in (
            ("plain events", answers.PlainEvents),
            ("plain array", answers.PlainArray),
            ("pipe", lambda: answers.EventPipe(answers.plain_event, Framing.ARRAY, forward_done=False)),
            ("collected", lambda: answers.CollectedBody(envelope.unwrap, limit=1 << 30)),
        )
        for shape, data in (
            ("white space", lambda n: _reads(b" " * n)),
            ("lines, byte by byte", lambda n: _bytewise(b"\r\n" * n)),
            ("beginnings of errors", lambda n: _reads(b'\n{"erro' * n)),
            ("errors that are none", lambda n: _reads(b'\n{"error" :' * n)),
            ("errors that are none, byte by byte", lambda n: _bytewise(b'data: {"error":\n' * n)),
            ("brackets", lambda n: _reads(b"[" * n + b"]" * n)),
            ("an element that does not end", lambda n: [b'[{"a": "', *([b"x" * 100] * n)]),
            ("backslashes", lambda n: _reads(b'{"error": "' + b"\\" * n)),
            ("elements", lambda n: _reads(b"[" + b'{"a": 1}\n,\r\n' * n)),
        )
    },
    "requests: a line, byte by byte": lambda n: _requests(_bytewise(b"GET /" + b"x" * n)),
    "requests: headers": lambda n: _requests([_HEAD + b"a: b\r\n" * n + b"\r\n"]),
    "requests: headers, byte by byte": lambda n: _requests(_bytewise(_HEAD + b"a: b\r\n" * n)),
    "requests: a header of white space": lambda n: _requests([_HEAD + b"a:" + b" " * n + b"\x00\r\n\r\n"]),
    "requests: chunks of one byte": lambda n: _requests([_CHUNKED + b"1\r\nx\r\n" * n]),
    "requests: chunks of one byte, byte by byte": lambda n: _requests(_bytewise(_CHUNKED + b"1\r\nx\r\n" * n)),
    "requests: trailers, byte by byte": lambda n: _requests(_bytewise(_CHUNKED + b"0\r\n" + b"a: b\r\n" * n)),
    "requests: a body in pieces": lambda n: _requests(
        [_HEAD + b"Content-Length: %d\r\n\r\n" % (n * 9), *([b"x" * 9] * n)]
    ),
    "requests: a list of lengths": lambda n: _requests([_HEAD + b"Content-Length: 1\r\n" * n + b"\r\n"]),
    "requests: commas": lambda n: _requests([_HEAD + b"Transfer-Encoding: " + b"," * n + b"\r\n\r\n"]),
    "targets: models": lambda n: _path(b"/v1beta/" + b"models/" * n + b":" * n),
    "targets: operations": lambda n: _path(b"/v1beta/" + b"models/" * n + b"/operations" * n + b"!"),
    "targets: colons": lambda n: _path(b"/v1beta/models/" + b":" * n),
    "targets: slashes": lambda n: _path(b"/" * n + b"v1beta/models/m:generateContent"),
    "targets: escapes": lambda n: _path(b"/v1beta/models/" + b"%41" * n + b":generateContent"),
    "targets: files": lambda n: _path(b"/v1beta/files/" + b"a/" * n + b":x" * n),
    "targets: names told": lambda n: ownership.root("models/" + "a" * n),
    "durations: digits": lambda n: classify.parse_duration("1" * n),
    "durations: units": lambda n: classify.parse_duration("1h" * n),
    "durations: a date": lambda n: classify.parse_retry_after("Wed, " + "1 " * n, 0.0),
    "errors: digits in the text": lambda n: _error(b'{"error": {"message": "retry in ' + b"1" * n + b'"}}'),
    "errors: retry in, again and again": lambda n: _error(b'{"error": {"message": "' + b"retry in 1" * n + b'"}}'),
    "errors: digits in a delay": lambda n: _error(
        b'{"error": {"details": [{"@type": "x.RetryInfo", "retryDelay": "' + b"1" * n + b'"}]}}'
    ),
    "errors: a long number": lambda n: _error(b'{"error": {"code": ' + b"9" * n + b"}}"),
    "errors: quotas": lambda n: _error(
        b'{"error": {"details": [{"@type": "x.QuotaFailure", "violations": [' + b'{"quotaId": "a"},' * n + b"{}]}]}}"
    ),
    "errors: nested": lambda n: _error(b'{"error": ' * n),
    "errors: usage, again and again": lambda n: _error(b'{"usageMetadata": {"promptTokenCount": 1' * n),
    "bodies: turns without a role": lambda n: _body(b'{"contents": [' + _TURN * n + b"{}]}"),
    "bodies: nested": lambda n: _body(b'{"a":' + b"[" * n),
    "bodies: fields": lambda n: _body(b"{" + b",".join(b'"%d": 1' % i for i in range(n)) + b"}"),
    "bodies: backslashes": lambda n: _body(b'{"a": "' + b"\\u0061" * n + b'"}'),
    "bodies: names": lambda n: _body(b'{"a": [' + b'"files/a",' * n + b"{}]}"),
    "bodies: addresses": lambda n: _body(b'{"a": "http://h/' + b"v1/" * n + b'"}'),
    "bodies: many addresses": lambda n: _body(
        b'{"a": [' + (b'"http://h/' + b"v1/" * 300 + b':a:b",') * (n // 999) + b"{}]}"
    ),
    "bodies: quotes in a string": lambda n: _body(b'{"a": "' + b'\\"files/' * n + b'"}'),
    "bodies: backslashes in a string": lambda n: _body(b"{'files/a': '" + b"\\\\" * n + b"'}"),
    "bodies: a string that does not end": lambda n: _body(b'{"files/": "' + b'\\"' * n),
    "bodies: white space": lambda n: _body(b'{"files/a"' + b" " * n + b":1}"),
    "bodies: names without quotes": lambda n: _body(b"{" + b"a:1,files/," * n + b"}"),
    "bodies: comments": lambda n: _body(b"{" + b"/*files/*/" * n + b"//" * n + b"}"),
    "bodies: a long number": lambda n: _body(b'{"a": ' + b"9" * n + b"}"),
    "gzip: empty members": lambda n: _inflate(_EMPTY * n),
    "gzip: one member": lambda n: _inflate(gzip.compress(b"x" * n, 1)),
    "configuration: nested": lambda n: _config("a = " + "[" * n),
    "configuration: accounts": lambda n: _config('[[accounts]]\nname = "a"\n' * min(n, 2048)),
    "configuration: unknown keys": lambda n: _config("".join(f"a{i} = 1\n" for i in range(min(n, 4096)))),
}


def measured(case: Callable[[int], object]) -> tuple[int, float, float]:
    """The size at which a case takes long enough, the seconds that takes, and how much longer than half of it."""
    size, before, seconds = 256, 0.0, 0.0
    while size < LARGEST:
        size *= 2
        before, seconds = seconds, min(_timed(case, size) for _ in range(2))
        if before > LONG_ENOUGH:
            break
    growth = seconds / before if before > LONG_ENOUGH / 2 else 1.0
    if growth > MOST:  # a bound that was just passed is a step, not a slope
        growth = min(growth, _timed(case, 2 * size) / seconds)
    return size, seconds, growth


def _timed(case: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    case(size)
    return time.process_time() - began


def report() -> int:
    """Measure everything; the exit status is 1 if something grows too fast."""
    slow = 0
    for name, case in CASES.items():
        size, seconds, growth = measured(case)
        slow += growth > MOST
        verdict = "  TOO FAST" if growth > MOST else ""
        print(f"{name}: x{growth:.1f} at {size}, {seconds * 1e9 / size:.0f} ns each{verdict}", flush=True)
    return 1 if slow else 0
