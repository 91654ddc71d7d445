"""
The check that Google's SDKs work through the gateway: those that are installed here, before gateways and an emulator of
Google that this process starts on free ports of loopback.

A gateway for each kind of account, without plugins of anybody's; each SDK a process of its own, with an environment in
which nothing leads elsewhere.  No account of the person's is used, and nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import PrivateCertificate
from twisted.python.failure import Failure

from agm.cli.cert import LOCAL, make
from agm.config import AccountConfig, Config, PoolConfig, Secret
from agm.diagnose.doctor import Finding, too_long
from agm.diagnose.doctor.drive import KEY, MODEL, QUESTION, SDKS
from agm.emulator.site import make_site as make_emulator
from agm.serving.assemble import make_gateway
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.root import make_site

__all__ = ["drive"]

#: Seconds for one SDK: importing it may take a while on a slow machine.
PATIENCE = 90.0
KINDS = ("api-key", "vertex", "code-assist")

_NOT_INHERITED = re.compile(r"(?i)GOOGLE_|GEMINI_|CLOUDSDK_|[a-z]+_PROXY$")

_NODE = """
import { GoogleGenAI } from "@google/genai";
const [model, contents, apiKey, ...urls] = process.argv.slice(1);
const outcomes = [];
for (const url of urls) {
  const httpOptions = { baseUrl: url, timeout: 20000, retryOptions: { attempts: 1 } };
  const ai = new GoogleGenAI({ apiKey, httpOptions });
  const calls = {
    "unary": async () => !!(await ai.models.generateContent({ model, contents })).text,
    "stream of events": async () => {
      let chunks = 0;
      const stream = await ai.models.generateContentStream({ model, contents });
      for await (const chunk of stream) chunks += chunk.text ? 1 : 0;
      return chunks > 1;
    },
    "countTokens": async () => (await ai.models.countTokens({ model, contents })).totalTokens > 0,
    "interactions (with API keys)": async () => {
      if (!ai.interactions) return true;
      try {
        return (await ai.interactions.create({ model, input: contents })).status === "completed";
      } catch (e) {
        if ((e.status ?? e.statusCode) === 501) return true;
        throw e;
      }
    },
  };
  const talk = (resolve, reject) => {
    let session = null;
    const callbacks = {
      onmessage: (message) => {
        if (!message.serverContent?.turnComplete) return;
        session.close();
        resolve(true);
      },
      onclose: (event) => reject(new Error(`closed with ${event.code} ${event.reason}`)),
    };
    setTimeout(() => reject(new Error("no answer")), 20000).unref();
    ai.live.connect({ model, config: { responseModalities: ["TEXT"] }, callbacks }).then((opened) => {
      session = opened;
      session.sendClientContent({ turns: contents, turnComplete: true });
    }, reject);
  };
  if (url.startsWith("https:")) {
    for (const call of Object.keys(calls)) delete calls[call];
    calls.Live = () => new Promise(talk);
  }
  for (const [call, run] of Object.entries(calls)) {
    let problem = null;
    try {
      if (!(await run())) problem = "not the answer that was expected";
    } catch (e) {
      problem = `${e.name}: ${e.message}`;
    }
    outcomes.push({ url, call, problem });
  }
}
process.stdout.write(JSON.stringify(outcomes), () => process.exit(0));
"""


@attrs.frozen
class _Sdk:
    """An SDK: its name with its version, the command that drives it, and what says that it is not there."""

    name: str
    command: Sequence[str]
    missing: bytes | None = None


def _installed(urls: Sequence[str]) -> list[_Sdk | Finding]:
    """List the SDKs that can be tested here, with a finding for each that cannot."""
    found: list[_Sdk | Finding] = []
    for sdk in SDKS:
        name = "plain HTTP"
        if sdk != "http":
            try:
                name = f"{sdk} {importlib.metadata.version(sdk)}"
            except importlib.metadata.PackageNotFoundError:
                found.append(Finding("sdk", "ok", f"{sdk} is not installed in this environment"))
                continue
        # -P: a file in the folder of the person must not stand in for a module
        found.append(_Sdk(name, [sys.executable, "-P", "-m", "agm.diagnose.doctor.drive", sdk, *urls]))
    node = shutil.which("node")
    if node is None:
        found.append(Finding("sdk", "ok", "@google/genai: node is not installed"))
    else:
        command = [node, "--input-type=module", "-e", _NODE, "--", MODEL, QUESTION, KEY, *urls]
        found.append(_Sdk("@google/genai", command, b"ERR_MODULE_NOT_FOUND"))
    return found


async def drive(reactor: Any, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Test each installed SDK, in its framing, with each kind of account."""
    ports: list[IListeningPort] = []
    gateways: list[Gateway] = []
    folder = contextlib.ExitStack()

    def listening(site: Any, tls: Any = None) -> str:
        site.noisy = False
        if tls is None:
            port = reactor.listenTCP(0, site, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, site, tls, interface="127.0.0.1")
        ports.append(port)
        return f"{'http' if tls is None else 'https'}://127.0.0.1:{port.getHost().port}"

    try:
        emulator = listening(make_emulator(reactor))
        kinds: dict[str, str] = {}
        for kind in KINDS:
            gateway = make_gateway(reactor, _config(kind, emulator), "off", installed=False)
            gateways.append(gateway)
            await gateway.start()
            kinds[listening(make_site(gateway, Access.of((), ("127.0.0.1",), ())))] = kind
        env = {name: value for name, value in environ.items() if not _NOT_INHERITED.match(name)}
        env["NO_PROXY"] = "*"
        made = make(LOCAL, 1, datetime.now(UTC))
        trusted = Path(folder.enter_context(TemporaryDirectory())) / "ca.pem"
        trusted.write_bytes(made.authority)
        env["SSL_CERT_FILE"] = env["NODE_EXTRA_CA_CERTS"] = str(trusted)
        secure = make_site(gateways[0], Access.of((), ("127.0.0.1",), ()))
        kinds[listening(secure, PrivateCertificate.loadPEM(made.certificate + made.key).options())] = "api-key, TLS"
        for sdk in _installed(list(kinds)):
            yield sdk if isinstance(sdk, Finding) else await _driven(reactor, sdk, kinds, env)
    finally:
        folder.close()
        for port in ports:
            await _stopped(port)
        for gateway in gateways:
            await gateway.stop()


async def _stopped(port: Any) -> None:
    stopping = port.stopListening()
    if isinstance(stopping, Deferred):
        await stopping


def _config(kind: str, emulator: str) -> Config:
    """One account of a kind, at the emulator."""
    of_kind: dict[str, Any] = {"api_key": Secret("doctor")}
    if kind != "api-key":
        of_kind = {"access_token": Secret("doctor"), "project": "doctor"}
    account = AccountConfig(name="doctor", kind=cast("Any", kind), endpoints=(emulator,), **of_kind)
    return Config(accounts=(account,), pool=PoolConfig(state="none"))


async def _driven(reactor: Any, sdk: _Sdk, kinds: Mapping[str, str], env: Mapping[str, str]) -> Finding:
    process = _Process()
    reactor.spawnProcess(process, sdk.command[0], sdk.command, env, os.getcwd())
    process.over.addTimeout(PATIENCE, reactor)
    try:
        await process.over
    except DeferredTimeout:
        return attrs.evolve(too_long("sdk", PATIENCE), found=f"{sdk.name}: not done within {PATIENCE:g} seconds")
    finally:
        process.end()
    try:
        outcomes = json.loads(process.out)
        failed = [each for each in outcomes if each["problem"]]
        problems = [f"{each['call']} with {kinds[each['url']]}: {each['problem']}" for each in failed]
    except (ValueError, KeyError, TypeError):
        if sdk.missing is not None and sdk.missing in process.err:
            return Finding("sdk", "ok", f"{sdk.name} is not found from this folder")
        last = (process.err.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"])[-1]
        return Finding("sdk", "error", f"{sdk.name} cannot be driven: {last[:300]}", "install it anew: it is broken")
    if problems:
        cure = "update agm, or the SDK; docs/cli.md says which versions agm is tested with"
        return Finding("sdk", "error", f"{sdk.name}: {'; '.join(problems)}", cure)
    calls = ", ".join(dict.fromkeys(each["call"] for each in outcomes))
    return Finding("sdk", "ok", f"{sdk.name}: {calls} work with accounts of every kind")


class _Process(ProcessProtocol):
    """A process, what it has printed, and its end."""

    transport: Any

    def __init__(self) -> None:
        self.out = self.err = b""
        self.over: Deferred[None] = Deferred(lambda _: None)

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.err = (self.err + data)[-64 * 1024 :]

    def processEnded(self, reason: Failure) -> None:
        if not self.over.called:
            self.over.callback(None)

    def end(self) -> None:
        """Have it gone."""
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")
