"""
An exact answer cache: the same question again, of the same asker, is answered from memory.

::

    [plugins]
    load = ["agm.contrib.answer_cache"]

    [plugins.answer_cache]
    seconds = 3600
    share = "key"       # or "team", or "all"

The header ``x-agm-cache`` of an answer says ``hit`` or ``miss``.  Nothing is written to disk.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec

from agm.api import Framing, GatewayRequest, KeepAnswer, LocalAnswer, Patterns, RequestRecord, hookimpl

__all__ = ["AnswerCache", "Settings"]

#: What an entry takes beside its answer, in bytes.
OVERHEAD = 1300
#: A body of so many bytes is its own key; a digest stands for a longer one.
SHORT = 512
#: How an answer of a model ends that it would give again; one that was stopped, or was never finished, is not kept.
_FINISHED = frozenset({"STOP", "MAX_TOKENS", "stop", "length", "tool_calls"})
_GENERATING = frozenset({"generateContent", "streamGenerateContent", "openai.chat.completions"})
#: What may name a file, a cached content or the like, which not every asker may see; or hide such a name.
_NAMES_SOMETHING = re.compile(
    rb"(?:files?|cachedContents|Stores|corpora|documents|batches|operations|tunedModels|interactions|projects|buckets)/"
    rb"|gs:|\\u00|\\/"
)

Key = tuple[object, ...]
_MODEL = 3
Bytes = Annotated[int, msgspec.Meta(ge=0)]


class Settings(msgspec.Struct):
    """``[plugins.answer_cache]``."""

    seconds: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    max_bytes: Bytes = 64 * 2**20
    max_answer_bytes: Bytes = 2**20
    share: Literal["key", "team", "all"] = "key"
    models: list[str] = msgspec.field(default_factory=lambda: ["*"])
    methods: list[str] = msgspec.field(
        default_factory=lambda: [
            "generateContent",
            "streamGenerateContent",
            "countTokens",
            "embedContent",
            "batchEmbedContents",
            "openai.chat.completions",
            "openai.embeddings",
        ]
    )


class AnswerCache:
    """The plugin: the answers by what was asked, the one that was not used for the longest first."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.bytes = 0
        #: What requests in flight would be kept as, by their ids.
        self._asked: dict[str, Key] = {}
        self._answers: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._read(self.settings)

    def _read(self, settings: Settings) -> None:
        self.settings = settings
        self._seconds, self._most = settings.seconds, settings.max_bytes
        self._methods = frozenset(settings.methods)
        self._models = None if settings.models == ["*"] else Patterns(tuple(settings.models))
        self._keep = KeepAnswer(settings.max_answer_bytes, {"x-agm-cache": "miss"})
        #: Who shares beside a key's own requests; None for nobody.
        self._share = None if settings.share == "key" else settings.share

    def __len__(self) -> int:
        return len(self._answers)

    @hookimpl
    def agm_settings(self) -> dict[str, type[msgspec.Struct]]:
        """Say what the table may hold."""
        return {"answer_cache": Settings}

    @hookimpl
    def agm_configure(self, config: Any) -> None:
        """Take the settings up; what was kept under others is forgotten."""
        settings = config.plugins.read("answer_cache", Settings)
        if settings != self.settings:
            self._answers.clear()
            self.bytes = 0
        self._read(settings)

    @hookimpl
    def agm_answer_request(self, request: GatewayRequest) -> LocalAnswer | KeepAnswer | None:
        """Answer from memory, or ask for the answer to be kept."""
        key = self._key(request)
        if key is None:
            return None
        control = request.headers.get("cache-control")
        if control is not None and "no-store" in control:
            return None
        found = self._answers.get(key)
        if found is not None and not (control is not None and "no-cache" in control):
            until, answer = found
            if until > request.received_at:
                if not request.explaining:
                    self._answers.move_to_end(key)
                return LocalAnswer(answer, headers={"x-agm-cache": "hit"})
        if not request.explaining:
            self._asked[request.id] = key
        return self._keep

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        """Keep an answer that came whole, as that of the model that it came from."""
        request, answer = record.request, record.answer
        key = self._asked.pop(request.id, None)
        if key is None or answer is None or record.status != 200:
            return
        if record.finish_reason not in _FINISHED and request.method in _GENERATING:
            return  # what was stopped or is not finished the model would not give again
        if request.model != key[_MODEL]:  # another one has stood in for it
            key = self._key(request)
        if key is not None:
            self._put(key, request.received_at, answer)

    def _key(self, request: GatewayRequest) -> Key | None:
        """Return who asks, as far as that counts, of what, how, and with which words; None for what is not kept."""
        method, model, raw, share = request.method, request.model, request.body.raw, self._share
        if method not in self._methods or (self._models is not None and model not in self._models):
            return None
        asker: object = request.client_key
        if share is not None:
            if _NAMES_SOMETHING.search(raw):
                return None
            team = request.team
            asker = None if share == "all" else ("team", team) if team is not None else ("key", asker)
        query, place = request.query, request.place
        return (
            asker,
            request.version,
            method,
            model,
            request.framing is Framing.ARRAY,  # the method and the body tell the others
            tuple(sorted(query.items())) if query else (),
            None if place is None else (place.project, place.location),
            raw if len(raw) <= SHORT else blake2b(raw, digest_size=32).digest(),
        )

    def _put(self, key: Key, now: float, answer: bytes) -> None:
        answers = self._answers
        if key in answers:
            self.bytes -= len(answers.pop(key)[1]) + OVERHEAD
        answers[key] = now + self._seconds, answer
        self.bytes += len(answer) + OVERHEAD
        while self.bytes > self._most:
            _, (_, oldest) = answers.popitem(last=False)
            self.bytes -= len(oldest) + OVERHEAD


_cache = AnswerCache()
agm_settings = _cache.agm_settings
agm_configure = _cache.agm_configure
agm_answer_request = _cache.agm_answer_request
agm_request_finished = _cache.agm_request_finished
