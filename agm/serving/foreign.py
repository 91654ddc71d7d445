"""Answers of a plugin's kind of upstream as the Gemini API would give them: its reader, then the plugins that edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import msgspec

from agm.core.documents import undense
from agm.core.errors import NOT_JSON, error_info, status_body
from agm.core.request import Account, AnswerReader, ErrorInAnswer, GatewayRequest
from agm.core.wire import envelope
from agm.core.wire.answer_filters import EventsReplaced
from agm.plugins.hooks import HookFailed
from agm.serving.chains import plugin_failed
from agm.serving.context import ServingContext


@attrs.define(eq=False)
class ForeignAnswer:
    """
    Translates one answer; :meth:`change` and :meth:`end` are for :class:`~agm.core.wire.answer_filters.EventPipe`.

    :param alone: whether the answer is one document, and no stream.
    """

    _context: ServingContext
    _request: GatewayRequest
    _account: Account
    _alone: bool
    _reader: AnswerReader | None = attrs.field(init=False, default=None)

    def change(self, document: bytes) -> bytes:
        """
        Return what the client gets for a document of the upstream's.

        :raises EventsReplaced: if it is not one document.
        :raises UpstreamError: if it is an error.
        :raises NotAnEnvelope: if it is no JSON object.
        :raises GatewayError: if the reader says so, or it or another plugin fails.
        """
        try:
            event = msgspec.json.decode(undense(document))
        except NOT_JSON:
            event = None
        if not isinstance(event, dict):
            raise envelope.NotAnEnvelope("not a JSON object")
        found, ends = self._translated(lambda: self._made().read(event))
        if len(found) == 1 and not (ends and not self._alone):
            return found[0]
        raise EventsReplaced(found, ends=ends)

    def end(self, done: bool) -> Sequence[bytes]:
        """As :meth:`change`: the client's last documents."""
        return self._translated(lambda: self._made().end(done))[0]

    def _made(self) -> AnswerReader:
        if self._reader is None:
            make = self._account.upstream.read_answer
            assert make is not None, "the answers of other kinds are read as they come"
            self._reader = make(self._request, self._account)
        return self._reader

    def _translated(self, read: Callable[[], Iterable[dict[str, Any]]]) -> tuple[list[bytes], bool]:
        hooks, found = self._context.hooks, list[bytes]()
        try:
            documents = hooks.read_answer(read, self._request, self._account, alone=self._alone)
            if not hooks.edits_events:
                return [encoded for _, encoded in documents], False
            for document, _ in documents:
                edited = hooks.edit_event(document, self._request, self._account, alone=self._alone)
                found += edited.documents
                if edited.ends:
                    return found, True
        except HookFailed as e:
            raise plugin_failed(e) from e
        except ErrorInAnswer as e:
            raise envelope.UpstreamError(self._googles(e), e.body) from None
        return found, False

    def _googles(self, error: ErrorInAnswer) -> bytes:
        """Put an error of the upstream's into Google's form, on one line."""
        verdict = self._context.hooks.classify_error(error.status, error.body, {}, self._account, self._request)
        message = verdict.message or f"The upstream ended the answer with an error, {error.status}."
        body = status_body(error.status, message, details=(error_info(verdict.reason),))
        return msgspec.json.format(self._context.redactor.body(body), indent=-1)
