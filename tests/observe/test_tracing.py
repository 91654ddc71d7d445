"""Traces: a span a request, one an attempt below it, part of the client's trace, and not a word of what was said."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from twisted.logger import globalLogPublisher

from agm.app.assemble import traces_of
from agm.config import OtelConfig
from agm.observe.tracing import Traces
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway, parse_config
from testbed.processes import environment, post
from testbed.processes import running as process
from tests.helpers.support import connect, reactor
from tests.helpers.support import post as request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()


@attrs.frozen
class Traced:
    """A gateway with traces that stay in memory."""

    gateway: RunningGateway
    traces: Traces
    _exporter: InMemorySpanExporter

    @classmethod
    async def start(cls, gateway: GatewayFactory, config: str, **otel: Any) -> Traced:
        exporter = InMemorySpanExporter()
        traces = Traces(reactor, OtelConfig(**otel), {}, exporter=exporter)
        running = await gateway(config, plugins=[traces])
        traces.start()
        return cls(running, traces, exporter)

    async def spans(self) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
        """Stop; the spans of requests, and those of attempts, each in their order."""
        await self.traces.stop()
        spans = self._exporter.get_finished_spans()
        return (
            [span for span in spans if span.kind is SpanKind.SERVER],
            [span for span in spans if span.kind is SpanKind.CLIENT],
        )


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest_twisted.ensureDeferred
async def test_a_request_is_a_span_with_its_attempts_below(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """By the names of the conventions, with the tokens that the upstream told."""
    traced = await Traced.start(gateway, emulator.account())
    answer = await traced.gateway.ask(method="streamGenerateContent")
    usage = answer.events[-1]["usageMetadata"]
    (span,), (attempt,) = await traced.spans()
    assert span.name == "generate_content gemini-2.5-flash"
    assert span.parent is None
    found = attributes(span)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < 60
    assert found == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gemini-2.5-flash",
        "gen_ai.response.finish_reasons": ("STOP",),
        "gen_ai.usage.input_tokens": usage["promptTokenCount"],
        "gen_ai.usage.output_tokens": usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0),
        "gen_ai.usage.cache_read.input_tokens": usage.get("cachedContentTokenCount", 0),
        "gen_ai.usage.reasoning.output_tokens": usage.get("thoughtsTokenCount", 0),
        "http.response.status_code": 200,
        "agm.request_id": answer.headers["x-agm-request-id"],
        "agm.method": "streamGenerateContent",
        "agm.framing": "sse",
        "agm.outcome": "ok",
        "agm.attempts": 1,
        "agm.sent_bytes": len(answer.body),
    }
    assert attempt.parent is not None
    assert attempt.parent.span_id == span.context.span_id
    assert attempt.context.trace_id == span.context.trace_id
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    assert attributes(attempt) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.request.model": "gemini-2.5-flash",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 200,
        "agm.attempt.number": 1,
        "agm.attempt.probe": False,
    }
    assert [event.name for event in attempt.events] == ["first byte"]
    times = [span.start_time, attempt.start_time, attempt.events[0].timestamp, attempt.end_time, span.end_time]
    assert times == sorted(times)  # type: ignore[type-var]
    assert (span.status.status_code, attempt.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)


@pytest_twisted.ensureDeferred
async def test_a_failed_attempt_is_an_error_of_its_own(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And the request is one only if nobody served it."""
    traced = await Traced.start(gateway, emulator.account("a") + emulator.account("b"))
    assert (await traced.gateway.ask("emu-500-once-x")).status == 200
    assert (await traced.gateway.ask("emu-500")).status == 500
    assert (await traced.gateway.ask("emu-400")).status == 400
    (served, failed, refused), attempts = await traced.spans()
    assert [attributes(attempt).get("error.type") for attempt in attempts[:2]] == ["INTERNAL", None]
    assert [attempt.status.status_code for attempt in attempts[:2]] == [StatusCode.ERROR, StatusCode.UNSET]
    assert attributes(served)["agm.attempts"] == 2
    assert served.status.status_code is StatusCode.UNSET
    assert (failed.status.status_code, attributes(failed)["error.type"]) == (StatusCode.ERROR, "INTERNAL")
    # by the conventions a 4xx is the client's
    assert (refused.status.status_code, attributes(refused)["error.type"]) == (StatusCode.UNSET, "INVALID_ARGUMENT")


@pytest_twisted.ensureDeferred
async def test_an_answer_that_broke_off_is_an_error(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Of the attempt, too, whose first byte had come."""
    traced = await Traced.start(gateway, emulator.account())
    client = await connect(traced.gateway.port)
    client.send(request("/v1beta/models/emu-cut:streamGenerateContent?alt=sse"))
    await client.closed()
    for span in [each for kind in await traced.spans() for each in kind]:
        assert (span.status.status_code, attributes(span)["error.type"]) == (StatusCode.ERROR, "BROKEN_OFF")


@pytest_twisted.ensureDeferred
async def test_a_clients_trace_goes_on_here_and_ends_here(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Its traceparent is the parent, whether it is sampled is its to say, and no upstream hears of it."""
    traced = await Traced.start(gateway, emulator.account(), sample=0.0)
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "baggage": "user=1"}
    assert (await traced.gateway.ask(headers=headers)).status == 200
    assert (await traced.gateway.ask(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})).status == 200
    assert (await traced.gateway.ask()).status == 200
    assert (await traced.gateway.ask(headers={"traceparent": "nonsense"})).status == 200
    (span,), (attempt,) = await traced.spans()
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert f"{attempt.context.trace_id:032x}" == TRACE
    sent = {name.lower() for entry in emulator.log for name in dict(entry.headers)}
    assert not sent & {"traceparent", "tracestate", "baggage"}


@pytest_twisted.ensureDeferred
async def test_nothing_private_is_in_a_span(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """No text, key, name of a key or of an account, nor a long name that somebody made up."""
    key = '[[auth.keys]]\nname = "hidden-name"\nkey = "hidden-secret"\n'
    traced = await Traced.start(gateway, emulator.account("hidden-account") + key)
    await traced.gateway.ask(text="hidden-text", key="hidden-secret")
    await traced.gateway.fetch("GET", "/v1beta/files/hidden-file?pageToken=hidden-query", key="hidden-secret")
    await traced.gateway.ask("m" * 250)
    requests, attempts = await traced.spans()
    told = "\n".join(span.to_json() for span in (*requests, *attempts))
    assert len(requests) == 3
    assert "hidden" not in told
    assert "m" * 201 not in told


@pytest_twisted.ensureDeferred
async def test_accounts_are_named_where_the_configuration_says_so(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    traced = await Traced.start(gateway, emulator.account("work"), accounts=True)
    await traced.gateway.ask()
    _, (attempt,) = await traced.spans()
    assert attributes(attempt)["agm.account"] == "work"
    assert attributes(attempt)["agm.attempt.chosen"] == "the only candidate"


class Deaf(SpanExporter):
    """An exporter whose receiver does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.asked.set()
        self.over.wait(30)
        return SpanExportResult.FAILURE


@pytest_twisted.ensureDeferred
async def test_a_receiver_that_does_not_answer_holds_up_nothing(
    gateway: GatewayFactory, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request, and the stop for a moment only."""
    monkeypatch.setattr("agm.observe.tracing.FLUSH", 0.2)
    deaf = Deaf()
    traces = Traces(reactor, OtelConfig(), {}, exporter=deaf)
    running = await gateway(emulator.account(), plugins=[traces])
    traces.start()
    assert (await running.ask()).status == 200
    await traces.stop()
    assert deaf.asked.is_set()
    assert (await running.ask()).status == 200
    deaf.over.set()


# From the configuration to a receiver


@attrs.define
class Receiver:
    """An OTLP/HTTP receiver on loopback, in threads of its own."""

    url: str
    requests: list[tuple[str, Mapping[str, str], bytes]]

    @property
    def spans(self) -> list[Any]:
        """All spans that came."""
        found = []
        for _, _, body in self.requests:
            sent = ExportTraceServiceRequest.FromString(body)
            found += [span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans]
        return found

    @property
    def resource(self) -> dict[str, str]:
        """What the spans came from."""
        sent = ExportTraceServiceRequest.FromString(self.requests[0][2])
        return {each.key: each.value.string_value for each in sent.resource_spans[0].resource.attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    requests: list[tuple[str, Mapping[str, str], bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, dict(self.headers.items()), body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Receiver(f"http://127.0.0.1:{server.server_port}", requests)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("by", ["configuration", "environment"])
@pytest.mark.process
def test_a_real_process_sends_its_traces_and_the_last_ones_at_its_stop(
    tmp_path: Path, receiver: Receiver, by: str
) -> None:
    """By OTLP over HTTP, to where the configuration or the environment says."""
    config = tmp_path / "agm.toml"
    variables = {}
    if by == "configuration":
        config.write_text(f'[otel]\nendpoint = "{receiver.url}/"\nservice_name = "mine"\n')
    else:
        config.write_text("")
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=7",
            "OTEL_SERVICE_NAME": "mine",
        }
    env = environment(tmp_path, **variables)
    with process(tmp_path / "run", "agm", "--port", "0", "--demo", "--config", str(config), env=env) as twistd:
        client, answer = post(twistd.url(), "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
        assert answer.status == 200
        answer.read()
        client.close()
        assert twistd.stop() == 0
        assert "Traceback" not in twistd.log
    assert sorted(span.name for span in receiver.spans) == ["attempt 1", "generate_content gemini-2.5-flash"]
    assert {path for path, _, _ in receiver.requests} == {"/v1/traces"}
    assert receiver.resource["service.name"] == "mine"
    if by == "environment":
        assert receiver.requests[0][1]["x-tenant"] == "7"


@pytest.mark.slow
@pytest.mark.process
def test_a_receiver_that_cannot_be_reached_is_told_in_the_log(tmp_path: Path) -> None:
    """Once for each try to send, and the process ends as ever."""
    config = tmp_path / "agm.toml"
    config.write_text('[otel]\nendpoint = "http://127.0.0.1:9"\n')
    env = environment(tmp_path, OTEL_EXPORTER_OTLP_TIMEOUT="1", OTEL_BSP_SCHEDULE_DELAY="100")
    with process(tmp_path / "run", "agm", "--port", "0", "--demo", "--config", str(config), env=env) as twistd:
        client, answer = post(twistd.url(), "/v1beta/models/gemini-2.5-flash:generateContent", ASK)
        answer.read()
        client.close()
        twistd.until_logged("traces: ")
        assert twistd.stop() == 0
        assert "Traceback" not in twistd.log


def logged() -> Iterator[list[str]]:
    seen: list[str] = []

    def watch(event: Any) -> None:
        seen.append(str(event.get("log_format", "")).format(**event))

    globalLogPublisher.addObserver(watch)
    yield seen
    globalLogPublisher.removeObserver(watch)


log_lines = pytest.fixture(logged)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if OpenTelemetry was not installed."""
    monkeypatch.delitem(sys.modules, "agm.observe.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)


@pytest.mark.usefixtures("without_the_extra")
def test_traces_that_are_configured_without_the_extra_end_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that cures it."""
    config = parse_config('[otel]\nendpoint = "http://127.0.0.1:4318"\n')
    with pytest.raises(SystemExit) as ended:
        traces_of(reactor, config, {})
    assert str(ended.value) == (
        "agm: [otel] endpoint asks for traces, but OpenTelemetry is not installed "
        "(opentelemetry.context is missing): pip install '.[otel]' in agm's checkout"
    )


@pytest.mark.usefixtures("without_the_extra")
def test_an_environment_that_asks_for_traces_is_no_reason_to_fail(log_lines: list[str]) -> None:
    """It may be meant for other programs; the log says what is missing."""
    assert traces_of(reactor, parse_config(""), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}) is None
    assert any("pip install '.[otel]' in agm's checkout" in line for line in log_lines)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_can_ask_for_traces_or_forbid_them(environ: dict[str, str], wanted: bool) -> None:
    """By OpenTelemetry's own variables."""
    assert (traces_of(reactor, parse_config(""), environ) is not None) == wanted


@pytest_twisted.ensureDeferred
async def test_a_variable_that_cannot_be_used_leaves_the_gateway_as_it_is(
    monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    """The log says which."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    traces = Traces(reactor, OtelConfig(endpoint="http://127.0.0.1:4318"), {})
    traces.start()
    assert any("no traces are sent, because of a variable OTEL_…" in line for line in log_lines)
    await traces.stop()
