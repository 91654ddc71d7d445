"""
The way of a model call: authenticate → read → apply the fault → answer, a line a step.

The three surfaces differ in paths, messages and envelopes; from there on a call is a call.  Nothing here touches a
socket: a call and the state go in, a reply comes out.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import attrs

from agm.emulator import credentials, embeddings, errors, faults, framing, generation, jsontext, schema, tokens, values
from agm.emulator.calls import Call, Target
from agm.emulator.errors import Circumstances, GoogleError, Kind
from agm.emulator.faults import Fault
from agm.emulator.replies import ESF, SCAFFOLDING, Cut, Hang, Reply, body_reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import Account, State

GENERATION = ("generateContent", "streamGenerateContent")
#: How large an inline request may be, in bytes.
MOST_BODY = 100 * 1024 * 1024

_ROLES = ("user", "model", "function", "tool")


def error_reply(error: GoogleError, *, kind: Kind, array: bool = False, trace: str = "") -> Reply:
    """Return an error as its kind prints it; `array` for a streaming call that is not answered with events."""
    document = error.document()
    body = framing.error_array(document) if array else framing.unary(document)
    headers = SCAFFOLDING
    if kind is Kind.CODE_ASSIST:
        headers = (*ESF, ("X-Cloudaicompanion-Trace-Id", trace))
    return body_reply(error.status, body, framing.JSON_TYPE, headers)


def in_array(call: Call, target: Target) -> bool:
    """Return whether an error comes as a JSON array: always on code-assist's streams, on others without ``alt=sse``."""
    return target.streaming and (target.kind is Kind.CODE_ASSIST or not call.sse)


def refuse(call: Call, target: Target, error: GoogleError, *, array: bool | None = None) -> Reply:
    """Return the reply to a call that failed."""
    # Google's is random; this one is the same for the same request.
    trace = hashlib.sha256(call.body).hexdigest()[:16] if target.kind is Kind.CODE_ASSIST else ""
    as_array = in_array(call, target) if array is None else array
    return error_reply(error, kind=target.kind, array=as_array, trace=trace)


@attrs.frozen
class Admitted:
    """A call that may go on: whose it is, and what its errors mention."""

    call: Call
    target: Target
    account: Account
    about: Circumstances


def admit(call: Call, state: State, entry: Entry, target: Target, *, keys: bool = True) -> Admitted:
    """
    Authenticate a call.

    :raises GoogleError: if the credential, or the account's standing, does not allow it.
    """
    entry.rpc, entry.model = target.method, target.model
    about = target.about("12345678", state.clock.now())
    account = credentials.authenticate(call, state, about, keys=keys)
    entry.account = account.name
    about = target.about(account.project_or_default, state.clock.now())
    credentials.check_standing(call, account, about)
    return Admitted(call, target, account, about)


def read_body(call: Call, message: str, kind: Kind) -> dict[str, Any]:
    """
    Return the request's message.

    :raises GoogleError: 400.
    """
    if len(call.body) > MOST_BODY:
        raise errors.too_large(MOST_BODY)
    return schema.read(jsontext.read(call.body), message, kind)


def hindrance(admitted: Admitted, state: State) -> tuple[Fault | None, Reply | None]:
    """
    Return the fault that is due for a call, and the reply to it if that is all that comes of the call.

    :raises GoogleError: if the account lacks the model, or its quota is used up.
    """
    target, about = admitted.target, admitted.about
    if not admitted.account.has_model(target.model):
        raise errors.model_not_found(about)
    fault = state.fault_for(admitted.account.name, target.model)
    if fault is not None and not faults.happens(fault, generation=target.method in GENERATION):
        fault = None
    if fault is not None:
        if fault.name == "close":
            return fault, Reply(200, steps=(Cut(),))
        if fault.name == "hang" and fault.number is None:
            return fault, Reply(200, steps=(Hang(),))
        error = errors.of_fault(about, fault)
        if error is not None:
            return fault, refuse(admitted.call, target, error, array=True if fault.name == "errarray" else None)
    use_quota(state, admitted.account, target.model, about)
    return fault, None


def use_quota(state: State, account: Account, model: str, about: Circumstances) -> None:
    """
    Use up one call of an account's quotas for a model.

    :raises GoogleError: 429, if there is none left.
    """
    exceeded = state.quota_left(account, model)
    if exceeded is not None:
        period, limit, delay = exceeded
        raise errors.quota_failure(about, period=period, limit=limit, delay=round(delay, 3))


def paced(answered: Reply, fault: Fault | None) -> Reply:
    """Return a reply that comes later, if that is the fault."""
    if fault is not None and fault.name == "latency":
        return generation.delayed(answered, (fault.number or 0.0) / 1000)
    return answered


def answer(admitted: Admitted, state: State, message: Mapping[str, Any]) -> Reply:
    """
    Answer a model call whose body was read: the fault that is due, the quota, and then the method.

    :raises GoogleError: for what the request lacks.
    """
    fault, hindered = hindrance(admitted, state)
    if hindered is not None:
        return hindered
    try:
        answered = _by_method(admitted, state, message, fault)
    except values.SchemaError:
        raise errors.invalid_argument() from None
    return paced(answered, fault)


def _by_method(admitted: Admitted, state: State, message: Mapping[str, Any], fault: Fault | None) -> Reply:
    call, target = admitted.call, admitted.target
    if target.method in GENERATION:
        check_contents(message, target)
        cached = None
        account, now = admitted.account.name, state.clock.now()
        if target.kind is Kind.API_KEY:
            cached = state.holdings.referenced(message, target.model, account, now)
        elif target.kind is Kind.VERTEX:
            cached = state.holdings.referenced_by_vertex(message, target.model, account, now)
        return generation.reply(
            generation.Generation(
                call=call,
                target=target,
                request=message,
                about=admitted.about,
                fault=fault,
                seed=state.seed,
                cached=cached,
            )
        )
    if target.method == "countTokens":
        document = count(message, target)
    elif target.method == "computeTokens":
        document = compute(message)
    else:
        document = embeddings.answer(target, message)
    headers = ESF if target.kind is Kind.CODE_ASSIST else SCAFFOLDING
    return json_reply(document, headers=headers, pretty_print=call.pretty_print)


def check_contents(request: Mapping[str, Any], target: Target) -> None:
    """
    Refuse contents that are well-formed and say nothing, or that lack the role where it is mandatory.

    :raises GoogleError: 400 in the words of the kind.
    """
    vertex = target.kind is Kind.VERTEX
    contents = request.get("contents") or ()
    if not contents:
        if vertex:
            raise errors.invalid_argument("at least one contents field is required")
        raise errors.invalid_argument("* GenerateContentRequest.contents: contents is not specified\n")
    for index, content in enumerate(contents):
        role = content.get("role", "")
        if (role or vertex) and role not in _ROLES:
            raise errors.invalid_argument("Please use a valid role: user, model.")
        if not content.get("parts"):
            if vertex:
                raise errors.invalid_argument(
                    "Unable to submit request because it must include at least one parts field, which describes the "
                    "prompt input. Learn more: "
                    "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"
                )
            raise errors.invalid_argument(
                f"* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty.\n"
            )
        for at, part in enumerate(content["parts"]):
            if not part.keys() & _DATA:
                raise errors.invalid_argument(
                    f"* GenerateContentRequest.contents[{index}].parts[{at}].data: required oneof field 'data' must "
                    "have one initialized field\n"
                )
    _check_config(request.get("generationConfig", {}))


_DATA = {field.name for field in schema.TABLES[Kind.API_KEY]["Part"].values() if field.oneof == "data"}
_RANGES = {
    "maxOutputTokens": (1, 65_537),
    "candidateCount": (1, 9),
    "temperature": (0, 2.000_1),
    "topP": (0, 1.000_1),
}


def _check_config(config: Mapping[str, Any]) -> None:
    for name, (low, end) in _RANGES.items():
        value = config.get(name)
        if value is not None and not low <= value < end:
            shown = f"{low} (inclusive) to {round(end)} ({'exclusive' if isinstance(end, int) else 'inclusive'})"
            raise errors.invalid_argument(
                f"Unable to submit request because it has a {name} value of {value} but the supported range is from "
                f"{shown}. Update the value and try again."
            )


def count(message: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """
    ``CountTokensResponse`` of the kind.

    :raises GoogleError: 400 if there is nothing to count.
    """
    counted_request = message.get("generateContentRequest") or message
    if not counted_request.get("contents") and not message.get("instances"):
        raise errors.invalid_argument("* CountTokensRequest.contents: contents is not specified\n")
    if target.kind is Kind.VERTEX:
        for content in counted_request.get("contents", ()):
            if not content.get("role"):
                raise errors.invalid_argument("Please use a valid role: user, model.")
    counted = tokens.of_request(counted_request)
    counted["TEXT"] += sum(tokens.of_json(instance) for instance in message.get("instances", ()))
    document: dict[str, Any] = {"totalTokens": counted.total()}
    if target.kind is Kind.CODE_ASSIST:
        return document
    if target.kind is Kind.VERTEX:
        document["totalBillableCharacters"] = tokens.billable_characters(counted_request.get("contents", ()))
    document["promptTokensDetails"] = tokens.details(counted)
    return document


def compute(message: Mapping[str, Any]) -> dict[str, Any]:
    """
    ``ComputeTokensResponse``: the pieces of each content's text, in base64, and their numbers.

    :raises GoogleError: 400 if there is nothing to count.
    """
    contents = message.get("contents") or ()
    if not contents:
        raise errors.invalid_argument("at least one contents field is required")
    found = []
    for content in contents:
        pieces = [piece for part in content.get("parts", ()) for piece in tokens.pieces(part.get("text", ""))]
        found.append(
            {
                "tokens": [base64.b64encode(piece).decode() for piece in pieces],
                "tokenIds": [str(zlib.crc32(piece) % 256_000) for piece in pieces],
                "role": content.get("role", "user"),
            }
        )
    return {"tokensInfo": found}
