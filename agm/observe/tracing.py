"""
Traces by OpenTelemetry: a span for each request, and below it one for each attempt at an upstream.

A plugin that is loaded only where traces are asked for, because it needs the extra ``otel``.  Spans are made once
a request has ended, of what its record tells; the SDK sends them in batches from a thread of its own, and no request
ever waits for that.  A client's ``traceparent`` is honoured, so that a request is part of the client's trace; nothing
of it is passed on to upstreams.  No text of a conversation, key, name of a key, or path is ever in a span, and no name
of an account unless the configuration says so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm import __version__, hookimpl
from agm.config import OtelConfig
from agm.core.request import AttemptRecord, RequestRecord
from agm.core.wire.answer_filters import Framing

#: Seconds that the last spans get to be sent at the stop.
FLUSH = 5.0
#: A text of a client's is told up to this many characters.
MAX_TEXT = 200

#: What the conventions call Google's methods; others are called as Google does.
_OPERATIONS = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
}

log = Logger()


class _Bridge(logging.Handler):
    """Hands what the SDK logs from its threads to the log of everything else."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(logging.WARNING)
        self._reactor = reactor

    def emit(self, record: logging.LogRecord) -> None:
        """The message, without a traceback: that is the SDK's."""
        self._reactor.callFromThread(log.warn, "traces: {message}", message=record.getMessage())


class Traces:
    """
    The plugin.

    :param environ: the environment, whose ``OTEL_…`` variables the SDK reads as well.
    :param exporter: where spans go; an OTLP/HTTP exporter if not given.
    """

    __version__ = __version__

    def __init__(
        self, reactor: Any, config: OtelConfig, environ: Mapping[str, str], *, exporter: SpanExporter | None = None
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._environ = environ
        self._exporter = exporter
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        self._bridge: _Bridge | None = None
        self._propagator = TraceContextTextMapPropagator()
        #: Takes secrets out of what a client calls a model.
        self.redact: Callable[[str], str] = str

    def start(self) -> None:
        """Begin; to be called once the reactor runs, because a process that becomes a daemon loses its threads."""
        self._bridge = _Bridge(self._reactor)
        sdk = logging.getLogger("opentelemetry")
        sdk.addHandler(self._bridge)
        sdk.propagate = False
        try:
            self._begin()
        except Exception as e:  # the SDK reads variables, and says in its own ways what it cannot use
            log.error("no traces are sent, because of a variable OTEL_…: {why}", why=str(e) or type(e).__name__)

    def _begin(self) -> None:
        config = self._config
        attributes = {"service.version": __version__}
        if not self._environ.get("OTEL_SERVICE_NAME"):
            attributes["service.name"] = config.service_name
        exporter = self._exporter
        if exporter is None:
            exporter = OTLPSpanExporter(None if config.endpoint is None else f"{config.endpoint}/v1/traces")
        self._provider = TracerProvider(
            # what the environment says counts where the configuration says nothing
            sampler=None if config.sample == 1 else ParentBasedTraceIdRatio(config.sample),
            resource=Resource.create(attributes),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("agm", __version__)

    async def stop(self) -> None:
        """Send what has not been sent, for a few seconds at most."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is None:
            self._let_go()
            return
        done: Deferred[None] = Deferred()

        def over() -> None:
            if not done.called:
                done.callback(None)

        def finish() -> None:
            provider.force_flush(int(FLUSH * 1000))
            self._reactor.callFromThread(over)
            provider.shutdown()

        # its own, and no reason for the process to stay: the receiver may not answer
        threading.Thread(target=finish, name="traces", daemon=True).start()
        patience = self._reactor.callLater(FLUSH, over)
        await done
        if patience.active():
            patience.cancel()
        self._let_go()

    def _let_go(self) -> None:
        sdk = logging.getLogger("opentelemetry")
        if self._bridge is not None:
            sdk.removeHandler(self._bridge)
            sdk.propagate = True
            self._bridge = None

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        """Make the spans of a request."""
        tracer = self._tracer
        if tracer is None:
            return
        request = record.request
        operation = _OPERATIONS.get(request.method, request.method)
        parent = self._propagator.extract(request.headers, Context())
        asked = self.redact(request.asked_model)[:MAX_TEXT]
        span = tracer.start_span(
            f"{operation} {asked}" if asked else operation,
            context=parent,
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(record.started),
        )
        if span.is_recording():
            span.set_attributes(_of_request(record, operation, asked))
            if record.outcome == "aborted" or (record.outcome == "error" and record.status >= 500):
                span.set_status(Status(StatusCode.ERROR))
            below = set_span_in_context(span, parent)
            for attempt in record.attempts:
                self._attempt(tracer, below, attempt, record, operation)
        span.end(_nanoseconds(record.started + record.ended))

    def _attempt(
        self, tracer: Tracer, context: Context, attempt: AttemptRecord, record: RequestRecord, operation: str
    ) -> None:
        url = urlsplit(attempt.endpoint)
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": attempt.model[:MAX_TEXT],
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
            "agm.attempt.number": attempt.number,
            "agm.attempt.probe": attempt.probe,
        }
        if attempt.status is not None:
            attributes["http.response.status_code"] = attempt.status
        if attempt.verdict is not None:
            attributes["error.type"] = attempt.verdict.reason
        if self._config.accounts:
            attributes["agm.account"] = attempt.account
            attributes["agm.attempt.chosen"] = attempt.chosen
        span = tracer.start_span(
            f"attempt {attempt.number}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=_nanoseconds(attempt.started),
        )
        ended = attempt.started + attempt.ended
        if attempt.verdict is not None:
            span.set_status(Status(StatusCode.ERROR))
        else:  # its answer flowed until the request ended
            span.add_event("first byte", timestamp=_nanoseconds(ended))
            ended = max(record.started + record.ended, ended)
            if record.outcome == "aborted":
                _fail(span)
        span.end(_nanoseconds(ended))


def _fail(span: Span) -> None:
    span.set_attribute("error.type", "BROKEN_OFF")
    span.set_status(Status(StatusCode.ERROR))


def _of_request(record: RequestRecord, operation: str, asked: str) -> dict[str, AttributeValue]:
    """Make the attributes of a request, by the conventions' names where they have one, else below ``agm.``."""
    request = record.request
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "gcp.gemini",
        "http.response.status_code": record.status,
        "agm.request_id": request.id,
        "agm.method": request.method,
        "agm.framing": request.framing.value,
        "agm.outcome": record.outcome,
        "agm.attempts": len(record.attempts),
        "agm.sent_bytes": record.sent,
    }
    if asked:
        found["gen_ai.request.model"] = asked
    if record.account is not None:  # it has got as far as an upstream, which knows this name
        found["gen_ai.response.model"] = request.model[:MAX_TEXT]
    if request.framing is not Framing.UNARY:
        found["gen_ai.request.stream"] = True
    if record.first_byte is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_byte
    if record.finish_reason is not None:
        found["gen_ai.response.finish_reasons"] = (record.finish_reason,)
    usage = record.usage
    if usage is not None:  # by the conventions, what was cached is part of the input, and thoughts are of the output
        found["gen_ai.usage.input_tokens"] = usage.prompt + usage.tool
        found["gen_ai.usage.output_tokens"] = usage.output + usage.thoughts
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached
        found["gen_ai.usage.reasoning.output_tokens"] = usage.thoughts
    if record.outcome == "aborted":
        found["error.type"] = "BROKEN_OFF"
    elif record.outcome == "error":
        verdict = record.attempts[-1].verdict if record.attempts else None
        found["error.type"] = str(record.status) if verdict is None else verdict.reason
    return found


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
