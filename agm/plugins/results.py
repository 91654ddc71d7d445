"""What each hook may return, so that a mistake is named where it was made."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping

import msgspec

from agm.core.answer import Answer, KeepAnswer, LocalAnswer, check_header
from agm.core.classify import Verdict
from agm.core.request import Account, AccountChoice, EndStream, ModelChoice, UpstreamRequest
from agm.core.wire.bytechain import ByteChain
from agm.plugins.manager import MAY_AWAIT
from agm.upstream.accounts import AccountSource

#: What each hook may return beside None, and how that is called.
_RESULTS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "agm_upstream_kinds": ((Iterable,), "UpstreamKinds are expected"),
    "agm_settings": ((Mapping,), "a msgspec.Struct for each table, by its name, is expected"),
    "agm_configure": ((object,), "nothing is expected"),
    "agm_client_keys": ((Iterable,), "sources of client keys are expected, each with a lookup"),
    "agm_accounts": ((Iterable,), "AccountSources are expected"),
    "agm_started": ((object,), "nothing is expected"),
    "agm_look_up": ((Mapping,), "what was found, by name, is expected"),
    "agm_map_model": ((ModelChoice, str), "a ModelChoice or a name is expected"),
    "agm_answer_request": (
        (LocalAnswer, Answer, KeepAnswer),
        "a LocalAnswer, the Answer of a gateway.call or a KeepAnswer is expected",
    ),
    "agm_transform_request": ((dict,), "the body, a dict, is expected"),
    "agm_filter_accounts": ((Mapping,), "names of accounts with reasons are expected"),
    "agm_select_account": ((Account, AccountChoice), "an AccountChoice or an Account is expected"),
    "agm_wrap_request": ((UpstreamRequest,), "an UpstreamRequest is expected"),
    "agm_classify_error": ((Verdict,), "a Verdict is expected"),
    "agm_transform_event": ((dict, list, EndStream), "the event, a dict, is expected, or a list of them, or EndStream"),
    "agm_answer_headers": ((Mapping,), "headers by their names are expected"),
    "agm_attempt_finished": ((object,), "nothing is expected"),
    "agm_request_finished": ((object,), "nothing is expected"),
    "agm_alert": ((object,), "nothing is expected"),
    "agm_resources": ((Mapping,), "resources by the first segment of their path are expected"),
    "agm_stopping": ((object,), "nothing is expected"),
}
_SENDABLE = re.compile(r"/[\x21-\x7e]*")
#: The header of a request, as RFC 9110 has it; a line break in one would begin another.
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")

#: Headers that follow from the form of an answer.
_FORM_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "content-encoding", "content-type"})


def checked(hook: str, result: object) -> object:
    """
    Check what a hook returned, and return it.

    :raises TypeError: if it may not.
    """
    if result is None or type(result) is KeepAnswer:  # whose maker has checked it
        return result
    expected, what = _RESULTS[hook]
    if not isinstance(result, expected) or result == "":
        raise TypeError(f"it returned a {type(result).__name__}; {what}")
    if hook in ("agm_client_keys", "agm_accounts"):
        items = list(result)  # type: ignore[call-overload]  # it is iterable, by the line above
        wrong = [item for item in items if not _fits(hook, item)]
        if wrong:
            raise TypeError(f"it returned a {type(wrong[0]).__name__} among others; {what}")
        return items
    if hook == "agm_transform_event" and not isinstance(result, dict):
        events = result.events if isinstance(result, EndStream) else result
        wrong = [event for event in events if not isinstance(event, dict)]  # type: ignore[attr-defined]
        if wrong:
            raise TypeError(f"it returned a {type(wrong[0]).__name__} among the events; {what}")
    if hook == "agm_answer_headers":
        for name, value in result.items():  # type: ignore[attr-defined]
            check_header(name, value)
    if isinstance(result, UpstreamRequest) and not _can_be_sent(result):
        raise TypeError("it returned an UpstreamRequest whose path, headers or body cannot be sent")
    if hook == "agm_settings" and isinstance(result, Mapping):
        for name, schema in result.items():
            if not (isinstance(name, str) and isinstance(schema, type) and issubclass(schema, msgspec.Struct)):
                raise TypeError(f"it returned {name!r}: {schema!r} among others; {what}")
    if isinstance(result, LocalAnswer):
        _check_local(result)
    return result


def _check_local(answer: LocalAnswer) -> None:
    if not isinstance(answer.status, int) or not 200 <= answer.status <= 599:
        raise TypeError(f"it returned a LocalAnswer with the status {answer.status!r}; give 200 to 599")
    for name, value in answer.headers.items():
        if not (
            isinstance(name, str)
            and isinstance(value, str)
            and name.isascii()
            and _HEADER_NAME.fullmatch(name.encode()) is not None
            and _HEADER_VALUE.fullmatch(value.encode("latin-1", "replace")) is not None
            and name.lower() not in _FORM_HEADERS
        ):
            raise TypeError(f"it returned a LocalAnswer with the header {name!r}, which cannot be sent")


def checked_wrapper(hook: str, first: bool, inner: object, outer: object) -> object:
    """
    Return what a wrapper returned, if it may return that for what it got.

    :param first: whether the hook ends with its first result; all others give a list of them.
    :param inner: what the implementations below it returned.
    :param outer: what the wrapper made of it.
    :raises TypeError: if it may not; it has most often forgotten to return anything.
    """
    if outer is inner:
        return outer
    if first:
        if outer is None:
            raise TypeError("its wrapper returned nothing; a wrapper returns what it got, or something in its place")
        return checked(hook, outer)
    if not isinstance(outer, list):
        raise TypeError(f"its wrapper returned {_called(outer)}; a wrapper of this hook returns the list that it got")
    may_await = hook in MAY_AWAIT
    return [each if may_await and inspect.isawaitable(each) else checked(hook, each) for each in outer]


def _called(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _fits(hook: str, item: object) -> bool:
    return isinstance(item, AccountSource) if hook == "agm_accounts" else callable(getattr(item, "lookup", None))


def _can_be_sent(request: UpstreamRequest) -> bool:
    return (
        isinstance(request.path, str)
        and _SENDABLE.fullmatch(request.path) is not None
        and isinstance(request.content, bytes | ByteChain)
        and all(
            isinstance(name, bytes)
            and isinstance(value, bytes)
            and _HEADER_NAME.fullmatch(name) is not None
            and _HEADER_VALUE.fullmatch(value) is not None
            for name, value in request.headers
        )
    )
