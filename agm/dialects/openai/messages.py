"""The messages of a chat as Gemini's contents: turns, calls of functions and their answers, and the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from agm.dialects.base import BadParameter
from agm.dialects.openai import media
from agm.dialects.openai.tools import CUSTOM_INPUT, answer_of, read_call, signature_in
from agm.dialects.reading import array, object_, text

__all__ = ["Conversation", "read_messages"]

_RESOLUTIONS = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}


@attrs.define
class Conversation:
    """What has been said, in Gemini's form."""

    contents: list[dict[str, Any]] = attrs.field(factory=list)
    instruction: list[dict[str, Any]] = attrs.field(factory=list)
    #: The most detail that is asked for of an image; None where nothing is said of it.
    resolution: str | None = None
    #: Whether a turn has a call without a signature.
    unsigned: bool = False
    #: The functions that have been called, by the ids of the calls.
    called: dict[str, str] = attrs.field(factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return Gemini's fields."""
        made: dict[str, Any] = {"contents": self.contents}
        if self.instruction:
            made["systemInstruction"] = {"parts": self.instruction}
        return made

    def add(self, role: str, parts: list[dict[str, Any]]) -> None:
        """Add a turn; one that says nothing is none."""
        if parts:
            self.contents.append({"role": role, "parts": parts})

    def add_answer(self, part: dict[str, Any]) -> None:
        """Add what a function returned; those of parallel calls are one turn."""
        last = self.contents[-1] if self.contents else None
        if last is not None and last["role"] == "user" and "functionResponse" in last["parts"][-1]:
            last["parts"].append(part)
        else:
            self.add("user", [part])

    def add_call(self, part: dict[str, Any], identifier: str) -> None:
        """Add a call that the model has made; those of one answer are one turn."""
        self.called[identifier] = part["functionCall"]["name"]
        last = self.contents[-1] if self.contents else None
        if last is not None and last["role"] == "model":
            if "thoughtSignature" not in part and not any("functionCall" in other for other in last["parts"]):
                self.unsigned = True
            last["parts"].append(part)
        else:
            self.unsigned = self.unsigned or "thoughtSignature" not in part
            self.add("model", [part])

    def detail(self, word: Any, place: str) -> None:
        """Note how closely an image is to be looked at."""
        if word in (None, "auto"):
            return
        if word not in ("low", "high", "original"):
            raise BadParameter(place, "one of auto, low, high is expected.")
        if self.resolution != _RESOLUTIONS["high"]:
            self.resolution = _RESOLUTIONS["low" if word == "low" else "high"]


def read_messages(messages: list[Any]) -> Conversation:
    """
    Read the messages of a chat.

    :raises BadParameter: for what cannot be expressed, with its place.
    """
    said = Conversation()
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        message = object_(message, place)
        role = message.get("role")
        if role in ("system", "developer"):
            said.instruction += _parts(message, place, said)
        elif role == "user":
            said.add("user", _parts(message, place, said))
        elif role == "assistant":
            _assistant(message, place, said)
        elif role == "tool":
            identifier = text(message.get("tool_call_id"), f"{place}.tool_call_id")
            name = said.called.get(identifier)
            if name is None:
                raise BadParameter(f"{place}.tool_call_id", "no call before it has this id.")
            said.add_answer(answer_of(name, identifier, _plain(message.get("content"), f"{place}.content")))
        else:
            known = "system, developer, user, assistant, tool"
            raise BadParameter(f"{place}.role", f"{str(role)[:40]!r} cannot be expressed; there are {known}.")
    if not said.contents:
        raise BadParameter("messages", "has nothing that a model can answer: a message of the user is needed.")
    return said


def _named(message: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the name of whoever speaks, which Gemini has no field for, as a text before what they say."""
    name = message.get("name")
    return [] if name is None else [{"text": f"{text(name, f'{place}.name')}: "}]


def _parts(message: Mapping[str, Any], place: str, said: Conversation) -> list[dict[str, Any]]:
    content = message.get("content")
    named = _named(message, place)
    if isinstance(content, str):
        return [*named, {"text": content}]
    found = [*named]
    for number, part in enumerate(array(content, f"{place}.content")):
        at = f"{place}.content[{number}]"
        found.append(_part(object_(part, at), at, said))
    return found


def _part(part: Mapping[str, Any], place: str, said: Conversation) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": text(part.get("text"), f"{place}.text")}
        case "image_url" | "video_url" as kind:
            image = object_(part.get(kind), f"{place}.{kind}")
            said.detail(image.get("detail"), f"{place}.{kind}.detail")
            return media.by_url(text(image.get("url"), f"{place}.{kind}.url"), f"{place}.{kind}.url")
        case "input_audio":
            return media.sound(object_(part.get("input_audio"), f"{place}.input_audio"), f"{place}.input_audio")
        case "file":
            return media.file_of(object_(part.get("file"), f"{place}.file"), f"{place}.file")
        case "refusal":
            return {"text": text(part.get("refusal"), f"{place}.refusal")}
        case kind:
            known = "text, image_url, input_audio, file"
            raise BadParameter(f"{place}.type", f"{str(kind)[:40]!r} cannot be expressed; there are {known}.")


def _plain(content: Any, place: str) -> str:
    """Return the text of a content that has nothing else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(array(content, place)):
        part = object_(part, f"{place}[{number}]")
        if part.get("type") != "text":
            raise BadParameter(f"{place}[{number}].type", "a function returns text alone.")
        texts.append(text(part.get("text"), f"{place}[{number}].text"))
    return "".join(texts)


def _assistant(message: Mapping[str, Any], place: str, said: Conversation) -> None:
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            raise BadParameter(f"{place}.{name}", "cannot be expressed; use content and tool_calls.")
    parts: list[dict[str, Any]] = []
    if message.get("content") is not None:
        parts = [part for part in _parts(message, place, said) if part != {"text": ""}]
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        parts.append({"text": refusal})
    signature = signature_in(message)
    if signature is not None:
        last = parts[-1] if parts else {"text": ""}
        last["thoughtSignature"] = signature
        parts = parts or [last]
    if said.contents and said.contents[-1]["role"] == "model":
        said.contents[-1]["parts"] += parts  # two answers without a question between them are one
    else:
        said.add("model", parts)
    calls = message.get("tool_calls")
    for number, call in enumerate(() if calls is None else array(calls, f"{place}.tool_calls")):
        _call(object_(call, f"{place}.tool_calls[{number}]"), f"{place}.tool_calls[{number}]", said)


def _call(call: Mapping[str, Any], place: str, said: Conversation) -> None:
    kind = call.get("type", "function")
    if kind == "custom":
        custom = object_(call.get("custom"), f"{place}.custom")
        identifier = text(call.get("id"), f"{place}.id")
        part = read_call(text(custom.get("name"), f"{place}.custom.name"), "{}", identifier, signature_in(call), place)
        part["functionCall"]["args"] = {CUSTOM_INPUT: text(custom.get("input"), f"{place}.custom.input")}
        said.add_call(part, identifier)
        return
    if kind != "function":
        raise BadParameter(f"{place}.type", "calls of functions and of custom tools can be expressed.")
    function = object_(call.get("function"), f"{place}.function")
    identifier = text(call.get("id"), f"{place}.id")
    name = text(function.get("name"), f"{place}.function.name")
    arguments = text(function.get("arguments", ""), f"{place}.function.arguments")
    part = read_call(name, arguments, identifier, signature_in(call), f"{place}.function.arguments")
    said.add_call(part, identifier)
