"""
Take personal data out of answers, as :mod:`agm.contrib.pii_redactor` does out of requests, with the same settings.

::

    [plugins]
    load = ["agm.contrib.pii_redactor", "agm.contrib.pii_answers"]

Of a stream the last word of each event waits for the next one, so that what is split over two events is found; it goes
out with the event that ends its text.  Answers that are no JSON are refused by the gateway while this plugin is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from twisted.logger import Logger

from agm.api import Framing, GatewayRequest, RequestRecord, hookimpl
from agm.contrib.pii import Redaction, Settings, told

log = Logger()

#: So many characters wait at most, and so many of a number that is written in groups.
MOST, MOST_OF_A_NUMBER = 200, 40
_NUMERIC = frozenset("0123456789 ()+./-")
_DELTAS = frozenset({"step.delta", "content.delta"})
_STOPS = frozenset({"step.stop", "content.stop"})


class _Stream:
    """A stream under way: of each of its texts what waits, and the last event of an interaction's text."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self.counts: Counter[str] = Counter()
        self._waiting: dict[Hashable, str] = {}
        self._last: dict[Hashable, dict[str, Any]] = {}

    def take(self, of: Hashable, text: str) -> str:
        """Return what may go out of a text that goes on; the rest waits."""
        text = self._waiting.pop(of, "") + text
        cut = _end_of_the_sure(text)
        for start, end, _ in self._redaction.spans(text):
            if start < cut < end:
                cut = start
        if cut < len(text):
            self._waiting[of] = text[cut:]
        return self._redaction.text(text[:cut], self.counts)

    def rest(self, of: Hashable) -> str:
        """Return what waits, for a text that has ended."""
        return self._redaction.text(self._waiting.pop(of, ""), self.counts)

    def edit(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Give what comes in the place of an event."""
        if "event_type" in event:
            yield from self._interaction(event)
        else:
            for candidate in _dicts(event.get("candidates")):
                self._turn(candidate, "content", candidate.get("index", 0), ends="finishReason" in candidate)
            for choice in _dicts(event.get("choices")):
                self._choice(choice)
            if isinstance(said := event.get("serverContent"), dict):
                self._session(said)
            yield event

    def _turn(self, holder: dict[str, Any], name: str, of: Hashable, *, ends: bool) -> None:
        """Edit the parts of a turn of Google's, in which thoughts and what is said are texts of their own."""
        content = holder.get(name)
        parts = content.get("parts") if isinstance(content, dict) else None
        edited: list[Any] = []
        for part in parts if isinstance(parts, list) else ():
            text = part.get("text") if isinstance(part, dict) else None
            thought = isinstance(part, dict) and part.get("thought") is True
            for other in (True, False):  # a text ends where another begins
                if not (isinstance(text, str) and other is thought):
                    edited += self._part(of, thought=other)
            if isinstance(text, str):
                part["text"] = self.take((of, thought), text)
            edited.append(part)
        if ends and parts and isinstance(edited[-1], dict) and isinstance(edited[-1].get("text"), str):
            edited[-1]["text"] += self.rest((of, edited[-1].get("thought") is True))
        if ends:
            edited += [*self._part(of, thought=True), *self._part(of, thought=False)]
        if not edited:
            return
        if isinstance(content, dict):
            content["parts"] = edited
        else:
            holder[name] = {"parts": edited, "role": "model"}

    def _part(self, of: Hashable, *, thought: bool) -> Iterator[dict[str, Any]]:
        if text := self.rest((of, thought)):
            yield {"text": text, "thought": True} if thought else {"text": text}

    def _session(self, said: dict[str, Any]) -> None:
        """Edit what the model says in a Live session, and what is written down of both sides."""
        ends = any(said.get(name) for name in ("turnComplete", "generationComplete", "interrupted"))
        self._turn(said, "modelTurn", "session", ends=ends)
        for name in ("inputTranscription", "outputTranscription"):
            written = said.get(name)
            if isinstance(written, dict) and isinstance(text := written.get("text"), str):
                written["text"] = self.take(name, text)
            done = ends or (isinstance(written, dict) and written.get("finished") is True)
            if done and (rest := self.rest(name)):
                written = said.setdefault(name, {})
                written["text"] = written.get("text", "") + rest

    def _choice(self, choice: dict[str, Any]) -> None:
        """Edit a piece of an answer of the OpenAI surface."""
        number, delta = choice.get("index", 0), choice.get("delta")
        if not isinstance(delta, dict):
            return
        calls = list(_dicts(delta.get("tool_calls")))
        if isinstance(text := delta.get("content"), str):
            delta["content"] = self.take((number, "content"), text)
        for call in calls:
            function = call.get("function")
            if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
                function["arguments"] = self.take((number, call.get("index", 0)), text)
        ends = choice.get("finish_reason") is not None
        if (ends or calls) and (rest := self.rest((number, "content"))):
            delta["content"] = (delta.get("content") or "") + rest
        if ends:
            for of in [key for key in self._waiting if isinstance(key, tuple) and key[0] == number]:
                calls.append({"index": of[1], "function": {"arguments": self.rest(of)}})
                delta["tool_calls"] = calls

    def _interaction(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Edit an event of an interaction; what waits at the end of a text is an event before the one that ends it."""
        kind, of, delta = event["event_type"], ("step", event.get("index")), event.get("delta")
        if kind in _DELTAS and isinstance(delta, dict) and isinstance(delta.get("text"), str):
            self._last[of] = {name: value for name, value in event.items() if name != "event_id"}
            delta["text"] = self.take(of, delta["text"])
        elif kind in _STOPS and (rest := self.rest(of)):
            last = self._last.pop(of)
            yield {**last, "delta": {**last["delta"], "text": rest}}
        yield event


class PiiAnswers:
    """The plugin."""

    def __init__(self) -> None:
        self._redaction = Redaction(Settings())
        self._streams: dict[str, _Stream] = {}
        #: Whether what cannot be looked through may come in: see docs/plugins.md.
        self.may_pass_unseen = False

    @hookimpl
    def agm_configure(self, config: Any) -> None:
        """Take the settings up; streams under way go on with theirs."""
        settings = config.plugins.read("pii_redactor", Settings)
        self._redaction = Redaction(settings)
        self.may_pass_unseen = settings.pass_unseen

    @hookimpl
    def agm_transform_event(self, event: dict[str, Any], request: GatewayRequest) -> Any:
        """Give the event, or the whole answer, without what is found in it."""
        if request.framing is Framing.UNARY:
            counts: Counter[str] = Counter()
            self._redaction.document(event, counts)
            _log(request, counts)
            return event if counts else None
        stream = self._streams.get(request.id)
        if stream is None:
            stream = self._streams[request.id] = _Stream(self._redaction)
        events = list(stream.edit(event))
        for each in events:
            self._redaction.document(each, stream.counts)
        return events[0] if len(events) == 1 else events

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        """Forget the stream."""
        stream = self._streams.pop(record.request.id, None)
        if stream is not None:
            _log(record.request, stream.counts)


def _log(request: GatewayRequest, counts: Counter[str]) -> None:
    if counts:
        log.info("{request_id}: redacted {what} of the answer", request_id=request.id, what=told(counts))


def _dicts(found: object) -> Iterator[dict[str, Any]]:
    return (one for one in found if isinstance(one, dict)) if isinstance(found, list) else iter(())


def _end_of_the_sure(text: str) -> int:
    """Return how much of a text is whole words: what follows could be the beginning of something that is looked for."""
    at = len(text)
    low = max(0, at - MOST)
    while at > low and "!" <= text[at - 1] <= "~":
        at -= 1
    if not _NUMERIC.issuperset(text[at:]):
        return at
    start = len(text)
    low = max(0, start - MOST_OF_A_NUMBER)
    while start > low and text[start - 1] in _NUMERIC:
        start -= 1
    number = text[start:]
    return min(at, len(text) - len(number.lstrip(" ./-"))) if any(map(str.isdigit, number)) or "+" in number else at


_answers = PiiAnswers()
agm_configure = _answers.agm_configure
agm_transform_event = _answers.agm_transform_event
agm_request_finished = _answers.agm_request_finished


def __getattr__(name: str) -> Any:
    if name == "may_pass_unseen":
        return _answers.may_pass_unseen
    raise AttributeError(name)
