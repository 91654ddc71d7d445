"""``POST /v1/responses``: a request of the Responses API as a call of a model, and the answer as items or events."""

from __future__ import annotations

from typing import Any

import msgspec

from agm.api import TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, read_object, unreadable
from agm.dialects.gemini import read_response
from agm.dialects.openai import settings
from agm.dialects.openai.items import read_input
from agm.dialects.openai.output import Output, ResponseStream
from agm.dialects.openai.tools import NO_TOOLS, TOOLS, read_tools
from agm.dialects.reading import Fields

_BOOKKEEPING = (
    *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    *("client_metadata", "access_programs"),
)
_REFUSED = frozenset(
    {
        *_BOOKKEEPING,
        *("previous_response_id", "conversation", "store", "background", "prompt", "truncation", "service_tier"),
        *("max_tool_calls", "metadata", "stream_options"),
    }
)
#: What may be asked for beside the answer; what there is of it is told in any case.
_INCLUDE = ("reasoning.encrypted_content", "message.output_text.logprobs", "web_search_call.action.sources")


class Request:
    """
    A request, read.

    :ivar call: the call of a model that it comes to.
    :ivar streams: whether the answer streams.
    :ivar echo: what the answer repeats of the request.
    """

    def __init__(self, body: bytes) -> None:
        given = read_object(body)
        fields = Fields(given)
        self.model = fields.needed("model")
        self.streams = bool(fields.flag("stream"))
        if fields.any(_REFUSED):
            _refused(fields)
        config: dict[str, Any] = {}
        instructions = fields.text("instructions")
        said = read_input(fields.take("input", []), instructions)
        document = said.fields()
        self.tools = read_tools(fields, flat=True) if fields.any(TOOLS) else NO_TOOLS
        document.update(self.tools.fields)
        left_out = [*self.tools.left_out]
        settings.sampling(fields, config)
        if (most := fields.whole("max_output_tokens", 1)) is not None:
            config["maxOutputTokens"] = most
        logprobs = fields.whole("top_logprobs", 0, 20)
        if "message.output_text.logprobs" in _included(fields) or logprobs:
            config["responseLogprobs"] = True
            if logprobs:
                config["logprobs"] = logprobs
        written = Fields(fields.object_("text") or {}, "text.")
        if (form := written.take("format")) is not None:
            left_out += settings.response_format(form, "text.format", config, flat=True)
        _verbosity(written)
        written.end()
        effort = _reasoning(fields, config)
        if fields.any(settings.EXTRAS):
            settings.google_extras(fields, document, config)
        if said.resolution is not None:
            config["mediaResolution"] = said.resolution
        fields.end()
        if config:
            document["generationConfig"] = config
        self.echo = _echo(given)
        self.call = TranslatedCall(
            self.model,
            "streamGenerateContent" if self.streams else "generateContent",
            msgspec.json.encode(document),
            settings.for_model(effort, "reasoning.effort", unsigned=said.unsigned),
            tuple(left_out),
        )


def _included(fields: Fields) -> list[Any]:
    included = fields.array("include") or []
    for one in included:
        if one not in _INCLUDE:
            raise BadParameter("include", f"{str(one)[:60]!r} is nothing that there is here.")
    return included


def _verbosity(written: Fields) -> None:
    written.refuse("verbosity", "Gemini has no such thing; say it in the instructions.", unless=("medium",))


def _reasoning(fields: Fields, config: dict[str, Any]) -> str | None:
    """Read how much is to be thought, and whether thoughts are told."""
    given = Fields(fields.object_("reasoning") or {}, "reasoning.")
    effort = given.text("effort")
    summary = given.one_of("summary", "auto", "concise", "detailed") or given.take("generate_summary")
    given.skip("context")
    given.end()
    settings.thinking(effort, "reasoning.effort", config)
    if summary is not None and effort != "none":
        config.setdefault("thinkingConfig", {})["includeThoughts"] = True
    return effort


def _refused(fields: Fields) -> None:
    """Refuse what Gemini has not, unless it says what is so in any case."""
    stored = "responses are not stored here; send the whole conversation in input"
    fields.refuse("previous_response_id", f"{stored}.")
    fields.refuse("conversation", f"{stored}.")
    fields.refuse("store", f"{stored}, and store: false.", unless=(False,))
    fields.refuse("background", "a response is answered while its client waits.", unless=(False,))
    fields.refuse("prompt", "OpenAI's stored prompts are not here; send instructions and input.")
    fields.refuse("truncation", "nothing is left out of a conversation here.", unless=("disabled",))
    fields.refuse("service_tier", "the account decides it.", unless=("auto", "default"))
    fields.refuse("max_tool_calls", "Gemini has no such thing.")
    fields.skip("metadata", *_BOOKKEEPING)
    options = Fields(fields.object_("stream_options") or {}, "stream_options.")
    options.skip("include_obfuscation")
    options.end()


def _echo(given: dict[str, Any]) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    reasoning = given.get("reasoning") or {}
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata") or {},
        "parallel_tool_calls": given.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "temperature": given.get("temperature"),
        "text": given.get("text") or {"format": {"type": "text"}},
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": given.get("tools") or [],
        "top_p": given.get("top_p"),
    }


def translate(body: bytes) -> TranslatedCall:
    """Say which call of a model a request comes to."""
    return Request(body).call


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    asked = Request(visit.body)
    answered = await dialect.call(visit, asked.call)
    output = Output(asked.model, int(dialect.gateway.wall()), asked.echo, asked.tools)
    if asked.streams:
        await dialect.stream(visit, answered, ResponseStream(output))
        return
    try:
        output.take(read_response(await answered.read()))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise unreadable(e) from None
    output.finish()
    dialect.send(visit, answered, msgspec.json.encode(output.response()))
