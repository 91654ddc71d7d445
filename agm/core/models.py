"""
Models: the names that clients use, what they map to, and how the list of them looks in Gemini's shape.

Aliases are matched exactly first, then by the most specific wildcard, then in the order of the file.  Nothing is
fetched here; what accounts report about their models is handed in.
"""

from __future__ import annotations

import base64
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from agm.core.errors import InvalidRequest, NotFound
from agm.core.wire.target import bare_model

DEFAULT_PAGE = 50
MAX_PAGE = 1000

_GENERATION = ("generateContent", "streamGenerateContent", "countTokens")
_IMAGE_LIMITS = (32_768, 32_768)
_TEXT_LIMITS = (1_048_576, 65_536)

#: Token limits (input, output) that Google documents, by the start of a model's id; the longest that fits counts.
_LIMITS: Mapping[str, tuple[int, int]] = {
    "gemini-2.5-": _TEXT_LIMITS,
    "gemini-2.5-flash-image": _IMAGE_LIMITS,
    "gemini-3-": _TEXT_LIMITS,
    "gemini-embedding-": (2_048, 1),
    "imagen-4.0-": (480, 8_192),
}


@attrs.frozen
class AliasRule:
    """One line of ``[models.aliases]``: requests for `pattern` are served by `target`."""

    pattern: str
    target: str

    @property
    def exact(self) -> bool:
        """Whether the pattern is a plain name."""
        return not any(c in self.pattern for c in "*?[")

    @property
    def literal_length(self) -> int:
        """How specific the pattern is: the number of characters that are not wildcards."""
        return len(re.sub(r"\[[^]]*\]|[*?]", "", self.pattern))


class Aliases:
    """The alias rules in the order in which they are tried."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        parsed = [AliasRule(pattern, target) for pattern, target in rules.items()]
        self._exact = {rule.pattern: rule for rule in parsed if rule.exact}
        wild = sorted((r for r in parsed if not r.exact), key=lambda r: -r.literal_length)  # stable: file order
        self._wild = [(re.compile(fnmatch.translate(rule.pattern)), rule) for rule in wild]

    def match(self, model: str) -> AliasRule | None:
        """Return the rule for `model`, or None."""
        rule = self._exact.get(model)
        if rule is not None:
            return rule
        if not self._wild:
            return None
        return next((rule for pattern, rule in self._wild if pattern.match(model)), None)

    @property
    def names(self) -> Sequence[str]:
        """Aliases that are plain names, in file order: they can be listed."""
        return tuple(self._exact)

    def target(self, name: str) -> str:
        """Resolve a plain name."""
        return self._exact[name].target


class Patterns:
    """A set of names with wildcards, as in an account's or a key's ``models``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._all = "*" in self.patterns
        self._match = re.compile("|".join(fnmatch.translate(p) for p in self.patterns) or r"(?!)").match

    def __contains__(self, model: str) -> bool:
        return self._all or self._match(model) is not None


def supported_methods(model: str) -> tuple[str, ...]:
    """The methods of a model whose account has not told, by Google's naming."""
    if "embedding" in model:
        return ("embedContent", "batchEmbedContents", "countTokens")
    if model.startswith("imagen"):
        return ("predict",)
    return _GENERATION


#: How the names of Google's models begin, and those of the emulator.
_OF_GOOGLE = re.compile(
    r"(?:gemini|gemma|learnlm|imagen|veo|lyria|chirp|emu)-|aqa\Z|embedding-\d|textembedding-|text-embedding-\d\d"
    r"|text-multilingual-embedding-|(?:tunedModels|dynamic|publishers|projects)/"
)


def is_googles(model: str) -> bool:
    """Return whether a name looks like one of Google's models, listed or not: lists omit previews."""
    return _OF_GOOGLE.match(model) is not None


def unknown_model(model: str) -> NotFound:
    """Make the error for a client of another API that asks for a model which nobody has named."""
    shown = model if len(model) <= 80 else model[:77] + "..."
    return NotFound(
        f"No model is called {shown} here. Write in the configuration which Gemini model serves it: "
        f'[models.aliases] "{shown}" = "gemini-2.5-flash"; or, for every name that is not known, '
        '[dialects] default_model = "gemini-2.5-flash".',
        reason="MODEL_NOT_FOUND",
    )


#: Asked for if nothing in the configuration says what an account serves.
_USUAL = ("gemini-2.5-flash", "gemini-2.5-pro")


def model_to_count(models: Patterns, listed: Iterable[str]) -> str | None:
    """Name one of `models` of which tokens can be counted: a usual one, one that is listed, or another."""
    named = [pattern for pattern in models.patterns if not any(c in pattern for c in "*?[")]
    for model in (*_USUAL, *listed, *named):
        if model in models and "countTokens" in supported_methods(model):
            return model
    return None


def describe(model: str, *, alias_of: str | None = None) -> dict[str, Any]:
    """Return a model in Gemini's shape, from its name alone."""
    served = alias_of or model
    found: dict[str, Any] = {
        "name": model if model.startswith(("tunedModels/", "dynamic/")) else f"models/{model}",
        "baseModelId": served,
        "version": "001",
        "displayName": model,
    }
    if alias_of is not None:
        found["description"] = f"An alias of {alias_of}."
    limits = max((p for p in _LIMITS if served.startswith(p)), key=len, default=None)
    if limits is not None:
        found["inputTokenLimit"], found["outputTokenLimit"] = _LIMITS[limits]
    found["supportedGenerationMethods"] = list(supported_methods(served))
    return found


class Catalog:
    """
    The models that can be asked for: configured ids first, then plain aliases, then what the accounts report.

    :param reported: model resources as upstreams list them; those without a usable name are passed over.
    :param display_name: ``upstream`` to list a model under the display name that its upstream gives it, ``id`` under
        its id.  It can be asked for by either.
    """

    def __init__(
        self,
        configured: Iterable[str],
        aliases: Aliases,
        reported: Iterable[Mapping[str, Any]] = (),
        *,
        display_name: Literal["id", "upstream"] = "id",
    ) -> None:
        known: dict[str, Mapping[str, Any]] = {}
        names: dict[str, str] = {}
        for resource in reported:
            name = resource.get("name")
            model = bare_model(name) if isinstance(name, str) else ""
            if model and model not in known:  # of two accounts that report it, the first one counts
                names[model] = str(resource.get("displayName") or model)
                shown = names[model] if display_name == "upstream" else model
                known[model] = {**resource, "name": describe(model)["name"], "displayName": shown}
        found: dict[str, Mapping[str, Any]] = {model: known.get(model) or describe(model) for model in configured}
        for alias in aliases.names:
            if alias not in found and alias not in known:
                target = aliases.target(alias)
                own = describe(alias, alias_of=target)
                named = {key: own[key] for key in ("name", "baseModelId", "displayName", "description")}
                found[alias] = {**own, **known.get(target, {}), **named}
        found.update((model, resource) for model, resource in known.items() if model not in found)
        self._models = found
        self._ids_by_display_name = {names.get(model, model): model for model in reversed(found)}

    @property
    def resources(self) -> Sequence[Mapping[str, Any]]:
        """All of them."""
        return tuple(self._models.values())

    def __contains__(self, model: str) -> bool:
        """Return whether this is the id of one of them."""
        return model in self._models

    def get(self, model: str) -> Mapping[str, Any] | None:
        """Return the resource of a model's id or display name."""
        return self._models.get(self.id_of(model))

    def id_of(self, model: str) -> str:
        """Return the id of a model that was asked for by its display name; any other name as it is."""
        return model if model in self._models else self._ids_by_display_name.get(model, model)

    def page(self, page_size: str | None, page_token: str | None) -> dict[str, Any]:
        """
        Return a page of the list, as ``ListModels`` answers.

        :param page_size: as the client wrote it; 50 where it is missing or 0, 1000 at most.
        :param page_token: from the page before.
        :raises InvalidRequest: if either is not what it should be.
        """
        try:
            size = int(page_size or 0)
        except ValueError:
            raise InvalidRequest(f"Invalid value at 'page_size' (TYPE_INT32), {str(page_size)[:40]!r}.") from None
        if size < 0:
            raise InvalidRequest("page_size must not be negative.")
        size = min(size or DEFAULT_PAGE, MAX_PAGE)
        start = 0
        names = list(self._models)
        if page_token:
            try:
                start = names.index(_read_token(page_token)) + 1
            except ValueError:
                raise InvalidRequest("page_token is not valid: use the nextPageToken of the page before.") from None
        page: dict[str, Any] = {"models": [self._models[name] for name in names[start : start + size]]}
        if start + size < len(names):
            page["nextPageToken"] = _write_token(names[start + size - 1])
        return page


def _write_token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode("utf-8")).decode("ascii").rstrip("=")


def _read_token(token: str) -> str:
    """:raises ValueError: if it is not such a token."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("utf-8")
