"""The envelope: what is spliced in comes out again to the byte, and what the service refuses stays out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import InvalidRequest
from agm.core.fingerprint import look
from agm.core.wire import envelope
from agm.core.wire.bytechain import ByteChain
from agm.core.wire.envelope import (
    LARGE,
    NotAnEnvelope,
    UpstreamError,
    error_code,
    error_document,
    one_line,
    parse_object,
    plain_count,
    request_type,
    unwrap,
    with_roles,
    wrap,
    wrap_count,
)
from tests.core.cuts import unhurried

DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def wrapped(body: bytes, **changes: Any) -> bytes:
    """The envelope around `body`, with everything else at its plainest."""
    settings: dict[str, Any] = {
        "project": "p",
        "model": "m",
        "request_id": "r",
        "user_agent": "agm/1",
        "session_id": None,
    }
    return bytes(wrap(body, **(settings | changes)))


def value_of(document: bytes, name: str) -> bytes:
    """The bytes of one field."""
    return bytes(msgspec.json.decode(document, type=dict[str, msgspec.Raw])[name])


# -- Any JSON, as strangers write it -----------------------------------------------------------------

SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A string with escapes where none are needed, pairs of surrogates among them."""
    pieces = draw(
        st.lists(
            st.one_of(
                st.text(st.characters(min_codepoint=0x20, exclude_characters='"\\', exclude_categories=["Cs"])),
                st.sampled_from(['\\"', "\\\\", "\\/", "\\n", "\\r\\n"]),
                st.sampled_from(["\\u00e4", "\\u0041", "\\ud83d\\ude00", "\\u2028"]),
                st.sampled_from(["{", "}", "]", ",", "error", "response", "sessionId"]),
            ),
            max_size=4,
        )
    )
    return '"' + "".join(pieces) + '"'


NUMBERS = st.sampled_from(
    ["0", "-0", "1.0", "1.50", "1e5", "1E+400", "-0.0e-999", "12345678901234567890123456789", "0.100000000000000000001"]
)


def spaced(draw: st.DrawFn, *tokens: str) -> str:
    return "".join(draw(SPACE) + token for token in tokens) + draw(SPACE)


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """An array with odd white space."""
    return spaced(draw, "[", ",".join(spaced(draw, draw(values)) for _ in range(draw(st.integers(0, 3)))), "]")


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """An object with odd white space, whose keys may come twice."""
    keys = st.sampled_from(['"a"', '"a"', '"text"', '"\\u0061"', '""']) | strings()
    fields = [spaced(draw, draw(keys), ":", draw(values)) for _ in range(draw(st.integers(0, 3)))]
    return spaced(draw, "{", ",".join(fields), "}")


VALUES = st.recursive(
    strings() | NUMBERS | st.sampled_from(["true", "false", "null"]),
    lambda inner: arrays(inner) | objects(inner),
    max_leaves=10,
)
DOCUMENTS = objects(VALUES).map(str.encode)


@unhurried
@given(DOCUMENTS)
def test_a_document_stands_in_its_envelope_byte_for_byte(document: bytes) -> None:
    """Odd white space, escapes, numbers that no float holds, keys that come twice: nothing is encoded again."""
    if parse_object(document).keys() & {"model"}:
        return
    envelope = wrapped(document)
    assert envelope.endswith(b'"request":' + document + b"}")
    assert value_of(envelope, "request") == document.strip()


@unhurried
@given(DOCUMENTS, SPACE, st.booleans())
def test_unwrapping_cuts_out_what_was_wrapped(document: bytes, space: str, pretty: bool) -> None:
    """The value of response, without the white space around it and otherwise untouched."""
    answer = b"".join((b'{"traceId":"x","response":', space.encode(), document, space.encode(), b"}"))
    assert unwrap(answer) == document.strip()
    assert value_of(wrapped(unwrap(answer)), "request") == document.strip()


@unhurried
@given(DOCUMENTS, st.sampled_from(["s", 'a"b', "ä"]))
def test_a_session_is_added_and_the_rest_left_as_it_is(document: bytes, session: str) -> None:
    """Whatever white space stands around the first bracket."""
    fields = parse_object(document)
    request = value_of(wrapped(document, session_id=session), "request")
    added = {"sessionId": session} if not fields.keys() & {"sessionId", "session_id"} else {}
    assert json.loads(request) == added | {k: v for k, v in json.loads(document).items() if k != "model"}


@unhurried
@given(DOCUMENTS)
def test_one_line_never_changes_the_meaning(document: bytes) -> None:
    """Line ends are always escaped inside of strings, so those that are replaced are white space."""
    line = one_line(document)
    assert json.loads(line, object_pairs_hook=list) == json.loads(document, object_pairs_hook=list)
    assert b"\n" not in line
    assert b"\r" not in line


def test_one_line_leaves_alone_what_is_on_one_line() -> None:
    """No copy is made of most events."""
    document = b'{"a" :  1}'
    assert one_line(document) is document


# -- Wrapping ----------------------------------------------------------------------------------------


def test_the_envelope_has_the_fields_that_the_service_takes() -> None:
    """And no others."""
    document = wrap(
        b'{"contents":[]}',
        project="p",
        model="gemini-3-pro",
        request_id="r",
        user_agent="agm/1",
        session_id="s",
    )
    assert json.loads(document) == {
        "project": "p",
        "model": "gemini-3-pro",
        "requestId": "r",
        "requestType": "agent",
        "userAgent": "agm/1",
        "request": {"sessionId": "s", "contents": []},
    }


def test_without_a_project_there_is_no_field_for_it() -> None:
    """The service refuses null."""
    assert "project" not in json.loads(wrapped(b"{}", project=None))


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b"{}", b'{"sessionId":"s"}'),
        (b" { } ", b'{"sessionId":"s" }'),
        (b"\r\n{\n}\n", b'{"sessionId":"s"\n}'),
        (b'{"a":1}', b'{"sessionId":"s","a":1}'),
        (b' { "a" : 1 } ', b'{"sessionId":"s", "a" : 1 }'),
        (b'{"sessionId":"mine"}', b'{"sessionId":"mine"}'),
        (b'{ "session_id" : "mine" }', b'{ "session_id" : "mine" }'),
        (b'{"session\\u0049d":"mine"}', b'{"session\\u0049d":"mine"}'),
        (b'{"model":"x"}', b'{"sessionId":"s"}'),
        (b'{"model":"x","a":1}', b'{"sessionId":"s","a":1}'),
    ],
)
def test_a_session_is_put_first_unless_the_client_sent_one(body: bytes, request_: bytes) -> None:
    """In an object with and without fields, and in either spelling."""
    assert value_of(wrapped(body, session_id="s"), "request") == request_


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b'{"model":"models/x","contents":[ 1.0 ]}', b'{"contents":[ 1.0 ]}'),
        (b'{"contents":[{"model":"kept"}] , "model" : null}', b'{"contents":[{"model":"kept"}]}'),
        (b'{"a\\"b":1,"mod\\u0065l":"x","\xc3\xa4":2}', b'{"a\\"b":1,"\\u00e4":2}'),
        (b'{"model":1}', b"{}"),
    ],
)
def test_a_redundant_model_is_left_out(body: bytes, request_: bytes) -> None:
    """However its name is escaped; every other value stays as it was sent."""
    assert value_of(wrapped(body), "request") == request_


@pytest.mark.parametrize(
    ("model", "kind"),
    [("gemini-2.5-flash", "agent"), ("gemini-2.5-flash-image", "image_gen"), ("imagen-4.0", "image_gen")],
)
def test_image_models_have_a_request_type_of_their_own(model: str, kind: str) -> None:
    """Told from the name."""
    assert request_type(model) == json.loads(wrapped(b"{}", model=model))["requestType"] == kind


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Input data was truncated."),
        (b"[]", "Expected `object`, got `array`."),
        (b"null", "Expected `object`, got `null`."),
        (b'{"a":1,}', ""),
        (b"{} {}", ""),
        (b'{"a":NaN}', ""),
        (b'{"a":"line\nend"}', ""),
        (b'{"\xff":1}', ""),
        (b"\xef\xbb\xbf{}", ""),
        (DEEP, "It is nested too deeply."),
    ],
)
def test_what_is_no_json_object_is_refused_in_googles_words(body: bytes, why: str) -> None:
    """Nothing else could be spliced in without breaking out of the envelope, or raising something else."""
    for refusing in (parse_object, wrapped, lambda b: wrap_count(b, model="m")):
        with pytest.raises(InvalidRequest) as caught:
            refusing(body)  # type: ignore[operator]
        assert caught.value.message.startswith("Invalid JSON payload received. ")
        assert caught.value.message.endswith(why or ".")


# -- Counting ----------------------------------------------------------------------------------------

COUNTED = b'{"request":{"model":"models/m","contents":[ {"parts":[ ]} ]}}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents":[ {"parts":[ ]} ]}',
        b'{"contents" : [ {"parts":[ ]} ], "safetySettings":[1], "model":"x"}',
        b'{"generateContentRequest":{"model":"models/y","contents":[ {"parts":[ ]} ],"tools":[]}}',
        b'{"generate_content_request":{"contents":[ {"parts":[ ]} ]},"contents":[1]}',
        b'{"generateContentRequest":null,"contents":[ {"parts":[ ]} ]}',
    ],
)
def test_only_model_and_contents_are_counted(body: bytes) -> None:
    """Both forms and both spellings; all that the service would refuse is left out, the contents stay as they are."""
    assert wrap_count(body, model="m") == COUNTED


@pytest.mark.parametrize(
    "body", [b"{}", b'{"contents":null}', b'{"generateContentRequest":{}}', b'{"generateContentRequest":null}']
)
def test_nothing_to_count_is_refused(body: bytes) -> None:
    """The message says what is missing."""
    with pytest.raises(InvalidRequest, match=r"^contents is not specified"):
        wrap_count(body, model="m")


def test_a_request_that_is_no_object_is_refused_for_counting() -> None:
    """As any body that is none."""
    with pytest.raises(InvalidRequest, match=r"^Invalid JSON payload received\. Expected `object`"):
        wrap_count(b'{"generateContentRequest":[]}', model="m")


# -- What Vertex AI insists on (more of it in test_envelope_for_vertex) -------------------------------


def test_null_is_none_for_vertex_too() -> None:
    """A count that wraps nothing counts nothing; a turn whose role is null is the user's."""
    assert plain_count(b'{"generateContentRequest":{"contents":null}}') == b"{}"
    assert with_roles(b'{"contents":[{"role":null,"parts":[]}]}') == b'{"contents":[{"role":"user","parts":[]}]}'


def test_nesting_without_end_is_left_to_vertex() -> None:
    """Nothing raises."""
    assert plain_count(DEEP) is DEEP
    assert with_roles(DEEP) is DEEP


# -- Unwrapping and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (b'{"error":{"code":429}}', b'{"error":{"code":429}}'),
        (b'{"error": {\r\n  "code": 429\r\n}}\n', b'{"error":{   "code": 429 }}'),
        (b'[{"error":{"code":429}}]', b'{"error":{"code":429}}'),
        (b'[{"error":{"code":429}}\n,\r\n{"candidates":[]}]', b'{"error":{"code":429}}'),
        (b'{"response":{},"error":{"code":1}}', b'{"error":{"code":1}}'),
        (b'{"error":"text"}', b'{"error":"text"}'),
    ],
)
def test_an_error_is_known_in_every_form(document: bytes, error: bytes) -> None:
    """An object, an array whose first element is one, pretty-printed; it comes out on one line."""
    assert error_document(document) == error
    with pytest.raises(UpstreamError) as caught:
        unwrap(document)
    assert caught.value.document == error
    assert "429" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [b"{}", b"[]", b"[[]]", b'[{"candidates":[]},{"error":{}}]', b'{"traceId":"x"}', b"5", b"", b"<html>", b'{"', DEEP],
)
def test_what_is_neither_answer_nor_error_is_told_apart(document: bytes) -> None:
    """Also nesting without end."""
    assert error_document(document) is None
    with pytest.raises(NotAnEnvelope):
        unwrap(document)


def test_an_error_without_end_is_told_in_short() -> None:
    """Code, status and message are left of what is too deep, too dense or too large to be read."""
    told = b'"code": 403, "status": "PERMISSION_DENIED", "message": "no"'
    short = {"error": {"message": "no", "code": 403, "status": "PERMISSION_DENIED"}}
    for filling in (b"[" * 900 + b"]" * 900, b"[" + b"[]," * 60_000 + b"1]", b'"' + b"x" * 5_000_000 + b'"'):
        error = b'{"error": {%b, "details": %b}}' % (told, filling)
        for document in (error, b"[" + error + b"]") if len(error) < 1_000_000 else (error,):
            found = envelope.error_document(document)
            assert found is not None
            assert json.loads(found) == short
        with pytest.raises(envelope.UpstreamError) as caught:
            envelope.unwrap(error)
        assert json.loads(caught.value.document) == short
    assert json.loads(envelope.error_document(b'{"error": %b}' % (b"[" * 500 + b"]" * 500)) or b"") == {
        "error": {"message": "The upstream's error is too large to be shown."}
    }
    long = envelope.error_document(b'{"error": {"message": "%b", "x": %b}}' % (b"m" * 9000, b"[" * 99 + b"]" * 99))
    assert long is not None
    assert len(long) < 5000
    assert envelope.error_document(b"[" + b"[]," * 1_000_000 + b"1]") is None


def test_fields_without_number_are_not_made_one_by_one() -> None:
    """A large request with the fields of a request is taken apart, one with all kinds of fields is not."""
    text = b'"' + b": " * 600_000 + b'"'
    body = b'{"contents":[{"parts":[{"text":%b}]}],"model":"m"}' % text
    made = bytes(envelope.wrap(body, project=None, model="m", request_id="r", user_agent="u", session_id=None))
    assert json.loads(made)["request"] == {"contents": [{"parts": [{"text": ": " * 600_000}]}]}
    assert json.loads(envelope.with_roles(body))["contents"][0]["role"] == "user"
    counted = envelope.plain_count(b'{"generateContentRequest":{"contents":[{"parts":[{"text":%b}]}]}}' % text)
    assert list(json.loads(counted)) == ["contents"]
    fields = b"{" + b'"a":1,' * 200_000 + b'"contents":[]}'
    with pytest.raises(InvalidRequest):
        envelope.parse_object(fields)
    assert envelope.with_roles(fields) == envelope.plain_count(fields) == fields
    turns = b'{"contents":[' + b"{}," * 400_000 + b"{}]}"
    assert envelope.with_roles(turns) == turns


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b'{"error":{"code":429,"message":"x"}}', 429),
        (b'{"error":{"code":400}}', 400),
        (b'{"error":{"code":599}}', 599),
        (b'{"error":{"code":503,"message":null,"details":5}}', 503),
        (b'{"error":{"code":200}}', 500),
        (b'{"error":{"code":600}}', 500),
        (b'{"error":{"code":-1}}', 500),
        (b'{"error":{"code":"429"}}', 500),
        (b'{"error":{}}', 500),
        (b'{"error":"text"}', 500),
        (b'{"error":{"code":1e400}}', 500),
        (b"oops", 500),
        (DEEP, 500),
    ],
)
def test_the_code_of_an_error_is_an_http_status_or_500(document: bytes, code: int) -> None:
    """Whatever else the document holds."""
    assert error_code(document) == code


# -- Large bodies, and those that have been read ----------------------------------------------------


def test_a_large_body_is_wrapped_without_a_copy_of_it() -> None:
    """What is sent is the client's own bytes, where they are; joined they are what a small body becomes."""
    body = b' {"contents":[{"parts":[{"text":"%s"}]}]}' % (b"x" * LARGE)
    found = wrap(body, project="p", model="m", request_id="r", user_agent="agm/1", session_id="s")
    assert isinstance(found, ByteChain)
    assert [piece.obj for piece in found.pieces if isinstance(piece, memoryview)] == [body]
    small = wrapped(b' {"contents":[{"parts":[{"text":""}]}]}', session_id="s")
    assert bytes(found) == small.replace(b'"text":""', b'"text":"%s"' % (b"x" * LARGE))
    assert len(found) == len(bytes(found))


@unhurried
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "contents": st.sampled_from([[{"parts": [1]}], {"role": "user", "parts": []}, [], 5]),
            "model": st.sampled_from([None, "m"]),
            "sessionId": st.sampled_from([None, "own"]),
            "session_id": st.just("own"),
            "tools": st.just([]),
        },
    ),
    st.sampled_from([None, "s"]),
)
def test_a_body_that_was_found_plain_is_wrapped_as_if_it_were_read_again(fields: object, session: str | None) -> None:
    """One that is not plain has something in it that wrapping has to see to."""
    body = json.dumps(fields).encode()
    assert wrapped(body, session_id=session, plain=look(body).plain) == wrapped(body, session_id=session)
