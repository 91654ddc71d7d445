"""
A request to ``/v1/messages`` as Gemini's ``GenerateContentRequest``.

Nothing that a client writes is dropped: it is said in Gemini's words, is of no consequence for the answer (who asks,
how Anthropic bills and caches), or is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs
import msgspec

from agm.api import TranslatedCall
from agm.dialects.anthropic.contents import Conversation
from agm.dialects.anthropic.errors import NoThreads
from agm.dialects.anthropic.settings import Thinking, configuration
from agm.dialects.anthropic.tools import TOOLS, read_tools
from agm.dialects.base import BadParameter, read_object
from agm.dialects.reading import Fields, array, object_, text

__all__ = ["Asked", "read_count", "read_request"]

#: Accepted, because they change nothing of the answer: Gemini caches prompts by itself, and counts what it had cached.
_WITHOUT_MEANING = ("cache_control", "metadata", "service_tier", "user_profile_id", "workspace_id")
_RARE = frozenset({*_WITHOUT_MEANING, "speed", "mcp_servers", "container", "inference_geo", "diagnostics", "thread"})
#: What Claude Code writes as the first line of its instructions, for Anthropic and not for the model.
_FOR_ANTHROPIC = re.compile(r"x-anthropic-[a-z-]+:[^\n]*")
#: Models that refuse a call of an earlier turn without a signature.
_SIGNED = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d|(?:pro|flash|flash-lite)-latest)")
#: What Google lets stand for the signature of a call that none of its models has made.
NO_SIGNATURE = "skip_thought_signature_validator"


@attrs.frozen
class Asked:
    """A request, translated: the call, and what its answer has to know of it."""

    call: TranslatedCall
    stream: bool
    #: Whether the client asked for thinking, and so keeps what is in thinking blocks.
    thinks: bool
    #: Whether at most one tool use may be answered with.
    one_call: bool


def read_request(body: bytes) -> Asked:
    """
    Translate a request for a message.

    :raises InvalidRequest: if it is no JSON object.
    :raises BadParameter: if something is missing, is not what it has to be, or is what Gemini does not have.
    """
    fields = Fields(read_object(body))
    model = fields.needed("model")
    stream = fields.flag("stream") is True
    document, foreign, one_call, left_out = _conversation(fields)
    config, thinking, more_left_out = configuration(fields)
    _refuse_the_rest(fields)
    document["generationConfig"] = config  # it is the last field, and has one at least
    return Asked(
        TranslatedCall(
            model,
            "streamGenerateContent" if stream else "generateContent",
            msgspec.json.encode(document),
            for_model=_Settle(document, thinking, foreign),
            left_out=left_out + more_left_out,
        ),
        stream=stream,
        thinks=thinking.asked,
        one_call=one_call,
    )


def read_count(body: bytes) -> TranslatedCall:
    """
    Translate a request for the number of tokens of a message's request.

    :raises BadParameter: as :func:`read_request` does.
    """
    fields = Fields(read_object(body))
    model = fields.needed("model")
    document, foreign, _, left_out = _conversation(fields)
    _, thinking, _ = configuration(fields, answers=False)
    _refuse_the_rest(fields)
    settle = _Settle(document, thinking, foreign)
    return TranslatedCall(
        model, "countTokens", settle.counting(b"", model), for_model=settle.counting, left_out=left_out
    )


def _conversation(fields: Fields) -> tuple[dict[str, Any], list[int], bool, tuple[str, ...]]:
    """Read what is said, and with which tools; with the turns whose calls none of Gemini's models has made."""
    document: dict[str, Any] = {}
    keep = _thinking_kept(fields)
    if system := _system(fields.take("system")):
        document["systemInstruction"] = {"parts": system}
    messages = fields.array("messages")
    if not messages:
        raise BadParameter("messages", "at least one message is required.")
    conversation = Conversation()
    conversation.read(messages, keep)
    document["contents"] = conversation.contents
    if not fields.any(TOOLS):
        return document, conversation.unsigned, False, ()
    tools = read_tools(fields)
    if tools.declared:
        document["tools"] = tools.declared
    if tools.choice is not None:
        document["toolConfig"] = tools.choice
    return document, conversation.unsigned, tools.one_call, tools.left_out


def _system(given: Any) -> list[dict[str, Any]]:
    """Read the instructions: a string or blocks of text."""
    if given is None:
        return []
    if isinstance(given, str):
        return [{"text": given}] if given else []
    parts = []
    for number, block in enumerate(array(given, "system")):
        place = f"system[{number}]"
        own = Fields(object_(block, place), f"{place}.")
        own.one_of("type", "text", why="Anthropic has")
        said = text(own.take("text"), own.at("text"))
        own.skip("cache_control", "citations")
        own.end()
        if said and not _FOR_ANTHROPIC.fullmatch(said.strip()):
            parts.append({"text": said})
    return parts


def _thinking_kept(fields: Fields) -> int | None:
    """
    Read ``context_management``: how many of the last turns with thinking keep it; None for all.

    :raises BadParameter: for what Anthropic would clear otherwise.
    """
    given = fields.object_("context_management")
    if given is None:
        return None
    own = Fields(given, "context_management.")
    keep: int | None = None
    for number, value in enumerate(own.array("edits") or []):
        place = f"context_management.edits[{number}]"
        edit = Fields(object_(value, place), f"{place}.")
        kind = edit.needed("type")
        if kind != "clear_thinking_20251015":
            raise BadParameter(f"{place}.type", f"{kind[:60]} is done at Anthropic's, and nobody does it for Gemini.")
        kept = edit.take("keep", {"type": "thinking_turns", "value": 1})
        if kept != "all":
            turns = Fields(object_(kept, f"{place}.keep"), f"{place}.keep.")
            turns.one_of("type", "thinking_turns", "all", why="Anthropic has")
            keep = turns.whole("value", 1)
            turns.end()
        edit.end()
    own.end()
    return keep


def _refuse_the_rest(fields: Fields) -> None:
    if not fields.any(_RARE):
        fields.end()
        return
    if fields.take("thread") is not None:
        raise NoThreads
    fields.skip(*_WITHOUT_MEANING)
    fields.refuse("speed", "Gemini has one speed.", unless=("standard",))
    fields.refuse("mcp_servers", "Gemini does not call MCP servers; let the client do it.", unless=([],))
    fields.refuse("container", "Gemini's code runs anew for every request.")
    fields.refuse("inference_geo", "where a request is served is a setting of the account that serves it.")
    fields.refuse("diagnostics", "Gemini does not tell why a prompt was not cached.", unless=({},))
    fields.end()


@lru_cache(maxsize=256)
def _thinking_config(thinking: Thinking, model: str) -> bytes:
    """Return the end of a body whose last field is ``generationConfig``; empty for a model that does not think."""
    config = thinking.for_model(model)
    return b"" if config is None else b',"thinkingConfig":' + msgspec.json.encode(config) + b"}}"


@attrs.frozen
class _Settle:
    """Settles what depends on the model that serves: how much it thinks, and whether it must have signatures."""

    document: Mapping[str, Any]
    thinking: Thinking
    #: Turns whose first call has no signature because another maker's model has made it.
    unsigned: list[int]

    def __call__(self, body: bytes, model: str) -> bytes:
        settled = self._signed(model)
        if settled is not None:
            body = msgspec.json.encode(settled)
        config = _thinking_config(self.thinking, model)
        return body if not config else body[:-2] + config  # within generationConfig, at its end

    def counting(self, body: bytes, model: str) -> bytes:
        """Settle a question for the number of tokens."""
        whole = {"model": f"models/{model}", **(self._signed(model) or self.document)}
        return msgspec.json.encode({"generateContentRequest": whole})

    def _signed(self, model: str) -> dict[str, Any] | None:
        if not self.unsigned or _SIGNED.match(model) is None:
            return None
        contents = list(self.document["contents"])
        for turn in self.unsigned:
            parts = list(contents[turn]["parts"])
            first = next(number for number, part in enumerate(parts) if "functionCall" in part)
            parts[first] = {**parts[first], "thoughtSignature": NO_SIGNATURE}
            contents[turn] = {**contents[turn], "parts": parts}
        return {**self.document, "contents": contents}
