"""Errors: google.rpc.Status in Google's layout, and a wait in all the places where clients look for one."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import errors
from agm.core.errors import (
    RPC_BY_STATUS,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    error_info,
    retry_info,
    status_body,
    with_retry_info,
)
from tests.core.cuts import unhurried

ERRORS = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, GatewayError)]
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def test_a_status_is_printed_as_google_prints_it() -> None:
    """Two spaces of indent, code first, a newline at the end."""
    assert status_body(404, "No größe.", details=[{"@type": "x", "a": {}}]) == (
        b"{\n"
        b'  "error": {\n'
        b'    "code": 404,\n'
        b'    "message": "No gr\xc3\xb6\xc3\x9fe.",\n'
        b'    "status": "NOT_FOUND",\n'
        b'    "details": [\n'
        b"      {\n"
        b'        "@type": "x",\n'
        b'        "a": {}\n'
        b"      }\n"
        b"    ]\n"
        b"  }\n"
        b"}\n"
    )


def test_a_status_without_details_has_no_field_for_them() -> None:
    """As Google leaves out what is empty."""
    assert json.loads(status_body(429, "x")) == {"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}


def test_the_code_name_may_be_given_and_is_never_missing() -> None:
    """A number that has no name of its own is UNKNOWN."""
    assert json.loads(status_body(400, "x", rpc="FAILED_PRECONDITION"))["error"]["status"] == "FAILED_PRECONDITION"
    assert json.loads(status_body(418, "x"))["error"]["status"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1, "1s"),
        (10, "10s"),
        (56.18, "56.18s"),
        (0.539477544, "0.54s"),
        (0.0001, "0.001s"),
        (1.0000001, "1.001s"),
        (3600.0, "3600s"),
        (100.5, "100.5s"),
    ],
)
def test_retry_info_is_rounded_up_to_milliseconds(seconds: float, text: str) -> None:
    """Never sooner than the wait is over, and without zeros that say nothing."""
    assert retry_info(seconds) == {"@type": RETRY_INFO, "retryDelay": text}


@unhurried
@given(st.floats(0, 1e7))
def test_retry_info_is_never_too_short_nor_much_too_long(seconds: float) -> None:
    """Within a millisecond, in the form of a proto3 Duration."""
    text = retry_info(seconds)["retryDelay"]
    assert re.fullmatch(r"(0|[1-9]\d*)(\.\d{0,2}[1-9])?s", text)
    assert -1e-8 <= float(text[:-1]) - seconds <= 0.001


def test_error_info_is_in_our_own_domain() -> None:
    """Nobody shall take it for Google's."""
    assert error_info("X") == {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "X", "domain": "agm"}
    assert error_info("X", model="m")["metadata"] == {"model": "m"}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_says_what_it_is(kind: type[GatewayError]) -> None:
    """Its status has a code name, it has a reason, and a docstring that starts with the status."""
    assert kind.status in RPC_BY_STATUS
    assert re.fullmatch(r"[A-Z_]+", kind.reason)
    assert kind is GatewayError or (kind.__doc__ or "").startswith(f"{kind.status}: ")
    body = json.loads(kind("It is so.").body())["error"]
    assert body == {
        "code": kind.status,
        "message": "It is so.",
        "status": RPC_BY_STATUS[kind.status],
        "details": [error_info(kind.reason)],
    }


def test_an_error_may_have_a_reason_and_details_of_its_own() -> None:
    """ErrorInfo first, then what was given, then the wait."""
    error = Unavailable("x", reason="STOPPING", details=[{"@type": "y"}], retry_after=1.5)
    assert error.error_reason == "STOPPING"
    assert Unavailable.reason == "UNAVAILABLE"
    assert str(error) == error.message == "x"
    details = json.loads(error.body())["error"]["details"]
    assert details == [error_info("STOPPING"), {"@type": "y"}, retry_info(1.5)]


@pytest.mark.parametrize(
    ("wait", "header"), [(0, b"1"), (0.2, b"1"), (1, b"1"), (1.001, b"2"), (59.9, b"60"), (3600.0, b"3600")]
)
def test_retry_after_is_in_whole_seconds_rounded_up(wait: float, header: bytes) -> None:
    """Never 0: clients would take that for leave to try at once, again and again."""
    assert TooManyRequests("x", retry_after=wait).headers() == [(b"Retry-After", header)]


def test_headers_are_there_only_where_they_belong() -> None:
    """A wait, the methods of a path, and how to authenticate."""
    assert NotFound("x").headers() == []
    assert MethodNotAllowed("x", allow=["GET", "POST"]).headers() == [(b"Allow", b"GET, POST")]
    assert Unauthenticated("x").headers() == [(b"WWW-Authenticate", b'Bearer realm="agm"')]


def with_details(*details: object) -> bytes:
    return json.dumps({"error": {"code": 429, "details": details}, "other": 1}).encode()


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (with_details(), []),
        (with_details({"@type": RETRY_INFO, "retryDelay": "99s"}), []),
        (with_details({"a": 1}, {"@type": RETRY_INFO}, {"@type": 5}), [{"a": 1}, {"@type": 5}]),
        (b'{"error":{"code":429},"other":1}', []),
        (b'{"error":{"code":429,"details":null},"other":1}', []),
    ],
)
def test_retry_info_of_an_upstream_is_replaced(body: bytes, kept: list[object]) -> None:
    """The pool's earliest recovery counts, once; everything else stays."""
    changed = with_retry_info(body, 2.0)
    assert json.loads(changed) == {"error": {"code": 429, "details": [*kept, retry_info(2.0)]}, "other": 1}
    assert changed.startswith(b'{\n  "error": {\n')
    assert changed.endswith(b"}\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"5",
        b"{}",
        b'{"error":"text"}',
        b'{"error":5}',
        b'{"error":{"details":5}}',
        b'{"error":{"details":["x"]}}',
        b'{"error":"\xff"}',
        b'{"error":' + b"[" * 100_000,
    ],
)
def test_what_is_no_status_stays_as_it_is(body: bytes) -> None:
    """There is no place for a RetryInfo in it."""
    assert with_retry_info(body, 2.0) == body
