"""
JSON Schema as OpenAI and Anthropic clients write it, turned into what Gemini takes.

All three kinds of upstream take JSON Schema itself, as ``parametersJsonSchema`` of a function and as
``responseJsonSchema``.  Google's reference says of it: "While the full JSON Schema may be sent, not all features are
supported", and lists those that are.  So a schema is said again in the listed ones wherever that means the same:

- ``$ref`` is replaced by what it points to; where a definition contains itself, the reference stays, and the
  definition is kept under ``$defs``.  "Cyclic references … may only be used within non-required properties", so
  elsewhere they are unrolled :data:`UNROLLED` times;
- ``const``, ``allOf``, boolean schemas, ``nullable``, tuples of older drafts, whole exclusive bounds and names that
  are required but not described get a form that is listed;
- what has no such form (``not``, ``if``, ``patternProperties``, …) is left out, and told with its path.

What the given schema allows, the translated one allows too; where nothing is told, they allow the same.
It is pure, never changes what it is given, and never looks anything up.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

from agm.api import InvalidRequest

#: How often a definition is written out within itself where no reference may stand.
UNROLLED = 2
#: Schemas within schemas that are written; below, anything is allowed.
MAX_DEPTH = 64
#: Schemas that are written before references are left standing instead of being written out.
MAX_NODES = 2000
#: Alternatives that two lists of them are multiplied to.
MAX_ALTERNATIVES = 24
#: Pairs of schemas that are merged before one is taken for both.
MAX_MERGES = 4000
#: Schemas whose translation is remembered, and bytes that one of them may have: agents send the same in every turn.
MAX_REMEMBERED, MAX_REMEMBERED_SIZE = 512, 64 * 1024

Schema = dict[str, Any]
#: What a keyword is written by.
Writer = Callable[["_Writer", Schema, str, Mapping[str, Any], "_Place"], None]

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
#: Said as it is: on Google's list, or a field of its older schema that describes and does not bind.
_AS_IT_IS = frozenset(
    {
        *("title", "description", "format", "default", "examples", "propertyOrdering"),
        *("minimum", "maximum", "minItems", "maxItems"),
        *("pattern", "minLength", "maxLength", "minProperties", "maxProperties"),
    }
)
#: Of no meaning for what a model may answer, or read beside another keyword.
_WITHOUT_MEANING = frozenset(
    {
        *("$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary", "$dynamicAnchor"),
        *("$recursiveAnchor", "readOnly", "writeOnly", "deprecated", "xml", "externalDocs", "discriminator", "strict"),
        *("contentMediaType", "contentEncoding", "contentSchema", "example", "nullable", "additionalItems", "$ref"),
        *("$dynamicRef", "$recursiveRef", "allOf", "required"),
    }
)
_ANNOTATIONS = frozenset({"title", "description", "default", "examples"})
_NOTHING = "Gemini has nothing for it"
#: Patterns of every name.
_EVERY_NAME = frozenset({"", ".*", "^.*$", "^(.*)$"})
#: Of two bounds, the narrower one.
_NARROWER: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "minItems", "minLength", "minProperties"), max),
    **dict.fromkeys(("maximum", "maxItems", "maxLength", "maxProperties"), min),
}


class LeftOut(NamedTuple):
    """Something that the translated schema does not say, or says otherwise."""

    #: Where it stood, a JSON pointer into the schema that was given: ``/properties/date``.
    path: str
    #: The keyword: ``patternProperties``.
    keyword: str
    #: What became of it, in words.
    why: str

    def __str__(self) -> str:
        return f"{self.path or '/'}: {self.keyword}: {self.why}"


class Translated(NamedTuple):
    """A schema for ``parametersJsonSchema`` or ``responseJsonSchema``."""

    schema: Schema
    left_out: tuple[LeftOut, ...]


class _Place(NamedTuple):
    """Where in the schema a node is."""

    path: str = ""
    depth: int = 0
    #: The definitions that it is within, each with whether a property that may be missing lies between.
    within: tuple[tuple[str, bool], ...] = ()

    def down(self, *names: str | int) -> _Place:
        """One schema deeper."""
        steps = "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in names)
        return _Place(self.path + steps, self.depth + 1, self.within)

    def optional(self) -> _Place:
        """Within a property that may be missing."""
        return self._replace(within=tuple((name, True) for name, _ in self.within))

    def inside(self, name: str) -> _Place:
        """Within the definition `name`."""
        return self._replace(within=(*self.within, (name, False)))


def translate(schema: Any, *, root: Literal["object", "any"] = "any") -> Translated:
    """
    Translate a JSON Schema of any draft, OpenAPI's forms included.

    :param schema: the schema as JSON is read: a dict, True, or None for none.
    :param root: ``object`` for the parameters of a function, which have to be an object: what is not is made one.
    :returns: the schema for Gemini, and what it does not say.
    :raises InvalidRequest: if it, or something within it, is no schema; the message has the path.
    """
    writer = _Writer({} if schema is None else schema)
    written = writer.schema({} if schema is None else schema, _Place().inside("#"))
    if written is None:
        writer.tell(_Place(), "false", "nothing is allowed by it, and Gemini cannot be told so")
        written = {}
    if root == "object":
        written = writer.as_object(written)
    definitions = writer.definitions()
    if definitions:
        written = {**written, "$defs": definitions}
    return Translated(written, tuple(dict.fromkeys(writer.left_out)))


_remembered: OrderedDict[tuple[str, bytes], tuple[msgspec.Raw, tuple[LeftOut, ...]]] = OrderedDict()


def translate_encoded(
    schema: Any, *, root: Literal["object", "any"] = "any"
) -> tuple[msgspec.Raw, tuple[LeftOut, ...]]:
    """Translate as :func:`translate` does, into JSON; what was translated lately is not translated again."""
    key = (root, msgspec.json.encode(schema))
    found = _remembered.get(key)
    if found is not None:
        _remembered.move_to_end(key)
        return found
    translated = translate(schema, root=root)
    found = (msgspec.Raw(msgspec.json.encode(translated.schema)), translated.left_out)
    if len(key[1]) <= MAX_REMEMBERED_SIZE:
        _remembered[key] = found
        if len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return found


class _Writer:
    """Writes one schema."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.left_out: list[LeftOut] = []
        self._nodes = 0
        self._merges = 0
        #: The definitions that are referred to, by name, and their pointers.
        self._referred: dict[str, str] = {}

    def tell(self, at: _Place, keyword: str, why: str) -> None:
        """Note that something is left out."""
        self.left_out.append(LeftOut(at.path, keyword, why))

    def schema(self, node: Any, at: _Place) -> Schema | None:
        """
        Write a schema.

        :returns: None if it allows nothing.
        """
        if node is True:
            return {}
        if node is False:
            return None
        if not isinstance(node, dict):
            raise InvalidRequest(f"This is no JSON Schema at {at.path or '/'}: an object, true or false is expected.")
        if at.depth > MAX_DEPTH:
            self.tell(at, "depth", f"below {MAX_DEPTH} schemas within each other anything is allowed")
            return {}
        self._nodes += 1
        written = self._keywords(node, at)
        for branch, value in enumerate(_list(node.get("allOf"), "allOf", at)):
            written = self.both(written, self.schema(value, at.down("allOf", branch)), at)
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if keyword in node:
                written = self.both(written, self._referred_to(node[keyword], keyword, at), at)
        if written is not None and "anyOf" in written and "type" in written:
            written = self._typed_alternatives(written, at)
        if written is not None and node.get("nullable") is True:
            written = _or_null(written)
        return written

    def _keywords(self, node: Mapping[str, Any], at: _Place) -> Schema | None:
        """Write what a schema says itself, without those that it refers to."""
        written: Schema = {}
        for keyword, value in node.items():
            if value is None and keyword not in ("const", "default"):
                continue  # as serializers write what is not there
            if (write := _WRITERS.get(keyword)) is not None:
                write(self, written, keyword, node, at)
            elif keyword in _AS_IT_IS:
                if keyword in _NARROWER and _number(value) is None:
                    self.tell(at, keyword, "it is no number")
                else:
                    self._join(written, {keyword: value}, at)
            elif keyword not in _WITHOUT_MEANING and not keyword.startswith("x-"):
                self.tell(at, keyword, _NOTHING)
        if _FORBIDS in written:
            return None
        self._require(written, node.get("required"), at)
        return written

    def _typed_alternatives(self, written: Schema, at: _Place) -> Schema | None:
        """Write a type that stands beside alternatives into each of them."""
        if any("$ref" in one for one in written["anyOf"]):
            return written
        rest = {keyword: value for keyword, value in written.items() if keyword not in ("type", "anyOf")}
        kind = {"type": written["type"]}
        allowed = [one for one in (self.both(one, kind, at) for one in written["anyOf"]) if one is not None]
        if not allowed:
            return None
        return {**rest, "anyOf": allowed} if len(allowed) > 1 else self.both(rest, allowed[0], at)

    def definitions(self) -> dict[str, Any]:
        """Write the definitions that references were left to; they may refer to more."""
        written: dict[str, Any] = {}
        while len(written) < len(self._referred):
            name = next(name for name in self._referred if name not in written)
            pointer = self._referred[name]
            at = _Place(pointer.removeprefix("#"), 1).inside(pointer)
            written[name] = self.schema(self._resolve(pointer), at)
            if written[name] is None:
                written[name] = {}
                self.tell(at, "false", "nothing is allowed by it, and Gemini cannot be told so")
        return written

    # -- References -----------------------------------------------------------------------------------

    def _referred_to(self, reference: Any, keyword: str, at: _Place) -> Schema | None:
        """Write what a reference points to: in its place, or as a reference."""
        pointer = self._pointer(reference)
        target = None if pointer is None else self._resolve(pointer)
        if pointer is None or target is None:
            self.tell(at, keyword, f"{reference!r} is not in this schema")
            return {}
        within = [optional for name, optional in at.within if name == pointer]
        full = self._nodes > MAX_NODES
        if (within and any(within)) or (full and not within):
            return self._reference(pointer)
        if len(within) > UNROLLED or (full and within):
            self.tell(at, keyword, "a definition that must contain itself is written out a few times only")
            kind = target.get("type") if isinstance(target, dict) else None
            return {"type": kind} if isinstance(kind, str) and kind in _TYPES else {}
        return self.schema(target, _Place(at.path, at.depth + 1, at.within).inside(pointer))

    def _reference(self, pointer: str) -> Schema:
        name = next((name for name, known in self._referred.items() if known == pointer), None)
        if name is None:
            wanted = (
                "root"
                if pointer == "#"
                else re.sub(r"[^A-Za-z0-9_.-]", "_", unquote(pointer.rpartition("/")[2] or "_"))
            )
            name, number = wanted, 1
            while name in self._referred:
                number += 1
                name = f"{wanted}_{number}"
            self._referred[name] = pointer
        return {"$ref": f"#/$defs/{name}"}

    def _pointer(self, reference: Any) -> str | None:
        """Return the JSON pointer of a reference into this document, with its ``#``."""
        if not isinstance(reference, str):
            return None
        base, hash_sign, fragment = reference.partition("#")
        own = self.document.get("$id", self.document.get("id")) if isinstance(self.document, dict) else None
        if base and base != own:
            return None
        if not fragment or fragment.startswith("/"):
            return "#" + fragment if hash_sign or base else None
        return _anchored(self.document, fragment)

    def _resolve(self, pointer: str) -> Any:
        """Return what a pointer points to, or None."""
        found: Any = self.document
        for step in pointer.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return None
        return found if isinstance(found, dict | bool) else None

    # -- Keywords, in the shapes of all drafts --------------------------------------------------------

    def kinds(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        value = node[keyword]
        kinds = [value] if isinstance(value, str) else _list(value, "type", at)
        known = list(dict.fromkeys(kind.lower() for kind in kinds if isinstance(kind, str) and kind.lower() in _TYPES))
        if len(known) < len(set(map(str, kinds))):
            self.tell(at, "type", f"{value!r} has a type that JSON Schema does not know")
            return  # what remains would allow less
        if known:
            self._join(written, {"type": known[0] if len(known) == 1 else known}, at)

    def enum(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        values = [node[keyword]] if keyword == "const" else _list(node[keyword], keyword, at)
        plain = [one for one in values if isinstance(one, str | int | float) and not isinstance(one, bool)]
        kinds: list[Schema] = []
        if plain:
            kinds.append({**_type_of(plain), "enum": plain})
        flags = [one for one in values if isinstance(one, bool)]
        if flags:
            kinds.append({"type": "boolean"})
            if len(set(flags)) == 1:
                self.tell(at, "enum", "Gemini lists strings and numbers, so both true and false are allowed")
        if None in values:
            kinds.append({"type": "null"})
        for kind in ("object", "array"):
            if any(isinstance(one, dict if kind == "object" else list) for one in values):
                kinds.append({"type": kind})
                self.tell(at, "enum", f"Gemini lists strings and numbers, so every {kind} is allowed")
        if not kinds:
            self.tell(at, "enum", "it is empty, which allows nothing")
        else:
            self._join(written, kinds[0] if len(kinds) == 1 else {"anyOf": kinds}, at)

    def alternatives(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        schemas = _list(node[keyword], keyword, at)
        allowed = [self.schema(one, at.down(keyword, number)) for number, one in enumerate(schemas)]
        kept = [one for one in allowed if one is not None]
        if not kept and schemas:
            written[_FORBIDS] = True
        elif kept:
            if keyword == "oneOf" and not _all_apart(kept):
                self.tell(at, keyword, "Gemini reads it as anyOf, and more than one of these may hold")
            self._join(written, kept[0] if len(kept) == 1 else {"anyOf": kept}, at)

    def properties(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        value = node[keyword]
        if not isinstance(value, dict):
            raise InvalidRequest(f"This is no JSON Schema at {at.path}/properties: an object is expected.")
        required = node.get("required")
        required = required if isinstance(required, list) else []
        properties: Schema = {}
        for name, one in value.items():
            place = at.down("properties", name)
            written_one = self.schema(one, place if name in required else place.optional())
            if written_one is not None:
                properties[name] = written_one
            elif node.get("additionalProperties") is not False:
                self.tell(place, "false", "Gemini cannot be told that a property must be missing")
        written["properties"] = properties

    def _require(self, written: Schema, required: Any, at: _Place) -> None:
        """Write which properties are required; Gemini wants each of them described."""
        if not isinstance(required, list):  # a boolean, in the oldest draft: said at the property, meant for the parent
            return
        names = list(dict.fromkeys(name for name in required if isinstance(name, str)))
        if names and "object" in _kinds(written):
            written["required"] = names
            properties = written.get("properties", {})
            missing = [name for name in names if name not in properties]
            others = written.get("additionalProperties", True)
            if missing and others is False:
                self.tell(
                    at, "required", f"{missing[0]!r} must be there, and is not allowed: it is described as anything"
                )
            described = others if isinstance(others, dict) else {}
            if missing:
                written["properties"] = {**properties, **dict.fromkeys(missing, described)}

    def additional_properties(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        value = node[keyword]
        if isinstance(value, dict):
            value = self.schema(value, at.down("additionalProperties").optional())
            value = False if value is None else value
        written["additionalProperties"] = value if isinstance(value, dict) else bool(value)

    def pattern_properties(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        """Write what holds for names of a pattern; of every name, as records are written, it can be said."""
        patterns = node[keyword]
        one = next(iter(patterns)) if isinstance(patterns, dict) and len(patterns) == 1 else None
        if one not in _EVERY_NAME or "properties" in node or "additionalProperties" in node:
            self.tell(at, keyword, _NOTHING)
            return
        allowed = self.schema(patterns[one], at.down(keyword, one).optional())
        written["additionalProperties"] = False if allowed is None else allowed

    def property_names(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        """Write which names there may be; that they are strings is known."""
        if node[keyword] not in (True, {}, {"type": "string"}):
            self.tell(at, keyword, _NOTHING)

    def items(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        value = node[keyword]
        if isinstance(value, list):  # a tuple, before 2020
            self.prefix_items(written, keyword, node, at)
            if node.get("additionalItems") is not None:
                self.items(written, "items", {"prefixItems": value, "items": node["additionalItems"]}, at)
            return
        one = self.schema(value, at.down("items"))
        if one is not None:
            written["items"] = one
        else:
            most = len(_list(node.get("prefixItems"), "prefixItems", at))
            self._join(written, {"maxItems": most}, at)

    def prefix_items(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        tuples = _list(node[keyword], keyword, at)
        items = [self.schema(one, at.down(keyword, number)) for number, one in enumerate(tuples)]
        if None in items:  # no item may stand there, nor behind
            self._join(written, {"maxItems": items.index(None)}, at)
            items = items[: items.index(None)]
        if items:
            written["prefixItems"] = items

    def exclusive(self, written: Schema, keyword: str, node: Mapping[str, Any], at: _Place) -> None:
        value = node[keyword]
        bound = "minimum" if keyword == "exclusiveMinimum" else "maximum"
        if isinstance(value, bool):  # draft 4: it says how minimum and maximum are meant
            if value and (limit := _number(node.get(bound))) is not None:
                self._bound(written, bound, limit, node, at, keyword)
        elif (limit := _number(value)) is not None:
            self._bound(written, bound, limit, node, at, keyword)

    def _bound(
        self, written: Schema, bound: str, limit: float, node: Mapping[str, Any], at: _Place, keyword: str
    ) -> None:
        if "integer" in (kinds := _names(node.get("type") or ())) and "number" not in kinds:
            whole = int(limit // 1) + 1 if bound == "minimum" else -int(-limit // 1) - 1
            self._join(written, {bound: whole}, at)
        else:
            self._join(written, {bound: limit}, at)
            self.tell(at, keyword, f"the bound itself is allowed: Gemini has {bound} alone")

    # -- Two schemas that hold both -------------------------------------------------------------------

    def _join(self, written: Schema, more: Schema, at: _Place) -> None:
        """Write `more` into `written`."""
        if written.keys().isdisjoint(more):
            written.update(more)
            return
        joined = self.both(written, more, at)
        written.clear()
        written.update({_FORBIDS: True} if joined is None else joined)

    def both(self, one: Schema | None, other: Schema | None, at: _Place) -> Schema | None:
        """Return a schema for what `one` and `other` both allow; `one` describes it where both do."""
        if one is None or other is None or _FORBIDS in one:
            return None
        if not one or not other:
            return one or other
        self._merges += 1
        if self._merges > MAX_MERGES:
            self.tell(at, "allOf", f"after {MAX_MERGES} schemas merged, the first of two is taken for both")
            return one
        if "$ref" in one:
            one = {"anyOf": [one]}
        if "$ref" in other:
            other = {"anyOf": [other]}
        merged = dict(one)
        for keyword, value in other.items():
            if keyword not in merged:
                merged[keyword] = value
            elif merged[keyword] == value or keyword in _ANNOTATIONS:
                continue
            elif keyword in _NARROWER:
                merged[keyword] = _NARROWER[keyword](merged[keyword], value)
            elif (join := _JOINS.get(keyword)) is not None:
                if join(self, merged, value, at) is None:
                    return None
            else:
                self.tell(at, "allOf", f"of two different {keyword} the first is taken")
        self._close(merged, one, other, at)
        return merged

    def _close(self, merged: Schema, one: Schema, other: Schema, at: _Place) -> None:
        """Tell of what one says about the rest of an object or array, of which the other describes more."""
        for first, second in ((one, other), (other, one)):
            if "items" in first and len(second.get("prefixItems", ())) > len(first.get("prefixItems", ())):
                self.tell(at, "items", "it does not hold for those that another schema of allOf describes")
            closed = first.get("additionalProperties", True)
            added = second.get("properties", {}).keys() - first.get("properties", {}).keys()
            if closed is not True and closed != {} and added:
                self.tell(at, "additionalProperties", "properties that another schema of allOf describes are allowed")

    def both_types(self, merged: Schema, value: Any, at: _Place) -> bool | None:
        mine, others = _names(merged["type"]), _names(value)
        kinds = [kind for kind in mine if kind in others or (kind == "integer" and "number" in others)]
        kinds += [kind for kind in others if kind == "integer" and "number" in mine and "integer" not in mine]
        if not kinds:
            return None
        merged["type"] = kinds[0] if len(kinds) == 1 else kinds
        return True

    def both_enums(self, merged: Schema, value: Any, at: _Place) -> bool | None:
        merged["enum"] = [one for one in merged["enum"] if one in value]
        return True if merged["enum"] else None

    def both_alternatives(self, merged: Schema, value: Any, at: _Place) -> bool | None:
        if len(merged["anyOf"]) * len(value) > MAX_ALTERNATIVES:
            self.tell(at, "anyOf", f"of two lists whose product is above {MAX_ALTERNATIVES}, the first is taken")
            return True
        pairs = [self.both(one, other, at) for one in merged["anyOf"] for other in value]
        merged["anyOf"] = [pair for pair in pairs if pair is not None]
        return True if merged["anyOf"] else None

    def both_properties(self, merged: Schema, value: Any, at: _Place) -> bool:
        properties = dict(merged["properties"])
        for name, one in value.items():
            if name in properties:
                joined = self.both(properties[name], one, at.down("properties", name))
                if joined is None:
                    self.tell(at.down("properties", name), "allOf", "nothing is allowed by both, so the first is taken")
                else:
                    properties[name] = joined
            else:
                properties[name] = one
        merged["properties"] = properties
        return True

    def both_required(self, merged: Schema, value: Any, at: _Place) -> bool:
        merged["required"] = list(dict.fromkeys([*merged["required"], *value]))
        return True

    def both_additional(self, merged: Schema, value: Any, at: _Place) -> bool:
        mine = merged["additionalProperties"]
        if mine is True or value is True:
            merged["additionalProperties"] = value if mine is True else mine
        elif mine is False or value is False:
            merged["additionalProperties"] = False
        else:
            joined = self.both(mine, value, at.down("additionalProperties"))
            merged["additionalProperties"] = False if joined is None else joined
        return True

    def both_items(self, merged: Schema, value: Any, at: _Place) -> bool:
        joined = self.both(merged["items"], value, at.down("items"))
        if joined is None:
            most = len(merged.get("prefixItems", ()))
            merged["maxItems"] = min(most, merged.get("maxItems", most))
        else:
            merged["items"] = joined
        return True

    # -- The root of a function's parameters ----------------------------------------------------------

    def as_object(self, written: Schema) -> Schema:
        """Make an object of the root: Gemini's functions have properties, and nothing else."""
        at = _Place()
        if "$ref" in written:  # to itself
            written = {"anyOf": [written]}
        kinds = _kinds(written)
        if "object" not in kinds:
            self.tell(at, "type", f"the parameters of a function are an object, and not {' or '.join(sorted(kinds))}")
            described = {k: v for k, v in written.items() if k in ("title", "description")}
            return {**described, "type": "object", "properties": {}}
        alternatives = written.pop("anyOf", None) if "anyOf" in written else None
        if alternatives is not None:
            self.tell(at, "anyOf", "a function has one list of parameters: those of all alternatives are in it")
            written = self.both(written, _either([one for one in alternatives if "object" in _kinds(one)]), at) or {}
        written.setdefault("properties", {})
        return {**written, "type": "object"}


def _either(schemas: Sequence[Schema]) -> Schema:
    """An object with the properties of all of `schemas`, of which those are required that each of them requires."""
    properties: dict[str, list[Any]] = {}
    for schema in schemas:
        for name, one in schema.get("properties", {}).items():
            properties.setdefault(name, [])
            if one not in properties[name]:
                properties[name].append(one)
    required = [name for name in properties if all(name in schema.get("required", ()) for schema in schemas)]
    described = {
        name: found[0] if len(found) == 1 else ({} if {} in found else {"anyOf": found})
        for name, found in properties.items()
    }
    return {"type": "object", "properties": described, **({"required": required} if required else {})}


def _list(value: Any, keyword: str, at: _Place) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"This is no JSON Schema at {at.path}/{keyword}: an array is expected.")
    return value


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _names(kind: Any) -> list[str]:
    return [kind] if isinstance(kind, str) else list(kind)


def _kinds(written: Schema) -> set[str]:
    """Return the types that a written schema allows."""
    return set(_names(written["type"])) if "type" in written else set(_TYPES)


def _type_of(values: Sequence[Any]) -> Schema:
    """Return the type of strings or numbers; none for both."""
    if all(isinstance(value, str) for value in values):
        return {"type": "string"}
    if any(isinstance(value, str) for value in values):
        return {}
    return {"type": "integer" if all(isinstance(value, int) for value in values) else "number"}


def _all_apart(schemas: Sequence[Schema]) -> bool:
    """Say whether of written schemas never two hold: by their types, or by a property that tells them apart."""
    return all(_apart(one, other) for number, one in enumerate(schemas) for other in schemas[:number])


def _apart(one: Schema, other: Schema) -> bool:
    mine, others = _kinds(one), _kinds(other)
    common = mine & others
    if not common and not ("number" in mine | others and "integer" in mine | others):
        return True
    if "enum" in one and "enum" in other:
        return not any(value in other["enum"] for value in one["enum"])
    if mine != {"object"} or others != {"object"}:
        return False
    named = set(one.get("required", ())) & set(other.get("required", ()))
    return any(_apart(one["properties"][name], other["properties"][name]) for name in named)


def _or_null(written: Schema) -> Schema:
    """Allow null, too."""
    if "type" not in written and "anyOf" not in written and "$ref" not in written and "enum" not in written:
        return written  # anything is allowed
    if "type" in written and not {"enum", "anyOf"} & written.keys():
        kinds = _names(written["type"])
        return {**written, "type": kinds if "null" in kinds else [*kinds, "null"]}
    outside = {keyword: value for keyword, value in written.items() if keyword in _ANNOTATIONS}
    inside = {keyword: value for keyword, value in written.items() if keyword not in _ANNOTATIONS}
    return {**outside, "anyOf": [inside, {"type": "null"}]}


def _anchored(document: Any, name: str, path: str = "#", depth: int = 0) -> str | None:
    """Find the pointer of an anchor."""
    if depth > MAX_DEPTH or not isinstance(document, dict | list):
        return None
    if isinstance(document, dict):
        if name in (document.get("$anchor"), document.get("$dynamicAnchor")):
            return path
        if document.get("id") == f"#{name}" or document.get("$id") == f"#{name}":
            return path
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        step = str(key).replace("~", "~0").replace("/", "~1")
        if (found := _anchored(value, name, f"{path}/{step}", depth + 1)) is not None:
            return found
    return None


#: In a schema that is being written: nothing is allowed by it.
_FORBIDS = "\0forbids"

_WRITERS: Mapping[str, Writer] = {
    "type": _Writer.kinds,
    "enum": _Writer.enum,
    "const": _Writer.enum,
    "anyOf": _Writer.alternatives,
    "oneOf": _Writer.alternatives,
    "properties": _Writer.properties,
    "additionalProperties": _Writer.additional_properties,
    "items": _Writer.items,
    "prefixItems": _Writer.prefix_items,
    "patternProperties": _Writer.pattern_properties,
    "propertyNames": _Writer.property_names,
    "exclusiveMinimum": _Writer.exclusive,
    "exclusiveMaximum": _Writer.exclusive,
}

_JOINS: Mapping[str, Callable[[_Writer, Schema, Any, _Place], bool | None]] = {
    "type": _Writer.both_types,
    "enum": _Writer.both_enums,
    "anyOf": _Writer.both_alternatives,
    "properties": _Writer.both_properties,
    "required": _Writer.both_required,
    "additionalProperties": _Writer.both_additional,
    "items": _Writer.both_items,
}
