"""
What the benchmarks share: gateways as processes, a fast upstream, a load of keep-alive connections, CPU by the kernel.

Figures are CPU time of the gateway's process, so that a slow load generator or a busy second core matter little, and
comparisons are ratios of rounds taken in turn.  Everything is on loopback, and bounded in count.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from processes import Twistd, environment, running  # noqa: E402  # found through the line above

PROMPT = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello, how are you today?"}]}]}).encode()
UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None, "Linux tells the resident memory of every process"
    return int(found[1])


@contextmanager
def upstream(*, events: int = 20) -> Iterator[str]:
    """The address of a fast upstream: every answer is ready-made, streams have `events` events."""
    with subprocess.Popen(
        [sys.executable, HERE / "upstream.py", str(events)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def gateway(configuration: str, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Twistd]:
    """A gateway on a free port with this configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agm.toml"
        path.write_text(configuration, encoding="utf-8")
        path.chmod(0o600)
        variables = {**environment(Path(folder)), **(env or {})}
        with running(
            Path(folder) / "run", "agm", "--port", "0", "--config", str(path), *arguments, env=variables
        ) as it:
            it.url()
            yield it


def account(url: str, kind: str = "api-key", name: str = "bench") -> str:
    """An ``[[accounts]]`` table for the fast upstream."""
    credential = 'api_key = "bench-key"' if kind == "api-key" else 'access_token = "bench-token"\nproject = "bench"'
    return f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\n{credential}\nendpoints = ["{url}"]\n'


def load(url: str, target: str, requests: int, connections: int = 16) -> None:
    """Make requests over keep-alive connections; every answer must be a complete 200."""
    host, _, port = url.removeprefix("http://").partition(":")
    request = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(PROMPT)}\r\n\r\n"
    ).encode() + PROMPT
    failures: list[str] = []

    def one(count: int) -> None:
        try:
            with socket.create_connection((host, int(port)), 30) as s:
                for _ in range(count):
                    s.sendall(request)
                    received = b""
                    while not _whole(received):
                        data = s.recv(65536)
                        assert data, f"closed after {received[:200]!r}"
                        received += data
                    assert received.startswith(b"HTTP/1.1 200 "), received[:200]
        except (OSError, AssertionError) as e:
            failures.append(str(e))

    threads = [threading.Thread(target=one, args=(requests // connections,)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"a request failed: {failures[0]}")


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def cpu_per_request(twistd: Twistd, target: str, requests: int) -> float:
    """Microseconds of CPU that a gateway uses for a request."""
    before = cpu_seconds(twistd.process.pid)
    load(twistd.url(), target, requests)
    return (cpu_seconds(twistd.process.pid) - before) * 1e6 / requests


def rounds(gateways: Sequence[Twistd], target: str, *, requests: int, count: int = 5) -> list[list[float]]:
    """Microseconds a request for each gateway, measured in turn; the first round warms up and is not counted."""
    found: list[list[float]] = [[] for _ in gateways]
    for number in range(count + 1):
        for figures, it in zip(found, gateways, strict=True):
            figure = cpu_per_request(it, target, requests)
            if number:
                figures.append(figure)
    return found


def ratio(figures: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median(a / b for a, b in zip(figures, base, strict=True))
