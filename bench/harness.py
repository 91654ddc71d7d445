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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from platformdirs import user_cache_path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from testbed.processes import Twistd, environment, running  # noqa: E402  # found through the line above

PROMPT = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello, how are you today?"}]}]}).encode()
UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


def family(pid: int) -> list[int]:
    """A process and all that come from it and live."""
    found = [pid]
    for it in found:
        with suppress(OSError):  # it has ended meanwhile
            found += map(int, Path(f"/proc/{it}/task/{it}/children").read_text(encoding="ascii").split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its children have used so far, their threads included."""
    ticks = 0
    for it in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{it}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    return _status(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """The most resident memory that a process has had since its start, or since :func:`forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Have the kernel forget how much memory a process had at most."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _status(pid: int, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found is not None, "Linux tells the resident memory of every process"
    return int(found[1])


def cache() -> Path:
    """The folder of what is built and installed for the benchmarks."""
    path = user_cache_path("agm", appauthor=False) / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def as_installed(variables: Mapping[str, str]) -> dict[str, str]:
    """
    An environment in which Python keeps what it has compiled.

    An agm that pip has installed is compiled; one in a checkout is not where a person has switched that off, and then
    each start would compile it anew, which takes seconds, and memory that stays.
    """
    if not sys.dont_write_bytecode:
        return dict(variables)
    kept = {name: value for name, value in variables.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(cache() / "pyc")}


@contextmanager
def upstream(*, events: int = 20) -> Iterator[str]:
    """The address of a fast upstream: every answer is ready-made, streams have `events` events."""
    with subprocess.Popen(
        [sys.executable, HERE / "canned.py", str(events)], stdout=subprocess.PIPE, text=True
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
        variables = as_installed({**environment(Path(folder)), **(env or {})})
        with running(
            Path(folder) / "run", "agm", "--port", "0", "--config", str(path), *arguments, env=variables
        ) as it:
            it.url()
            yield it


def account(url: str, kind: str = "api-key", name: str = "bench") -> str:
    """An ``[[accounts]]`` table for the fast upstream."""
    credential = 'api_key = "bench-key"' if kind == "api-key" else 'access_token = "bench-token"\nproject = "bench"'
    return f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\n{credential}\nendpoints = ["{url}"]\n'


def load(url: str, target: str, requests: int, connections: int = 16, *, prompt: bytes = PROMPT) -> None:
    """Make requests over keep-alive connections; every answer must be a complete 200."""
    host, _, port = url.removeprefix("http://").partition(":")
    request = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(prompt)}\r\n\r\n"
    ).encode() + prompt
    failures: list[str] = []

    def one(count: int) -> None:
        try:
            with socket.create_connection((host, int(port)), 30) as s:
                for _ in range(count):
                    s.sendall(request)
                    received = b""
                    while not is_whole(received):
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


def is_whole(answer: bytes) -> bool:
    """Whether an answer has come to its end, by its length or its last chunk."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def _running_seconds(pid: int) -> float:
    """CPU time of the threads of a process and its children that live, to the nanosecond where the kernel tells."""
    try:
        tasks = [task for it in family(pid) for task in Path(f"/proc/{it}/task").iterdir()]
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9
    except OSError:
        return cpu_seconds(pid)


def cpu_per_request(twistd: Twistd, target: str, requests: int) -> float:
    """Microseconds of CPU that a gateway uses for a request."""
    before = _running_seconds(twistd.process.pid)
    load(twistd.url(), target, requests)
    return (_running_seconds(twistd.process.pid) - before) * 1e6 / requests


def rounds(
    gateways: Sequence[Twistd], target: str | Sequence[str], *, requests: int, count: int = 5
) -> list[list[float]]:
    """
    Microseconds a request for each gateway, measured in turn; the first round warms up and is not counted.

    :param target: the path and the query, of all gateways or of each.
    """
    targets = [target] * len(gateways) if isinstance(target, str) else target
    found: list[list[float]] = [[] for _ in gateways]
    for number in range(count + 1):
        for figures, it, path in zip(found, gateways, targets, strict=True):
            figure = cpu_per_request(it, path, requests)
            if number:
                figures.append(figure)
    return found


def ratio(figures: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median(a / b for a, b in zip(figures, base, strict=True))
