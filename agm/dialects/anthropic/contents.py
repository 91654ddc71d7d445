"""Messages of a conversation as Gemini's contents: blocks as parts, turn by turn."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agm.dialects.anthropic.signatures import CallId, read_call_id, read_seal
from agm.dialects.base import BadParameter
from agm.dialects.reading import Fields, array, object_, text

__all__ = ["Conversation"]

Part = dict[str, Any]


class Conversation:
    """
    Reads messages, one after the other.

    :ivar contents: Gemini's contents; turns that follow each other with one role are one, as Anthropic reads them.
    :ivar unsigned: which of them begin their calls with one that was not made here, and so has no signature.
    """

    def __init__(self) -> None:
        self.contents: list[dict[str, Any]] = []
        self.unsigned: list[int] = []
        #: What was called, by the id of the tool use: the name, Gemini's id, and its place among the turn's calls.
        self._calls: dict[str, tuple[str, str | None, int]] = {}
        #: The signature that belongs to the next part.
        self._next: str | None = None
        self._keeps_thinking = True

    def read(self, messages: Sequence[Any], keep: int | None = None) -> None:
        """
        Read all messages.

        :param keep: how many of the last turns with thinking keep it; None for all.
        :raises BadParameter: if one is not well formed, or has what Gemini does not.
        """
        thinking = [] if keep is None else [n for n, message in enumerate(messages) if _has_thinking(message)]
        first_kept = 0 if keep is None or keep >= len(thinking) else thinking[-keep]
        for number, message in enumerate(messages):
            place = f"messages[{number}]"
            own = Fields(object_(message, place), f"{place}.")
            role = own.needed("role")
            content = own.take("content")
            own.end()
            if role not in ("user", "assistant", "system"):
                raise BadParameter(f"{place}.role", "user, assistant or system is expected.")
            self._keeps_thinking = number >= first_kept
            self._turn(role, content, f"{place}.content")

    def _turn(self, role: str, content: Any, place: str) -> None:
        speaker = "model" if role == "assistant" else "user"
        if speaker == "user":
            self._next = None
        if isinstance(content, str) and role != "system" and self._next is None:  # as most are
            self._add(speaker, [{"text": content}] if content else [])
            return
        blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else array(content, place)
        parts: list[Part] = []
        readers = _READERS[role]
        for number, value in enumerate(blocks):
            if role != "system" and self._next is None and _is_plain(value):
                if value["text"]:
                    parts.append({"text": value["text"]})
                continue
            at = f"{place}[{number}]"
            block = Fields(object_(value, at), f"{at}.")
            kind = block.needed("type")
            reader = readers.get(kind)
            if reader is None:
                raise BadParameter(f"{at}.type", f"{kind[:60]} cannot be expressed for Gemini in a turn of {role}.")
            block.skip("cache_control")
            reader(self, block, parts)
            block.end()
        self._add(speaker, _in_order_of_calls(parts) if len(parts) > 1 else parts)

    def _add(self, speaker: str, parts: list[Part]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == speaker:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": speaker, "parts": parts})
        if speaker == "user":
            for part in parts:
                part.pop(_PLACE, None)
            return
        here = len(self.contents) - 1
        first = next((part for part in self.contents[here]["parts"] if "functionCall" in part), None)
        if first is not None and first.pop(_FOREIGN, False):
            self.unsigned.append(here)
        for part in parts:
            part.pop(_FOREIGN, None)

    # -- Blocks: what a user says ---------------------------------------------------------------------

    def text(self, block: Fields, parts: list[Part]) -> None:
        said = text(block.take("text"), block.at("text"))
        block.skip("citations")  # of an answer, on its way back; its text is here
        signature, self._next = self._next, None
        if said:
            parts.append({"text": said, **_signed(signature)})

    def instruction(self, block: Fields, parts: list[Part]) -> None:
        """Read an instruction amid the conversation, where Gemini has turns of users and models alone."""
        said = text(block.take("text"), block.at("text"))
        block.skip("citations")
        if said:
            parts.append({"text": f"<system>\n{said}\n</system>"})

    def image(self, block: Fields, parts: list[Part]) -> None:
        block.refuse("transformations", "Gemini takes images as they are.", unless=({},))
        source = Fields(object_(block.take("source"), block.at("source")), block.at("source."))
        parts.append(_media(source, "image/jpeg"))

    def document(self, block: Fields, parts: list[Part]) -> None:
        _no_citations(block)
        head = [given for name in ("title", "context") if (given := block.text(name))]
        if head:
            parts.append({"text": "Document: " + "\n".join(head)})
        source = Fields(object_(block.take("source"), block.at("source")), block.at("source."))
        kind = source.needed("type")
        if kind == "text":
            source.one_of("media_type", "text/plain", why="Anthropic has")
            if said := text(source.take("data"), source.at("data")):
                parts.append({"text": said})
            source.end()
        elif kind == "content":
            self._blocks(source.take("content"), source.at("content"), parts)
            source.end()
        else:
            parts.append(_media(source, "application/pdf", kind))

    def search_result(self, block: Fields, parts: list[Part]) -> None:
        _no_citations(block)
        parts.append({"text": f"{block.needed('title')}\n{block.needed('source')}"})
        self._blocks(block.take("content"), block.at("content"), parts)

    def _blocks(self, content: Any, place: str, parts: list[Part]) -> None:
        """Read what is within a document or a result: text and media."""
        if isinstance(content, str):
            if content:
                parts.append({"text": content})
            return
        for number, value in enumerate(array(content, place)):
            at = f"{place}[{number}]"
            inner = Fields(object_(value, at), f"{at}.")
            kind = inner.needed("type")
            reader = _WITHIN.get(kind)
            if reader is None:
                raise BadParameter(f"{at}.type", f"{kind[:60]} cannot be expressed for Gemini there.")
            inner.skip("cache_control")
            reader(self, inner, parts)
            inner.end()

    def tool_result(self, block: Fields, parts: list[Part]) -> None:
        """
        Read what a tool has said: ``output`` or ``error`` of the response, as Google asks, and media beside it.

        Beside and not within it, because models before Gemini 3 take no media within.
        """
        used = block.needed("tool_use_id")
        if used not in self._calls:
            raise BadParameter(block.at("tool_use_id"), f"no tool_use of the turns before has the id {used[:80]!r}.")
        name, call, place = self._calls[used]
        key = "error" if block.flag("is_error") else "output"
        inner: list[Part] = []
        if (content := block.take("content")) is not None:
            self._blocks(content, block.at("content"), inner)
        said = "\n".join(part["text"] for part in inner if "text" in part)
        response: Part = {"name": name, "response": {key: said}}
        if call is not None:
            response["id"] = call
        parts.append({"functionResponse": response, _PLACE: place})
        parts += [part for part in inner if "text" not in part]

    # -- Blocks: what the model has said --------------------------------------------------------------

    def thinking(self, block: Fields, parts: list[Part]) -> None:
        said = text(block.take("thinking"), block.at("thinking"))
        seal = read_seal(block.text("signature") or "")
        if seal is None:
            return  # another maker's model has thought that; nobody but it can read the signature
        if seal.of == "next":
            self._next = seal.signature
        if said and self._keeps_thinking:
            parts.append({"text": said, "thought": True, **_signed(seal.signature if seal.of == "thought" else None)})

    def redacted_thinking(self, block: Fields, parts: list[Part]) -> None:
        seal = read_seal(block.needed("data"))
        if seal is None or seal.signature is None:
            return
        if seal.of == "last":  # some clients send every block as a message of its own
            said = parts or (self.contents[-1]["parts"] if self.contents else [])
            if said:
                said[-1].update(_signed(seal.signature))
        else:
            parts.append({"text": "", **_signed(seal.signature)})

    def tool_use(self, block: Fields, parts: list[Part]) -> None:
        written = block.needed("id")
        name = block.needed("name")
        given = object_(block.take("input", {}), block.at("input"))
        _direct(block)
        held = read_call_id(written)
        if written not in self._calls:
            self._calls[written] = (name, held.call if held else None, len(self._calls))
        call: Part = {"name": name, "args": given}
        if held is not None and held.call is not None:
            call["id"] = held.call
        part = {"functionCall": call, **_signed(held.signature if held else None)}
        if held is None:
            part[_FOREIGN] = True
        parts.append(part)

    def server_tool_use(self, block: Fields, parts: list[Part]) -> None:
        written = block.needed("id")
        name = block.needed("name")
        given = object_(block.take("input", {}), block.at("input"))
        _direct(block)
        if name == "web_search":
            return  # Gemini does not get its own searches back
        if name != "code_execution":
            raise BadParameter(block.at("name"), f"{name[:60]} is a tool of Anthropic's own that Google has none for.")
        code = text(given.get("code"), block.at("input.code"))
        signature = (read_call_id(written) or CallId()).signature
        parts.append({"executableCode": {"language": "PYTHON", "code": code}, **_signed(signature)})

    def web_search_tool_result(self, block: Fields, parts: list[Part]) -> None:
        block.skip("tool_use_id", "content", "caller")

    def code_execution_tool_result(self, block: Fields, parts: list[Part]) -> None:
        block.skip("tool_use_id")
        content = Fields(object_(block.take("content"), block.at("content")), block.at("content."))
        content.one_of("type", "code_execution_result")
        failed = bool(content.whole("return_code"))
        output = content.text("stderr" if failed else "stdout") or ""
        result = {"outcome": "OUTCOME_FAILED" if failed else "OUTCOME_OK", "output": output}
        parts.append({"codeExecutionResult": result})


_PLAIN_TEXT = frozenset({"type", "text"})
#: Notes on a part while its turn is read: that a call is another maker's, and which call a response is of.
_FOREIGN, _PLACE = "\0foreign", "\0place"

Reader = Callable[[Conversation, Fields, list[Part]], None]
_WITHIN: Mapping[str, Reader] = {
    "text": Conversation.text,
    "image": Conversation.image,
    "document": Conversation.document,
    "search_result": Conversation.search_result,
}
_READERS: Mapping[str, Mapping[str, Reader]] = {
    "user": {**_WITHIN, "tool_result": Conversation.tool_result},
    "assistant": {
        "text": Conversation.text,
        "thinking": Conversation.thinking,
        "redacted_thinking": Conversation.redacted_thinking,
        "tool_use": Conversation.tool_use,
        "server_tool_use": Conversation.server_tool_use,
        "web_search_tool_result": Conversation.web_search_tool_result,
        "code_execution_tool_result": Conversation.code_execution_tool_result,
    },
    "system": {"text": Conversation.instruction},
}


def _is_plain(block: Any) -> bool:
    """Return whether a block is text and says nothing else."""
    if not isinstance(block, dict) or block.keys() != _PLAIN_TEXT:
        return False
    return block["type"] == "text" and isinstance(block["text"], str)


def _signed(signature: str | None) -> Part:
    return {"thoughtSignature": signature} if signature else {}


def _has_thinking(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "thinking" for block in content
    )


def _no_citations(block: Fields) -> None:
    if (citations := block.object_("citations")) is not None and citations.get("enabled"):
        raise BadParameter(block.at("citations"), "Gemini does not cite what it is given.")


def _direct(block: Fields) -> None:
    block.skip("toolset_name")
    caller = block.object_("caller")
    if caller is not None and caller.get("type") != "direct":
        raise BadParameter(block.at("caller"), "Gemini's code cannot call tools.")


def _in_order_of_calls(parts: list[Part]) -> list[Part]:
    """
    Put responses in the order of their calls, each with what came with it.

    Gemini tells responses apart by their order where calls have no ids, and Anthropic's clients by ids alone.
    """
    places = [part[_PLACE] for part in parts if _PLACE in part]
    if places == sorted(places):
        return parts
    first = next(number for number, part in enumerate(parts) if _PLACE in part)
    groups: list[list[Part]] = []
    for part in parts[first:]:
        if _PLACE in part:
            groups.append([part])
        else:
            groups[-1].append(part)
    tail: list[Part] = []
    while groups[-1][1:] and "text" in groups[-1][-1]:  # what the user says after all results
        tail.insert(0, groups[-1].pop())
    groups.sort(key=lambda group: group[0][_PLACE])
    return [*parts[:first], *(part for group in groups for part in group), *tail]


def _media(source: Fields, usual: str, kind: str | None = None) -> Part:
    """Read an image or a document: its bytes, or where it is."""
    kind = kind or source.needed("type")
    if kind == "base64":
        part = {"inlineData": {"mimeType": source.needed("media_type"), "data": source.needed("data")}}
    elif kind == "url":
        url = source.needed("url")
        part = {"fileData": {"mimeType": mimetypes.guess_type(url.partition("?")[0])[0] or usual, "fileUri": url}}
    else:
        raise BadParameter(source.at("type"), f"{kind[:40]} is not possible for Gemini; base64 and url are.")
    source.end()
    return part
