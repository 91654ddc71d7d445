"""What a plugin may give as a kind of upstream, so that a mistake is named at the start."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from agm.config.accounts import mistaken_for
from agm.config.words import nearest_of
from agm.core.kinds import ALL_METHODS
from agm.core.request import ModelList, UpstreamKind
from agm.upstream.credentials.credential import is_header_value

#: The keys that every account has, and no kind of its own.
_TAKEN = frozenset(
    {"name", "kind", "api_key", "api_key_env", "api_key_file", "endpoints", "models", "priority", "max_concurrency"}
    | {"max_sessions", "proxy", "ca_file", "enabled"}
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_kind(kind: object) -> None:
    """
    Check a kind of a plugin's.

    :raises TypeError: if it cannot be used.
    """
    if not isinstance(kind, UpstreamKind):
        raise TypeError(f"it gave a {type(kind).__name__}; an UpstreamKind is expected")
    if not isinstance(kind.name, str) or not re.fullmatch("[a-z][a-z0-9-]{0,62}", kind.name):
        raise TypeError(f"the kind {kind.name!r} needs a name of lower-case letters, digits and '-'")
    if like := mistaken_for(kind.name):
        raise TypeError(f"the kind {kind.name} would be taken for a mistyped {like}; give it another name")
    if not kind.methods:
        raise TypeError(f"the kind {kind.name} has no methods; name at least generateContent")
    for method in sorted(kind.methods - ALL_METHODS):
        near = nearest_of(method, ALL_METHODS)
        raise TypeError(f"the kind {kind.name} has the method {method!r}, which is none of Google's" + _hint(near))
    for name in ("wrap", "read_answer", "read_error"):
        value = getattr(kind, name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} of the kind {kind.name} is a {type(value).__name__}, and no function")
    if kind.models is not None and not isinstance(kind.models, ModelList):
        raise TypeError(f"models of the kind {kind.name} is a {type(kind.models).__name__}; give a ModelList")
    if not isinstance(kind.endpoints, tuple) or any(url[-1:] == "/" for url in kind.endpoints):
        raise TypeError(f"endpoints of the kind {kind.name} are a tuple of base URLs without a slash at their end")
    _check_settings(kind)
    _check_headers(kind)


def _check_settings(kind: UpstreamKind) -> None:
    schema = kind.settings
    if schema is None:
        return
    if not isinstance(schema, type) or not issubclass(schema, msgspec.Struct):
        raise TypeError(f"settings of the kind {kind.name} are a msgspec.Struct")
    for field in msgspec.structs.fields(schema):
        if field.encode_name in _TAKEN:
            raise TypeError(
                f"settings of the kind {kind.name} have {field.encode_name}, which all accounts have; name it otherwise"
            )


def _check_headers(kind: UpstreamKind) -> None:
    made = kind.authenticate("a-key-to-see-the-headers")
    if not isinstance(made, Mapping) or not all(
        isinstance(name, str)
        and _NAME.fullmatch(name)
        and isinstance(value, str)
        and all(map(is_header_value, value.split(" ")))
        for name, value in made.items()
    ):
        raise TypeError(f"authenticate of the kind {kind.name} returns headers: their names and values, as text")


def _hint(near: str | None) -> str:
    return f"; did you mean {near}?" if near else ""
