"""What Prometheus reads: all that was promised, true numbers, no name that somebody made up, and nothing secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from twisted.internet.task import Clock

from agm.core.client_keys import ClientKey, digest
from agm.core.errors import Forbidden
from agm.core.sender import Sender
from agm.observe import exposition
from agm.observe.metrics import LAG_EVERY
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway
from agm.web.access import Access
from agm.web.admin.metrics import Scrape
from agm.web.base import Visit
from testbed.processes import get as fetch
from testbed.processes import post as send
from testbed.processes import running as process
from tests.helpers.support import SSE_HEAD, ScriptedUpstream, chunk, connect, eventually, get, post

ROOT = Path(__file__).parents[2]
#: Families of the client library itself.
FOREIGN = re.compile(r"process_|python_")


@attrs.frozen
class Scraped:
    """What was read: the value of each sample, by its name and its labels."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    families: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> Scraped:
        families = {family.name: family for family in read_prometheus(text)}
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in families.values()
                for sample in family.samples
            },
            families,
        )

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 if there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of all samples of a name."""
        return [dict(labels) for sample, labels in self.samples if sample == name]

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self.samples}


async def scrape(running: RunningGateway, **headers: str) -> Scraped:
    """Read the metrics as a Prometheus server does."""
    answer = await running.fetch("GET", "/metrics", headers=headers)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scraped.of(answer.body.decode())


@pytest_twisted.ensureDeferred
async def test_calls_of_every_framing_are_counted_with_tokens_bytes_and_times(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account())
    unary = await running.ask()
    stream = await running.ask(method="streamGenerateContent")
    array = await running.fetch(
        "POST",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=json",
        body=b'{"contents":[{"parts":[{"text":"x"}]}]}',
    )
    assert (unary.status, stream.status, array.status) == (200, 200, 200)
    found = await scrape(running)
    for method, framing in (
        ("generateContent", "unary"),
        ("streamGenerateContent", "sse"),
        ("streamGenerateContent", "array"),
    ):
        where = {"method": method, "framing": framing}
        assert found.value("agm_requests_total", **where, code="200", outcome="ok") == 1
        for name in ("agm_request_first_byte_seconds", "agm_request_duration_seconds"):
            assert found.value(f"{name}_count", **where) == 1
            assert found.value(f"{name}_bucket", **where, le="+Inf") == 1
            assert 0 < found.value(f"{name}_sum", **where) < 60
    assert found.value("agm_attempts_total", kind="api-key", reason="ok") == 3
    usages = [unary.json["usageMetadata"], stream.events[-1]["usageMetadata"], array.json[-1]["usageMetadata"]]
    for kind, name in (("prompt", "promptTokenCount"), ("output", "candidatesTokenCount")):
        counted = found.value("agm_tokens_total", model="gemini-2.5-flash", type=kind)
        assert counted == sum(usage[name] for usage in usages) > 0
    assert found.value("agm_sent_bytes_total") == sum(len(answer.body) for answer in (unary, stream, array))
    assert found.value("agm_received_bytes_total") > 0
    assert found.value("agm_accounts", kind="api-key", state="ready") == 1
    host = emulator.url.removeprefix("http://")
    assert found.value("agm_upstream_connections", host=host, state="idle") == 1
    assert found.value("agm_upstream_connections", host=host, state="used") == 0


@pytest_twisted.ensureDeferred
async def test_failures_are_counted_by_whose_they_are_and_why(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """An upstream's refusal that is passed on, one of the gateway's own, an answer that broke off."""
    running = await gateway(emulator.account() + "[pool]\nmax_wait = 0\n")
    assert (await running.ask("emu-400")).status == 400
    assert (await running.fetch("GET", "/v1beta/nothing")).status == 404
    found = await scrape(running)
    own, theirs = found.labels("agm_errors_total"), "upstream"
    assert found.value("agm_errors_total", source=theirs, reason="INVALID_ARGUMENT") == 1
    assert found.value("agm_errors_total", source="gateway", reason="NOT_FOUND") == 1
    assert {label["source"] for label in own} == {"upstream", "gateway"}
    where = {"method": "generateContent", "framing": "unary", "outcome": "error"}
    assert found.value("agm_requests_total", **where, code="400") == 1
    client = await connect(running.port)
    client.send(post("/v1beta/models/emu-cut:streamGenerateContent?alt=sse"))
    assert b'{"error"' in await client.closed()
    found = await scrape(running)
    assert found.value("agm_errors_total", source="upstream", reason="BROKEN_OFF") == 1
    assert (await running.ask("emu-403disabled")).status == 403
    found = await scrape(running)
    assert found.value("agm_errors_total", source=theirs, reason="SERVICE_DISABLED") == 1
    assert found.value("agm_requests_total", **where, code="403") == 1
    assert found.value("agm_attempts_total", kind="api-key", reason="SERVICE_DISABLED") == 1
    assert found.value("agm_accounts", kind="api-key", state="resting") == 1


def account(upstream: ScriptedUpstream, extra: str = "") -> str:
    return f'[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{upstream.url}"]\n{extra}\n'


@pytest_twisted.ensureDeferred
async def test_what_is_under_way_shows_while_it_is(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """Open calls and streams, bytes as they flow, answers that wait for a reader, calls that wait for an account."""
    running = await gateway(account(upstream, "max_concurrency = 1"))
    client = await connect(running.port)
    client.send(post("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"))
    up = await upstream.connection()
    await up.asked(1)
    found = await scrape(running)
    assert (found.value("agm_requests_open"), found.value("agm_streams_open")) == (1, 0)
    assert found.value("agm_accounts", kind="api-key", state="busy") == 1
    assert found.value("agm_upstream_connections", host=upstream.url[7:], state="used") == 1
    event = b'data: {"candidates":[]}\r\n\r\n'
    up.send(SSE_HEAD + chunk(event))
    await client.until(event)
    second = await connect(running.port)
    second.send(post("/v1beta/models/gemini-2.5-flash:generateContent"))
    await eventually(lambda: running.gateway.pool.waiting() == 1, "a call in the line")
    found = await scrape(running)
    assert (found.value("agm_requests_open"), found.value("agm_streams_open")) == (2, 1)
    assert found.value("agm_requests_waiting") == 1
    assert found.value("agm_sent_bytes_total") == len(event)
    assert found.value("agm_answers_paused") == 0
    client.transport.pauseProducing()
    piece = chunk(b"data: {" + b" " * 1_000_000 + b"}\r\n\r\n")
    for _ in range(30):
        up.send(piece)
    await eventually(lambda: any(relay.paused for relay in running.gateway.live.relays()), "a pause")
    assert (await scrape(running)).value("agm_answers_paused") == 1
    second.transport.abortConnection()
    client.transport.abortConnection()
    await eventually(lambda: not running.gateway.live.relays(), "the end")
    found = await scrape(running)
    assert (found.value("agm_requests_open"), found.value("agm_streams_open")) == (0, 0)
    where = {"method": "streamGenerateContent", "framing": "sse", "code": "200"}
    assert found.value("agm_requests_total", **where, outcome="cancelled") == 1


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_what_clients_make_up_makes_no_new_series(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """Ten thousand models, paths and keys, a third of each, leave as many series as one of each."""
    keys = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "a"\nkey = "right"\n'
    running = await gateway(keys + "[pool]\nmax_wait = 0\n")
    head = "x-goog-api-key: right"

    async def ask(count: int) -> None:
        client = await connect(running.port)
        for number in range(count):
            invented = f"m{number}-{count}"
            client.send(post(f"/v1beta/models/{invented}:generateContent", b"{}", head))
            client.send(get(f"/{invented}/x", head))
            client.send(get("/v1beta/models", f"x-goog-api-key: {invented}"))
            if number % 100 == 99:
                await eventually(lambda seen=3 * (number + 1): client.received.count(b"HTTP/1.1 ") >= seen, "answers")
        await eventually(lambda: client.received.count(b"HTTP/1.1 ") >= 3 * count, "answers")
        client.transport.abortConnection()

    await ask(1)
    before = await scrape(running, authorization="Bearer right")
    await ask(3_333)
    after = await scrape(running, authorization="Bearer right")
    assert set(after.samples) == set(before.samples)
    assert after.value("agm_errors_total", source="gateway", reason="CLIENT_KEY_INVALID") == 3_334
    assert after.value("agm_errors_total", source="gateway", reason="NOT_FOUND") == 3_334
    assert after.value("agm_errors_total", source="gateway", reason="NO_ACCOUNTS") == 3_334


@pytest_twisted.ensureDeferred
async def test_without_a_token_this_machine_and_admin_keys_may_read(gateway: GatewayFactory) -> None:
    keys = '[[auth.keys]]\nname = "a"\nkey = "admin"\nadmin = true\n[[auth.keys]]\nname = "b"\nkey = "plain"\n'
    running = await gateway(keys, auth_mode="strict")
    assert (await running.fetch("GET", "/metrics")).status == 401
    assert (await running.fetch("GET", "/metrics", key="admin")).status == 200
    assert (await running.fetch("GET", "/metrics", key="plain")).status == 200  # from this machine


class Elsewhere:
    """A request from another machine."""

    sent: int | None = None
    sender = Sender("192.0.2.7", local=False)

    def header(self, name: bytes) -> None:
        """It has none."""

    def send(self, status: int, headers: object, body: bytes) -> None:
        self.sent = status


@pytest.mark.parametrize(("key", "open_"), [(None, False), ("ordinary", False), ("admin", True)])
@pytest_twisted.ensureDeferred
async def test_another_machine_needs_an_admin_key_where_there_is_no_token(
    gateway: GatewayFactory, key: str | None, open_: bool
) -> None:
    running = (await gateway("")).gateway
    wire: Any = Elsewhere()
    shown = None if key is None else ClientKey(key, digest("k"), admin=key == "admin")
    responding = Scrape(running, Access.of([], [], []), running.metrics).respond(Visit(wire, {}, shown))
    if open_:
        await responding
        assert wire.sent == 200
        return
    with pytest.raises(Forbidden, match="token, if one is configured"):
        await responding
    assert wire.sent is None


@pytest_twisted.ensureDeferred
async def test_a_token_opens_the_metrics_and_nothing_else(gateway: GatewayFactory) -> None:
    """And where there is one, being on this machine is not enough."""
    keys = '[[auth.keys]]\nname = "a"\nkey = "admin"\nadmin = true\n[[auth.keys]]\nname = "b"\nkey = "plain"\n'
    token = f'[metrics]\ntoken_sha256 = "{digest("t0ken")}"\n'
    running = await gateway(keys + token, auth_mode="strict")
    bearer = {"Authorization": "Bearer t0ken"}
    assert (await running.fetch("GET", "/metrics", headers=bearer)).status == 200
    assert (await running.fetch("GET", "/v1beta/models", headers=bearer)).status == 401
    assert (await running.fetch("GET", "/_agm/accounts", headers=bearer)).status == 401
    assert (await running.fetch("GET", "/metrics", headers={"Authorization": "Bearer other"})).status == 401
    assert (await running.fetch("GET", "/metrics?key=t0ken")).status == 401
    assert (await running.fetch("GET", "/metrics", key="plain")).status == 403
    assert (await running.fetch("GET", "/metrics", key="admin")).status == 200
    open_ = await gateway(token)
    refused = await open_.fetch("GET", "/metrics")
    assert (refused.status, refused.json["error"]["details"][0]["reason"]) == (403, "METRICS_TOKEN_MISSING")
    assert (await open_.fetch("GET", "/metrics", headers=bearer)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_token_that_is_missing_opens_the_metrics_to_nobody(gateway: GatewayFactory) -> None:
    """As long as its variable is not set; not to this machine either, which may be a proxy's."""
    running = await gateway('[metrics]\ntoken_env = "NOT_SET"\n')
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}):
        assert (await running.fetch("GET", "/metrics", headers=headers)).status == 403


@pytest_twisted.ensureDeferred
async def test_metrics_can_be_turned_off(gateway: GatewayFactory) -> None:
    running = await gateway("[metrics]\nenabled = false\n")
    assert (await running.fetch("GET", "/metrics")).status == 404


@pytest_twisted.ensureDeferred
async def test_openmetrics_is_given_to_who_asks_for_it(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And read by the stricter of the two parsers."""
    running = await gateway(emulator.account() + "[metrics]\naccounts = true\nclient_keys = true\n")
    await running.ask()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer: Answer = await running.fetch("GET", "/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    assert "agm_requests" in {family.name for family in read_openmetrics(text)}


@pytest_twisted.ensureDeferred
async def test_names_and_secrets_are_not_told_unless_names_are_asked_for(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    config = emulator.account("hidden-account") + '[[auth.keys]]\nname = "hidden-key"\nkey = "hidden-secret"\n'
    running = await gateway(config)
    assert (await running.ask(key="hidden-secret", text="hidden-text")).status == 200
    answer = await running.fetch("GET", "/metrics")
    assert b"hidden" not in answer.body
    told = await gateway(config + "[metrics]\naccounts = true\nclient_keys = true\n")
    assert (await told.ask(key="hidden-secret", text="hidden-text")).status == 200
    found = await scrape(told)
    assert found.value("agm_account_state", account="hidden-account", kind="api-key", state="ready") == 1
    assert found.value("agm_account_attempts_total", account="hidden-account", reason="ok") == 1
    assert found.value("agm_account_requests_open", account="hidden-account") == 0
    assert found.value("agm_client_key_requests_today", client_key="hidden-key") == 1
    assert found.value("agm_client_key_tokens_today", client_key="hidden-key") > 0
    text = (await told.fetch("GET", "/metrics")).body
    assert b"hidden-secret" not in text
    assert b"hidden-text" not in text


@pytest_twisted.ensureDeferred
async def test_two_gateways_in_a_process_do_not_mix(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    first, second = await gateway(emulator.account()), await gateway(emulator.account())
    await first.ask()
    where = {"method": "generateContent", "framing": "unary", "code": "200", "outcome": "ok"}
    assert (await scrape(first)).value("agm_requests_total", **where) == 1
    assert (await scrape(second)).value("agm_requests_total", **where) == 0


@pytest_twisted.ensureDeferred
async def test_the_lateness_of_the_reactor_is_measured(gateway: GatewayFactory) -> None:
    """By a clock that a test moves: twice on time, then two looks late."""
    running = await gateway("")
    metrics, lag = running.gateway.metrics, running.gateway.counters.lag
    metrics.stop()
    clock = Clock()
    metrics._reactor = metrics._looking.clock = clock
    counted = sum(lag.counts)
    metrics.start()
    clock.advance(LAG_EVERY)
    clock.advance(LAG_EVERY)
    before = lag.sum
    clock.advance(LAG_EVERY + 0.3)
    assert sum(lag.counts) == counted + 3
    assert lag.sum - before == pytest.approx(0.3)
    clock.advance(LAG_EVERY - 0.3)
    assert lag.sum - before == pytest.approx(0.3)  # on time again
    metrics.stop()


def test_hosts_beyond_the_number_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload goes where an upstream says: those hosts cannot be known beforehand."""
    monkeypatch.setattr(exposition, "MAX_HOSTS", 2)
    connections = {f"h{number}:443": (1, number) for number in range(4)}
    assert exposition.bounded(connections) == {"h0:443": (1, 0), "h1:443": (1, 1), "other": (2, 5)}


@pytest_twisted.ensureDeferred
async def test_an_account_that_is_gone_is_still_counted(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """A reload can take it away under a request; a disabled one is told as such."""
    running = await gateway(emulator.account("a") + emulator.account("b"))
    pool = running.gateway.pool
    assert (pool.kind_of("a"), pool.kind_of("c")) == ("api-key", "gone")
    pool.disable(pool.accounts[0], "revoked")
    found = await scrape(running)
    assert found.value("agm_accounts", kind="api-key", state="disabled") == 1
    assert found.value("agm_accounts", kind="api-key", state="ready") == 1


# The documentation and the dashboard


async def everything(gateway: GatewayFactory, emulator: RunningEmulator) -> Scraped:
    """A scrape of a gateway to which everything has happened that makes a series."""

    running = await gateway(
        emulator.account("oauth", "vertex")
        + emulator.account()
        + "[metrics]\naccounts = true\nclient_keys = true\n"
        + '[[auth.keys]]\nname = "a"\nkey = "k"\n'
    )
    await running.ask(key="k")
    await running.ask("emu-400")
    await running.ask("gemini-without-a-price")
    answer = await running.gateway.call("gemini-2.5-flash", {"contents": []}, dialect="openai")
    await answer.read()
    running.gateway.hooks.failures["a_plugin", "agm_map_model"] += 1
    running.gateway.refresher.outcomes["ok"] += 1
    return await scrape(running)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Each metric of docs/metrics.md, with its type and its labels."""
    found = {}
    for line in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if row := re.fullmatch(r"\| `(agm_\w+)` \| (\w+) \| (.*?) \| (.+) \|", line):
            found[row[1]] = (row[2], set(re.findall(r"`(\w+)`", row[4])))
    return found


@pytest_twisted.ensureDeferred
async def test_every_metric_is_documented_and_every_documented_one_exists(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """With its type and its labels."""
    found = await everything(gateway, emulator)
    actual = {}
    for family in found.families.values():
        if not FOREIGN.match(family.name):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            actual[name] = (family.type, labels)
    assert actual == documented()


@pytest_twisted.ensureDeferred
async def test_the_dashboard_names_only_metrics_that_exist(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """In every query, with labels that they have; and it is a whole dashboard."""
    found = await everything(gateway, emulator)
    labels: dict[str, set[str]] = {}
    for name, of in found.samples:
        labels.setdefault(name, set()).update(label for label, _ in of)
    board = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(panels) > 10
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for query in queries:
        names = re.findall(r"\b(?:agm|process|python)_\w+", query)
        assert names, query
        for name in names:
            assert name in found.names, query
        used = {label for names in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r", *", names)}
        used |= set(re.findall(r"[{,] *(\w+) *[=!]", query))
        known = set().union(*(labels[name] for name in names)) | {"job", "instance"}
        assert used <= known, query
    every = {name for name in found.names if name.startswith("agm_") and not name.endswith(("_sum", "_count"))}
    shown = {name for query in queries for name in re.findall(r"\bagm_\w+", query)}
    assert every - shown <= {"agm_build_info"}


@pytest.mark.process
def test_a_real_process_is_scraped(tmp_path: Path) -> None:
    """With what its operating system says of it."""
    with process(tmp_path, "agm", "--port", "0", "--demo") as twistd:
        url = twistd.url()
        client, answer = send(
            url,
            "/v1beta/models/gemini-2.5-flash:generateContent",
            b'{"contents":[{"role":"user","parts":[{"text":"hello"}]}]}',
        )
        assert answer.status == 200
        answer.read()
        client.close()
        status, body = fetch(url, "/metrics")
        assert status == 200
        found = Scraped.of(body.decode())
        where = {"method": "generateContent", "framing": "unary", "code": "200", "outcome": "ok"}
        assert found.value("agm_requests_total", **where) == 1
        assert found.value("process_resident_memory_bytes") > 10_000_000
        assert found.value("process_open_fds") > 5
        assert twistd.stop() == 0
