"""The input of the Responses API as Gemini's contents: messages, calls with their outputs, and reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agm.dialects.base import BadParameter
from agm.dialects.openai import media
from agm.dialects.openai.messages import Conversation
from agm.dialects.openai.tools import CUSTOM_INPUT, SIGNED, answer_of, flat_name, read_call
from agm.dialects.reading import array, object_, text

__all__ = ["read_input"]

_ROLES = ("user", "assistant", "system", "developer")


class _Reader:
    """Reads the items in their order."""

    def __init__(self, instructions: str | None) -> None:
        self.said = Conversation()
        if instructions:
            self.said.instruction.append({"text": instructions})

    def item(self, item: Mapping[str, Any], place: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item, place)
            case "function_call" | "custom_tool_call" as kind:
                self._call(item, place, custom=kind == "custom_tool_call")
            case "function_call_output" | "custom_tool_call_output":
                self._output(item, place)
            case "reasoning":
                self._signature(item.get("encrypted_content"))
            case kind:
                known = "message, function_call, function_call_output, reasoning"
                why = "nothing is stored here" if kind == "item_reference" else f"there are {known}"
                raise BadParameter(f"{place}.type", f"{str(kind)[:40]!r} cannot be expressed; {why}.")

    def _signature(self, carried: Any) -> None:
        """Give the text before it back its signature; what another API has made carries none."""
        last = self.said.contents[-1] if self.said.contents else None
        if not isinstance(carried, str) or not carried.startswith(SIGNED) or last is None or last["role"] != "model":
            return
        part = last["parts"][-1]
        if "text" in part:
            part["thoughtSignature"] = carried.removeprefix(SIGNED)

    def _message(self, item: Mapping[str, Any], place: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise BadParameter(f"{place}.role", f"one of {', '.join(_ROLES)} is expected.")
        parts = self._parts(item.get("content"), f"{place}.content")
        if role in ("system", "developer"):
            self.said.instruction += parts
            return
        if role == "user":
            self.said.add("user", parts)
            return
        parts = [part for part in parts if part != {"text": ""}]
        last = self.said.contents[-1] if self.said.contents else None
        if last is not None and last["role"] == "model":
            last["parts"] += parts
        else:
            self.said.add("model", parts)

    def _parts(self, content: Any, place: str) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"text": content}]
        return [
            self._part(object_(part, f"{place}[{number}]"), f"{place}[{number}]")
            for number, part in enumerate(array(content, place))
        ]

    def _part(self, part: Mapping[str, Any], place: str) -> dict[str, Any]:
        match part.get("type"):
            case "input_text" | "output_text" | "text":
                return {"text": text(part.get("text"), f"{place}.text")}
            case "refusal":
                return {"text": text(part.get("refusal"), f"{place}.refusal")}
            case "input_image":
                self.said.detail(part.get("detail"), f"{place}.detail")
                if isinstance(file := part.get("file_id"), str):
                    return media.file_of({"file_id": file}, place)
                return media.by_url(text(part.get("image_url"), f"{place}.image_url"), f"{place}.image_url")
            case "input_file":
                return media.file_of(dict(part), place)
            case "input_audio":
                return media.sound(object_(part.get("input_audio"), f"{place}.input_audio"), f"{place}.input_audio")
            case kind:
                known = "input_text, output_text, input_image, input_file"
                raise BadParameter(f"{place}.type", f"{str(kind)[:40]!r} cannot be expressed; there are {known}.")

    def _call(self, item: Mapping[str, Any], place: str, *, custom: bool) -> None:
        identifier = text(item.get("call_id"), f"{place}.call_id")
        space = item.get("namespace")
        space = None if space is None else text(space, f"{place}.namespace")
        name = flat_name(space, text(item.get("name"), f"{place}.name"))
        if custom:
            part = read_call(name, "{}", identifier, None, place)
            part["functionCall"]["args"] = {CUSTOM_INPUT: text(item.get("input"), f"{place}.input")}
        else:
            arguments = text(item.get("arguments"), f"{place}.arguments")
            part = read_call(name, arguments, identifier, None, f"{place}.arguments")
        self.said.add_call(part, identifier)

    def _output(self, item: Mapping[str, Any], place: str) -> None:
        identifier = text(item.get("call_id"), f"{place}.call_id")
        name = self.said.called.get(identifier)
        if name is None:
            raise BadParameter(f"{place}.call_id", "no call before it has this id.")
        output = item.get("output")
        if isinstance(output, str):
            self.said.add_answer(answer_of(name, identifier, output))
            return
        parts = self._parts(output, f"{place}.output")
        said = "".join(part["text"] for part in parts if "text" in part)
        self.said.add_answer(answer_of(name, identifier, said))
        self.said.add("user", [part for part in parts if "text" not in part])  # a picture that a function returned


def read_input(given: Any, instructions: str | None) -> Conversation:
    """
    Read ``input`` and ``instructions``.

    :raises BadParameter: for what cannot be expressed, with its place.
    """
    reader = _Reader(instructions)
    if isinstance(given, str):
        reader.said.add("user", [{"text": given}])
    else:
        for number, item in enumerate(array(given, "input")):
            reader.item(object_(item, f"input[{number}]"), f"input[{number}]")
    if not reader.said.contents:
        raise BadParameter("input", "has nothing that a model can answer: a message of the user is needed.")
    return reader.said
