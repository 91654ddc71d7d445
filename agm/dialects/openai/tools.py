"""
Functions and their calls: declarations, choices, and ids that carry what Gemini has to get back.

An id of a call is OpenAI's to the client, and holds what would be lost on the way through a client that keeps nothing
else: Gemini's own id of the call, and the signature of the thought that led to it, without which newer models refuse
the next turn, or forget.  ``extra_content.google.thought_signature``, as Google's own surface has it, is read and
written as well.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from agm.dialects.base import BadParameter
from agm.dialects.gemini import compact
from agm.dialects.reading import Fields, array, object_, text
from agm.dialects.schema import translate_encoded

__all__ = [
    "CUSTOM_INPUT",
    "NO_TOOLS",
    "SIGNED",
    "TOOLS",
    "CallId",
    "Tools",
    "answer_of",
    "custom_input",
    "extra_content",
    "flat_name",
    "read_call",
    "read_tools",
    "signature_in",
    "translated",
]

#: How reasoning begins that carries the signature of the text before it.
SIGNED = "agm-signature:"
#: The one argument of what is a custom tool to the client, whose input is any text.
CUSTOM_INPUT = "input"
_ID = re.compile(r"call_(?:n[0-9a-f]{12}|g(?P<google>[A-Za-z0-9_-]{1,64}?))(?:_sig_(?P<signature>[A-Za-z0-9_-]+))?")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TO_URL = str.maketrans("+/", "-_", "=")
_FROM_URL = str.maketrans("-_", "+/")


@attrs.frozen
class CallId:
    """What an id of a call holds: Gemini's own id, and the signature in base64; None for what it does not hold."""

    google: str | None = None
    signature: str | None = None

    def encode(self) -> str:
        """Write it; an id without Gemini's own is made up."""
        google = self.google
        carried = google is not None and _PLAIN.fullmatch(google) is not None and "_sig_" not in google
        own = f"g{google}" if carried else f"n{secrets.token_hex(6)}"
        return f"call_{own}" + (f"_sig_{self.signature.translate(_TO_URL)}" if self.signature else "")

    @classmethod
    def decode(cls, written: str) -> CallId:
        """Read it; one of another make holds nothing."""
        match = _ID.fullmatch(written)
        if match is None:
            return cls()
        signature = match["signature"]
        if signature is not None:
            signature = signature.translate(_FROM_URL)
            signature += "=" * (-len(signature) % 4)
        return cls(match["google"], signature)


def extra_content(signature: str) -> dict[str, Any]:
    """Return what Google's own OpenAI surface puts a signature into."""
    return {"google": {"thought_signature": signature}}


def signature_in(holder: Mapping[str, Any]) -> str | None:
    """Return the signature in a message's or a call's ``extra_content``."""
    found: Any = holder.get("extra_content")
    for name in ("google", "thought_signature"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) and found else None


def read_call(name: str, arguments: str, identifier: str, signature: str | None, place: str) -> dict[str, Any]:
    """
    Return the part of a call that the model has made in an earlier turn.

    :raises BadParameter: if its arguments are no JSON object.
    """
    try:
        args = msgspec.json.decode(arguments.strip() or "{}", type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        raise BadParameter(place, "a JSON object in a string is expected.") from None
    held = CallId.decode(identifier)
    call: dict[str, Any] = {"name": name, "args": args}
    if held.google is not None:
        call["id"] = held.google
    part: dict[str, Any] = {"functionCall": call}
    if signature or held.signature:
        part["thoughtSignature"] = signature or held.signature
    return part


def answer_of(name: str, identifier: str, said: str) -> dict[str, Any]:
    """Return the part of what a function returned: an object as it is, anything else under ``result``."""
    response: Any = None
    if said.lstrip()[:1] == "{":
        try:
            response = msgspec.json.decode(said, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            response = None
    answered: dict[str, Any] = {"name": name, "response": {"result": said} if response is None else response}
    held = CallId.decode(identifier)
    if held.google is not None:
        answered["id"] = held.google
    return {"functionResponse": answered}


def translated(schema: Any, place: str, root: Any = "object") -> tuple[msgspec.Raw, tuple[str, ...]]:
    """
    Return a JSON Schema for Gemini, and what it does not say, with its place.

    :raises InvalidRequest: if it is none.
    """
    encoded, left_out = translate_encoded(schema, root=root)
    return encoded, tuple(f"{place}{left}" for left in left_out)


@attrs.frozen
class Tools:
    """What a request says of its functions, in Gemini's fields; `one` says that only one may be called at a time."""

    fields: Mapping[str, Any]
    one: bool
    left_out: tuple[str, ...]
    #: The names of custom tools, which get a text in place of arguments.
    custom: frozenset[str] = frozenset()
    #: Whether the model may search.
    searches: bool = False
    #: The functions of namespaces, each with its namespace and its name in there.
    spaces: Mapping[str, tuple[str, str]] = attrs.Factory(dict)

    def called(self, name: str) -> dict[str, str]:
        """Return what the client calls a function: its name, and its namespace, if it has one."""
        space = self.spaces.get(name)
        return {"name": name} if space is None else {"name": space[1], "namespace": space[0]}


NO_TOOLS = Tools({}, False, ())
#: What :func:`read_tools` reads.
TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})


class _Reader:
    """
    Reads tools one after the other.

    :param flat: whether a function's fields stand beside its type, as in the Responses API.
    """

    def __init__(self, *, flat: bool) -> None:
        self.declared: list[dict[str, Any]] = []
        self.strict = True
        self.left_out: list[str] = []
        self.custom: set[str] = set()
        self.spaces: dict[str, tuple[str, str]] = {}
        self.searches = False
        self._flat = flat

    def tool(self, tool: Any, place: str, space: str | None = None) -> None:
        """Read a tool; `space` is the namespace that it is in."""
        tool = object_(tool, place)
        kind = tool.get("type")
        if kind == "function":
            made = self._function(tool, place)
        elif kind == "custom":
            made = self._custom(tool, place)
        elif self._flat and kind == "namespace" and space is None:
            self._namespace(tool, place)
            return
        elif self._flat and str(kind).startswith("web_search"):
            _search(tool, f"{place}.")
            self.searches = True
            return
        else:
            raise BadParameter(f"{place}.type", f"a tool of type {str(kind)[:40]!r} cannot be expressed; use function.")
        if space is not None:
            self.spaces[flat_name(space, made["name"])] = (space, made["name"])
            made["name"] = flat_name(space, made["name"])
        if kind == "custom":
            self.custom.add(made["name"])
        self.declared.append(made)

    def _function(self, tool: dict[str, Any], place: str) -> dict[str, Any]:
        """Return a function's declaration."""
        at = place if self._flat else f"{place}.function"
        fields = Fields(tool if self._flat else object_(tool.get("function"), at), f"{at}.")
        declared: dict[str, Any] = {"name": fields.needed("name")}
        if (description := fields.text("description")) is not None:
            declared["description"] = description
        for name, own in (("parameters", "parametersJsonSchema"), ("output_schema", "responseJsonSchema")):
            if (schema := fields.take(name)) is not None:
                root = "object" if name == "parameters" else "any"
                declared[own], left_out = translated(schema, fields.at(name), root)
                self.left_out += left_out
        self.strict = bool(fields.flag("strict")) and self.strict
        fields.refuse("async", "Gemini waits for what a function returns.", unless=(False,))
        fields.refuse("allowed_callers", "Gemini calls functions itself.", unless=(["direct"],))
        fields.skip("type", "defer_loading")
        fields.end()
        return declared

    def _custom(self, tool: dict[str, Any], place: str) -> dict[str, Any]:
        """Return a custom tool as a function with one text; that text's grammar, which nobody enforces, is told."""
        at = place if self._flat else f"{place}.custom"
        fields = Fields(tool if self._flat else object_(tool.get("custom"), at), f"{at}.")
        name, said = fields.needed("name"), [fields.text("description") or ""]
        form = fields.object_("format") or {}
        fields.skip("type", "defer_loading")
        fields.end()
        if form.get("type") == "grammar":
            grammar = form if self._flat else object_(form.get("grammar"), f"{at}.format.grammar")
            said.append(f"The input follows this grammar ({grammar.get('syntax')}):\n{grammar.get('definition')}")
            self.left_out.append(f"{at}.format: the grammar is told to the model, and not enforced")
        self.strict = False
        properties = {CUSTOM_INPUT: {"type": "string", "description": "The tool's whole input, as it is."}}
        schema = {"type": "object", "properties": properties, "required": [CUSTOM_INPUT]}
        return {"name": name, "description": "\n\n".join(filter(None, said)), "parametersJsonSchema": schema}

    def _namespace(self, tool: dict[str, Any], place: str) -> None:
        """Read the tools of a namespace: each has its name before its own, and what the namespace is for."""
        fields = Fields(tool, f"{place}.")
        space, about = fields.needed("name"), fields.text("description")
        begun = len(self.declared)
        for number, one in enumerate(fields.array("tools") or []):
            self.tool(one, f"{place}.tools[{number}]", space)
        fields.skip("type")
        fields.end()
        for declared in self.declared[begun:] if about else ():
            declared["description"] = "\n\n".join(filter(None, (declared.get("description"), f"{space}: {about}")))


def flat_name(space: str | None, name: str) -> str:
    """Return what a function of a namespace is called where there are none."""
    return name if space is None else f"{space}__{name}"


def custom_input(args: msgspec.Raw) -> str:
    """Return the text that a custom tool gets; all of the arguments where the model has written something else."""
    given = msgspec.json.decode(args)
    found = given.get(CUSTOM_INPUT) if isinstance(given, dict) else None
    return found if isinstance(found, str) else compact(args)


def read_tools(fields: Fields, *, flat: bool = False) -> Tools:
    """
    Read ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    :param flat: whether a function's fields stand beside its type, as in the Responses API.
    :raises BadParameter: for a tool that is no function.
    """
    given = fields.array("tools") or []
    one = fields.flag("parallel_tool_calls") is False
    reader = _Reader(flat=flat)
    for number, tool in enumerate(given):
        reader.tool(tool, f"{fields.at('tools')}[{number}]")
    strict = reader.strict and bool(reader.declared)
    choice = _choice(fields.take("tool_choice"), fields.at("tool_choice"), strict=strict, flat=flat)
    made: dict[str, Any] = {}
    if reader.declared:
        made["tools"] = [{"functionDeclarations": reader.declared}]
        if choice is not None:
            made["toolConfig"] = {"functionCallingConfig": choice}
    elif choice is not None and choice["mode"] == "ANY":
        raise BadParameter(fields.at("tool_choice"), "asks for a call, but tools has no function.")
    if reader.searches:
        made.setdefault("tools", []).append({"googleSearch": {}})
    return Tools(made, one, tuple(reader.left_out), frozenset(reader.custom), reader.searches, reader.spaces)


def _search(tool: dict[str, Any], place: str) -> None:
    """Check that a search asks for no more than Google's has."""
    fields = Fields(tool, place)
    fields.skip("type")
    fields.refuse("search_context_size", "Gemini searches as much as it needs.", unless=("medium",))
    fields.refuse("external_web_access", "Google's search is what there is.", unless=(True,))
    fields.end()


def _choice(choice: Any, place: str, *, strict: bool, flat: bool) -> dict[str, Any] | None:
    if choice is None or choice == "auto":
        return {"mode": "VALIDATED"} if strict else None
    if choice in ("none", "required"):
        return {"mode": "NONE" if choice == "none" else "ANY"}
    choice = object_(choice, place)
    kind = choice.get("type")
    if kind == "function":
        return {"mode": "ANY", "allowedFunctionNames": [_name(choice, place, flat=flat)]}
    if kind == "allowed_tools":
        at = place if flat else f"{place}.allowed_tools"
        allowed = choice if flat else object_(choice.get("allowed_tools"), at)
        tools = array(allowed.get("tools"), f"{at}.tools")
        names = [_name(object_(one, at), f"{at}.tools[{number}]", flat=flat) for number, one in enumerate(tools)]
        return {"mode": "ANY" if allowed.get("mode") == "required" else "VALIDATED", "allowedFunctionNames": names}
    raise BadParameter(f"{place}.type", f"{str(kind)[:40]!r} cannot be expressed; use function or allowed_tools.")


def _name(one: Mapping[str, Any], place: str, *, flat: bool) -> str:
    if flat:
        space = one.get("namespace")
        space = None if space is None else text(space, f"{place}.namespace")
        return flat_name(space, text(one.get("name"), f"{place}.name"))
    return text(object_(one.get("function"), f"{place}.function").get("name"), f"{place}.function.name")
