"""Tools and the choice among them: Anthropic's declarations as Gemini's."""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from agm.dialects.base import BadParameter
from agm.dialects.reading import Fields, object_
from agm.dialects.schema import translate_encoded

__all__ = ["TOOLS", "Tools", "read_tools"]

#: The parameters that are read here.
TOOLS = frozenset({"tools", "tool_choice"})

_SEARCH = re.compile(r"web_search_\d{8}")
_CODE = re.compile(r"code_execution_\d{8}")


@attrs.frozen
class Tools:
    """
    ``tools`` and ``toolConfig`` for Gemini.

    `one_call` says that at most one tool use may be answered with, which Gemini cannot be told.
    """

    declared: list[dict[str, Any]]
    choice: dict[str, Any] | None = None
    one_call: bool = False
    left_out: tuple[str, ...] = ()


def read_tools(fields: Fields) -> Tools:
    """
    Read ``tools`` and ``tool_choice``.

    :raises BadParameter: for a tool of Anthropic's own that Google has none for, or one that is not well formed.
    """
    functions: list[dict[str, Any]] = []
    declared: list[dict[str, Any]] = []
    left_out: list[str] = []
    strict = False
    for number, value in enumerate(fields.array("tools") or []):
        place = f"tools[{number}]"
        own = Fields(object_(value, place), f"{place}.")
        kind = own.text("type") or "custom"
        if kind == "custom":
            strict = own.flag("strict") is True or strict
            functions.append(_function(own, left_out))
        elif _SEARCH.fullmatch(kind):
            declared.append({"googleSearch": _search(own)})
        elif _CODE.fullmatch(kind):
            own.skip("name", "cache_control", "strict")
            _only_direct(own)
            declared.append({"codeExecution": {}})
        else:
            raise BadParameter(
                f"{place}.type",
                f"{kind[:60]} is a tool of Anthropic's own that Google has none for; web_search and code_execution it"
                " has. What runs at the client can be declared with name, description and input_schema.",
            )
        own.end()
    if functions:
        declared.insert(0, {"functionDeclarations": functions})
    choice, one_call = _choice(fields, strict=strict, any_functions=bool(functions))
    return Tools(declared, choice, one_call, tuple(left_out))


def _function(own: Fields, left_out: list[str]) -> dict[str, Any]:
    """Read a tool that runs at the client."""
    function: dict[str, Any] = {"name": own.needed("name")}
    description = own.text("description") or ""
    if examples := own.array("input_examples"):  # guidance for the model, which Gemini has no other place for
        written = "\n".join(msgspec.json.encode(example).decode() for example in examples)
        description = f"{description}\n\nExamples of its input:\n{written}".lstrip()
    if description:
        function["description"] = description
    place = own.at("input_schema")
    if (schema := own.take("input_schema")) is None:
        raise BadParameter(place, "is missing.")
    function["parametersJsonSchema"], not_said = translate_encoded(object_(schema, place), root="object")
    left_out += [f"{place}{one}" for one in not_said]
    own.refuse("defer_loading", "Gemini knows a tool from the start, or not at all.", unless=(False,))
    own.skip("cache_control", "eager_input_streaming")
    _only_direct(own)
    return function


def _search(own: Fields) -> dict[str, Any]:
    """Read Anthropic's web search, for which Google's serves; it searches once, with some queries."""
    own.skip("name", "cache_control", "max_uses", "strict")
    for name in ("allowed_domains", "blocked_domains", "user_location"):
        own.refuse(name, "Google Search cannot be told so.", unless=([],))
    own.refuse("defer_loading", "Gemini knows a tool from the start, or not at all.", unless=(False,))
    _only_direct(own)
    return {}


def _only_direct(own: Fields) -> None:
    own.refuse("allowed_callers", "Gemini's code cannot call tools.", unless=(["direct"], []))


def _choice(fields: Fields, *, strict: bool, any_functions: bool) -> tuple[dict[str, Any] | None, bool]:
    given = fields.object_("tool_choice")
    mode, one_call = "AUTO", False
    config: dict[str, Any] = {}
    if given is not None:
        own = Fields(given, "tool_choice.")
        kind = own.one_of("type", "auto", "any", "tool", "none", why="Anthropic has")
        one_call = own.flag("disable_parallel_tool_use") is True
        if kind == "tool":
            config["allowedFunctionNames"] = [own.needed("name")]
        mode = {"any": "ANY", "tool": "ANY", "none": "NONE"}.get(kind or "", "AUTO")
        own.end()
    if strict and mode == "AUTO":
        mode = "VALIDATED"
    if mode == "AUTO" or not any_functions:
        return None, one_call
    return {"functionCallingConfig": {"mode": mode, **config}}, one_call
