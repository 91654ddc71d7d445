"""Private names of Twisted's: with each of them gone, and with none of them used, clients get the same answers."""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import attrs
import pytest

from agm.net.features import FEATURES, PRIVATE_NAMES
from testbed.processes import Twistd, environment

#: ``twistd``, with one name of Twisted's source replaced as it is imported.
_TWISTD = """\
import re, sys
from importlib.machinery import PathFinder, SourceFileLoader

class Changed(SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path).decode("utf-8")
        return compile(re.sub({pattern!r}, {replacement!r}, source), self.path, "exec", dont_inherit=True)

class Finder:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if not re.fullmatch({modules!r}, fullname):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Changed(fullname, spec.origin)
        return spec

sys.meta_path.insert(0, Finder)

from twisted.scripts.twistd import run
sys.exit(run())
"""

#: What Twisted calls its own; those of a common word are replaced only where they are attributes of transports.
_EVERYWHERE = r"twisted\.(internet|protocols)\..*"
_TRANSPORTS = r"twisted\.internet\.(abstract|base|tcp|unix|udp|_newtls|endpoints)"
_COMMON = {
    "reactor": r"(?<=self\.)reactor\b",
    "protocol": r"(?<=(?:self|port)\.)protocol\b(?!\()",
    "factory": r"(?<=self\.)factory\b",
    "socket": r"(?<=self\.)socket\b|(?<=hasattr\(self, \")socket\b",
    "connected": r"(?<=self\.)connected\b|(?m:(?<=^    )connected\b)",
    "offset": r"(?<=self\.)offset\b|(?m:(?<=^    )offset\b)",
}


@attrs.frozen
class Change:
    """A change of Twisted's source, and the features that it takes away."""

    modules: str
    pattern: str
    replacement: str
    features: tuple[str, ...]


def changes() -> dict[str, Change]:
    """For each private name: it is called something else in some later release."""
    found = {}
    for it in PRIVATE_NAMES:
        if it.feature not in FEATURES or it.name == "__init__":
            continue
        pattern = _COMMON.get(it.name, rf"\b{it.name}\b")
        features = tuple(other.feature for other in PRIVATE_NAMES if other.name == it.name)
        found[it.name] = Change(
            _TRANSPORTS if it.name in _COMMON else _EVERYWHERE, pattern, f"{it.name}_of_later", features
        )
    found["a new attribute of requests"] = Change(
        r"twisted\.web\.server",
        r"( +)components\.Componentized\.__init__\(self\)\n",
        r"\g<0>\1self.of_later = []\n",
        ("lean requests",),
    )
    return found


def said(log: str) -> list[str]:
    """The features that a gateway says are off."""
    found = re.findall(r"for want of ([^;]*);", log)
    return [feature for names in found for feature in names.split(", ")]


@contextmanager
def gateway(folder: Path, *options: str, change: Change | None = None, **more: str) -> Iterator[Twistd]:
    """A gateway for demonstration, in a process of its own, that stops as it should."""
    bin_ = folder / "bin"
    bin_.mkdir()
    script = bin_ / "twistd"
    change = change or Change("-", "-", "-", ())
    text = _TWISTD.format(pattern=change.pattern, replacement=change.replacement, modules=change.modules)
    script.write_text(f"#!{sys.executable}\n{text}")
    script.chmod(0o755)
    running = Twistd.start(
        folder / "run",
        "agm",
        "--demo",
        "--listen",
        "tcp:0:interface=127.0.0.1",
        *options,
        env=environment(folder, **more),
        commands=bin_,
    )
    try:
        yield running
        assert running.stop() == 0
    finally:
        running.process.kill()
        running.process.wait()
    assert "Traceback" not in running.log


def ask(connection: http.client.HTTPConnection, method: str, question: str) -> bytes:
    """The answer of the gateway to a question, whole; over a connection that it keeps open."""
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": question}]}]})
    path = f"/v1beta/models/gemini-2.5-flash:{method}"
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read()


def text_of(events: list[bytes]) -> str:
    """The text that answers, or the events of one, hold."""
    parts = [part for event in events for part in json.loads(event)["candidates"][0]["content"]["parts"]]
    return "".join(part["text"] for part in parts)


def serves(url: str) -> None:
    """What clients get is right: whole answers, streamed ones, after large questions too, and a HEAD."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    for question in ("hello", "word " * 100_000):
        whole = text_of([ask(connection, "generateContent", question)])
        stream = ask(connection, "streamGenerateContent?alt=sse", question)
        assert stream.endswith((b"\r\n\r\n", b"\n\n"))
        events = [line[6:] for line in stream.splitlines() if line.startswith(b"data: ")]
        assert len(events) > 1
        assert text_of(events) == whole != ""
    connection.request("HEAD", "/healthz")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()


@pytest.mark.process
@pytest.mark.parametrize("name", changes())
def test_without_a_private_name_the_answers_are_the_same_and_one_warning_says_so(tmp_path: Path, name: str) -> None:
    change = changes()[name]
    with gateway(tmp_path, change=change) as running:
        serves(running.url())
        log = running.log
    assert set(said(log)) >= set(change.features)
    assert len(said(log)) == len(set(said(log)))


@pytest.mark.process
@pytest.mark.parametrize("way", ["environment", "configuration", "neither"])
def test_all_of_them_can_be_turned_off(tmp_path: Path, way: str) -> None:
    written = tmp_path / "agm.toml"
    written.write_text("[gateway]\nfast_sockets = false\n" if way == "configuration" else "")
    more = {"AGM_PLAIN_SOCKETS": "1"} if way == "environment" else {}
    with gateway(tmp_path, "--config", str(written), **more) as running:
        serves(running.url())
        log = running.log
    assert log.count("public interface alone, as was asked for") == (way != "neither")
    assert not said(log)


def test_each_name_is_where_the_table_says() -> None:
    """A name that is gone from Twisted is no reason to go on naming it."""
    for it in PRIVATE_NAMES:
        module, _, kind = it.owner.rpartition(".")
        owner = getattr(import_module(module), kind)
        assert it.use
        assert it.seen
        source = Path(sys.modules[owner.__module__].__file__ or "").read_text(encoding="utf-8")
        assert re.search(rf"\b{it.name}\b", source), it
