"""
The Interactions API below ``/v1``, ``/v1beta`` and ``/v1alpha``: what is created is kept, and goes on.

This module knows the paths, checks what a request names, and keeps interactions; what is said is in
:mod:`agm.emulator.steps`, how it goes out in :mod:`agm.emulator.stepstream`, and the collections beside interactions
are in :mod:`agm.emulator.neighbours`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agm.emulator import answers, errors, framing, generation, jsontext, modelcalls, neighbours, steps
from agm.emulator import stepstream as wire
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind, timestamp
from agm.emulator.faults import Fault
from agm.emulator.holdings import Interaction
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import Cut, Hang, Reply, body_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

#: The revision of the schema that is spoken here.
REVISION = "2026-05-20"
#: How long a token for a live interaction is good, in seconds.
TOKEN_LIFETIME = 1800

_FIELDS = frozenset(
    {
        *("model", "agent", "agent_config", "input", "previous_interaction_id", "stream", "background", "store"),
        *("tools", "system_instruction", "generation_config", "response_format", "response_mime_type"),
        *("response_modalities", "service_tier", "webhook_config", "environment", "safety_settings", "labels"),
        *("continuation_token", "cached_content"),
    }
)
_OF_MODELS = ("generation_config", "cached_content")
_ROUTES = (
    (re.compile(r"interactions"), "POST", "CreateInteraction"),
    (re.compile(r"interactions/([^/:]+)"), "GET", "GetInteraction"),
    (re.compile(r"interactions/([^/:]+)"), "DELETE", "DeleteInteraction"),
    (re.compile(r"interactions/([^/:]+)/cancel"), "POST", "CancelInteraction"),
    (re.compile(r"interactions/([^/:]+)/auth_tokens"), "POST", "CreateInteractionAuthToken"),
    (re.compile(r"interactions/([^/:]+)/auth_tokens/([^/:]+)"), "DELETE", "DeleteInteractionAuthToken"),
)
#: What may be answered with events: a front end refuses a caller of these with an array.
_STREAMING = ("CreateInteraction", "GetInteraction")


@attrs.frozen
class _Context:
    """A call about interactions: by whom, when, and which of them."""

    call: Call
    state: State
    entry: Entry
    admitted: Admitted
    names: tuple[str, ...]

    @property
    def account(self) -> str:
        return self.admitted.account.name

    @property
    def now(self) -> float:
        return self.state.clock.now()

    @property
    def interaction(self) -> Interaction:
        """The one that the path names.  :raises GoogleError: 404."""
        return self.state.holdings.interaction(self.names[0], self.account)


def reply(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply | None:
    """Answer a call about interactions or their neighbours; None if the path is neither's."""
    for pattern, method, rpc in _ROUTES:
        match = pattern.fullmatch(rest) if method == call.method and not call.path.startswith("/upload/") else None
        if match is None:
            continue
        target = Target(Kind.API_KEY, version, "", rpc)
        try:
            admitted = modelcalls.admit(call, state, entry, target)
        except GoogleError as error:
            return modelcalls.error_reply(error, kind=Kind.API_KEY, array=rpc in _STREAMING)
        entry.model = None
        try:
            _check_revision(call)
            return _ANSWERS[rpc](_Context(call, state, entry, admitted, match.groups()))
        except GoogleError as error:
            return wire.error_reply(error)
    return neighbours.reply(call, state, entry, version, rest)


def _check_revision(call: Call) -> None:
    asked = call.headers.get("api-revision", REVISION)
    if asked < REVISION:
        raise GoogleError(
            400,
            "The legacy Interactions API schema is no longer supported. Please upgrade your client SDK to Python >= "
            "2.0.0 or JavaScript/TypeScript >= 2.0.0 to adopt the new 'steps' schema. For details and migration "
            "examples, see: https://ai.google.dev/gemini-api/docs/interactions-breaking-changes-may-2026",
        )


# -- create ------------------------------------------------------------------------------------------------------


def _create(context: _Context) -> Reply:
    message = _read(context.call)
    model = str(message.get("model") or "").removeprefix("models/")
    name = model or str(message.get("agent"))
    context.entry.model = name
    about = attrs.evolve(context.admitted.about, model=name, method="createInteraction")
    if model and not context.admitted.account.has_model(model):
        raise errors.model_not_found(about)
    fault = context.state.fault_for(context.account, name)
    if fault is not None and fault.name == "close":
        return Reply(200, steps=(Cut(),))
    if fault is not None and fault.name == "hang" and fault.number is None:
        return Reply(200, steps=(Hang(),))
    error = errors.of_fault(about, fault) if fault is not None else None
    if error is not None and fault is not None:
        array = fault.name == "errarray"
        return modelcalls.error_reply(error, kind=Kind.API_KEY, array=True) if array else wire.error_reply(error)
    modelcalls.use_quota(context.state, context.admitted.account, name, about)
    made = _made(context, message, model, fault)
    stored = message.get("store", True)
    if stored:
        context.state.holdings.interactions[made.name] = made
    streams = message.get("stream") is True
    if message.get("background") and not streams:
        return body_reply(200, framing.compact(_shown(made, status="in_progress")), framing.JSON_TYPE)
    made.status = made.ends
    told = _told(made, fault, numbered=stored)
    answered = wire.streamed(told) if streams else wire.unary(told)
    if fault is not None and fault.name == "latency":
        return generation.delayed(answered, (fault.number or 0.0) / 1000)
    return answered


def _read(call: Call) -> dict[str, Any]:
    """Return the message of a creation.  :raises GoogleError: 400 for what is not one."""
    if len(call.body) > modelcalls.MOST_BODY:
        raise errors.too_large(modelcalls.MOST_BODY)
    message = jsontext.read(call.body)
    if not isinstance(message, dict):
        raise GoogleError(400, "The request body must be a JSON object.")
    for unknown in sorted(message.keys() - _FIELDS):
        raise GoogleError(400, f"Unknown parameter '{unknown}'.")
    message = {field: value for field, value in message.items() if value is not None}
    if ("model" in message) == ("agent" in message):
        raise GoogleError(400, "Exactly one of 'model' and 'agent' must be specified.")
    for field in _OF_MODELS if "agent" in message else ("agent_config",):
        if field in message:
            raise GoogleError(400, f"'{field}' cannot be used with '{'agent' if 'agent' in message else 'model'}'.")
    if "input" not in message and "continuation_token" not in message:
        raise GoogleError(400, "'input' must be specified.")
    if message.get("store") is False and message.get("background"):
        raise GoogleError(400, "'background' requires 'store' to be true.")
    return message


def _made(context: _Context, message: Mapping[str, Any], model: str, fault: Fault | None) -> Interaction:
    """Return the interaction, answered as it will be in the end."""
    holdings, account, seed = context.state.holdings, context.account, context.state.seed
    turns: list[dict[str, Any]] = []
    if message.get("previous_interaction_id"):
        turns += holdings.interaction(message["previous_interaction_id"], account).turns
    try:
        turns += steps.turns_of(message.get("input"))
    except (AttributeError, TypeError):
        raise GoogleError(400, "'input' must be a text, contents, or steps.") from None
    cached = _referenced(context, message, model, turns)
    if "agent" in message:
        neighbours.check_agent(context.state, account, message["agent"])
    request = steps.as_request(message, turns)
    name = model or message["agent"]
    answer = answers.compose(name, request, seed=seed, text=wire.text_for(fault), cached=cached)
    digest = answers.digest_of(seed, name, request)
    said = steps.of_answer(answer, digest)
    ends = steps.status_of(said, answer)
    if fault is not None and fault.name == "emptyparts":
        said = [{**step, "content": []} if step["type"] == "model_output" else step for step in said]
    elif fault is not None and fault.name == "blockprompt":
        said, ends = [], "failed"
    return Interaction(
        name=name_of(holdings.new_id(seed, 23)),
        account=account,
        named={"model": name} if model else {"agent": name},
        given={name: message[name] for name in ("input", "previous_interaction_id", "labels") if name in message},
        steps=said,
        usage=steps.usage_of(answer, said),
        ends=ends,
        turns=[*turns, *steps.said_in(said)],
        environment=neighbours.environment_for(context.state, account, message.get("environment")),
        created=context.now,
        updated=context.now,
    )


def _referenced(
    context: _Context, message: Mapping[str, Any], model: str, turns: list[dict[str, Any]]
) -> Mapping[str, Any] | None:
    """Check the files and the cache that are named; what the cache stands for."""
    request = steps.files_in(turns)
    if message.get("cached_content"):
        request = {**request, "cachedContent": message["cached_content"]}
    return context.state.holdings.referenced(request, model, context.account, context.now)


def name_of(word: str) -> str:
    """Return an id as Google makes them: a message of two words that are the same, in base64."""
    field = bytes([len(word)]) + word.encode()
    return "v1_" + base64.urlsafe_b64encode(b"\x0a" + field + b"\x12" + field).decode().rstrip("=")


# -- what is kept ------------------------------------------------------------------------------------------------


def _shown(made: Interaction, *, status: str = "", with_input: bool = False) -> dict[str, Any]:
    """``Interaction``: what it says is in it once it has ended."""
    status = status or made.status
    document: dict[str, Any] = {"id": made.name, "status": status}
    if status == made.ends:
        document |= {"steps": list(made.steps), "usage": made.usage}
    if with_input:
        document["input"] = made.given.get("input")
    document |= {"created": second(made.created), "updated": second(made.updated), "service_tier": "standard"}
    if made.environment:
        document["environment_id"] = made.environment
    document |= {name: value for name, value in made.given.items() if name != "input"}
    return {**document, "object": "interaction", **made.named}


def second(moment: float) -> str:
    return timestamp(int(moment))


def _told(made: Interaction, fault: Fault | None = None, *, numbered: bool = True, after: str = "") -> wire.Telling:
    return wire.Telling(_shown(made), fault, numbered, after)


def _get(context: _Context) -> Reply:
    """Each look moves an interaction in the background on: in progress, then ended; a stream shows it to its end."""
    made, query = context.interaction, context.call.query
    streams = query.get("stream") == "true"
    if made.status == "in_progress" and (streams or made.looked):
        made.status, made.updated = made.ends, context.now
    made.looked = True
    if query.get("last_event_id") and not streams:
        raise GoogleError(400, "'last_event_id' can only be used if 'stream' is true.")
    if streams:
        return wire.streamed(_told(made, after=query.get("last_event_id", "")))
    shown = _shown(made, with_input=query.get("include_input") == "true")
    return body_reply(200, framing.compact(shown), framing.JSON_TYPE)


def _cancel(context: _Context) -> Reply:
    made = context.interaction
    if made.status != "in_progress":
        raise GoogleError(400, f"The interaction is not in progress: its status is {made.status}.")
    made.status, made.updated = "cancelled", context.now
    return body_reply(200, framing.compact(_shown(made)), framing.JSON_TYPE)


def _delete(context: _Context) -> Reply:
    del context.state.holdings.interactions[context.interaction.name]
    return body_reply(200, b"{}", framing.JSON_TYPE)


def _create_token(context: _Context) -> Reply:
    made = context.interaction
    token = f"auth_tokens/{context.state.holdings.new_id(context.state.seed, 40)}"
    made.tokens.append(token)
    document = {"auth_token": token, "expires_at": second(context.now + TOKEN_LIFETIME)}
    return body_reply(200, framing.compact(document), framing.JSON_TYPE)


def _delete_token(context: _Context) -> Reply:
    made, token = context.interaction, f"auth_tokens/{context.names[1]}"
    if token not in made.tokens:
        raise GoogleError(404, "Auth token not found.")
    made.tokens.remove(token)
    return body_reply(200, b"{}", framing.JSON_TYPE)


_ANSWERS: Mapping[str, Callable[[_Context], Reply]] = {
    "CreateInteraction": _create,
    "GetInteraction": _get,
    "DeleteInteraction": _delete,
    "CancelInteraction": _cancel,
    "CreateInteractionAuthToken": _create_token,
    "DeleteInteractionAuthToken": _delete_token,
}
