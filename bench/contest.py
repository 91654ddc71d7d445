"""
What is measured beside each other, and with what: the compiled upstream and gateway, peers, and wrk as the load.

The two Go programs (``compiled/``) are built when they are first needed, into the person's cache folder.  What has to
be installed by hand is named with its Debian package.  Everything listens on loopback, on ports that the system
chooses, and is gone when its block ends.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from harness import HERE, PROMPT, account, cache, cpu_seconds, environment, gateway, rss_kib
from peers import PEERS

PACKAGES = {"go": "golang-go", "wrk": "wrk"}
#: Seconds for something to say its address, or to end.
PATIENCE = 30.0
KINDS = ("code-assist", "api-key")


@attrs.frozen
class Contestant:
    """A gateway that is measured."""

    name: str
    url: str
    pid: int

    @property
    def cpu(self) -> float:
        """CPU seconds that it has used so far."""
        return cpu_seconds(self.pid)

    @property
    def rss(self) -> int:
        """Its resident memory, in KiB."""
        return rss_kib(self.pid)


def tool(name: str) -> str:
    """The path of a program; without it, the end with what to install."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"bench: {name} is missing; install it with: apt install {PACKAGES[name]}")
    return found


def compiled(name: str) -> Path:
    """The program ``compiled/NAME``, built unless that has been done."""
    source = HERE / "compiled" / name / "main.go"
    built = cache() / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not built.exists():
        go = tool("go")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(source, folder)
            (Path(folder) / "go.mod").write_text(f"module {name}\n\ngo 1.19\n", encoding="ascii")
            made = Path(folder) / "made"
            subprocess.run([go, "build", "-o", made, "."], cwd=folder, check=True)
            shutil.copy(made, built.with_suffix(".new"))
            built.with_suffix(".new").replace(built)
    return built


@contextmanager
def serving(*command: str | Path, env: dict[str, str] | None = None) -> Iterator[tuple[str, int]]:
    """A program that prints its address first: the address, and its process."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env) as process,
    ):
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                errors.seek(0)
                raise SystemExit(f"bench: {command[0]} did not start: {errors.read()[-1000:]}")
            yield address, process.pid
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def fast_upstream(
    *, events: int = 20, gap: float = 0.0, hold: bool = False, certificate: Path | None = None
) -> Iterator[str]:
    """
    The address of the compiled upstream.

    :param gap: seconds between two events.
    :param certificate: where it writes its certificate; then it speaks TLS.
    """
    command: list[str | Path] = [compiled("upstream"), f"-events={events}", f"-gap={gap * 1e6:.0f}us"]
    command += ["-hold"] if hold else []
    command += [] if certificate is None else [f"-tls={certificate}"]
    with serving(*command) as (address, _):
        yield address


@contextmanager
def compiled_gateway(upstream: str, kind: str, certificate: Path | None = None) -> Iterator[Contestant]:
    """The compiled gateway, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(Path(folder), GOMAXPROCS="1")
        if certificate is not None:
            variables["SSL_CERT_FILE"] = str(certificate)
        wrap = ["-wrap"] if kind == "code-assist" else []
        with serving(compiled("gateway"), f"-upstream={upstream}", *wrap, env=variables) as (address, pid):
            yield Contestant("compiled", address, pid)


def configuration(upstream: str, kind: str, certificate: Path | None = None) -> str:
    """agm's, with one account of a kind."""
    trusted = "" if certificate is None else f'[upstream]\nca_file = "{certificate}"\n'
    return f'{trusted}[models]\nlist = ["gemini-2.5-flash"]\n{account(upstream, kind)}'


@contextmanager
def agm(upstream: str, kind: str, certificate: Path | None = None, name: str = "agm") -> Iterator[Contestant]:
    """agm as a person runs it: everything on that is on by default."""
    with gateway(configuration(upstream, kind, certificate)) as twistd:
        yield Contestant(name, twistd.url(), twistd.process.pid)


def enter_all(
    stack: ExitStack, upstream: str, kind: str, peers: Sequence[str] = (), certificate: Path | None = None
) -> list[Contestant]:
    """agm, the compiled gateway, and the peers that were asked for."""
    found = [
        stack.enter_context(agm(upstream, kind, certificate)),
        stack.enter_context(compiled_gateway(upstream, kind, certificate)),
    ]
    for peer in peers:
        url, pid = stack.enter_context(PEERS[peer](upstream, kind))
        found.append(Contestant(peer, url, pid))
    return found


def wrk(url: str, target: str, *, connections: int, seconds: float, keys: Sequence[str] = ()) -> int:
    """
    Make one request after another over so many connections; returns how many were answered, all of them with 200.

    :param keys: client keys, which are used in turn.
    """
    headers = 'wrk.headers["Content-Type"] = "application/json"\n'
    script = f"wrk.method = 'POST'\nwrk.body = [[{PROMPT.decode()}]]\n{headers}"
    if keys:
        listed = ", ".join(f'"{key}"' for key in keys)
        script += (
            f"local keys, turn = {{{listed}}}, 0\n"
            "request = function()\n  turn = turn % #keys + 1\n"
            '  wrk.headers["x-goog-api-key"] = keys[turn]\n  return wrk.format()\nend\n'
        )
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="ascii") as file:
        file.write(script)
        file.flush()
        command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", file.name]
        done = subprocess.run([*command, url + target], capture_output=True, text=True, check=True)
    count = re.search(r"(\d+) requests in", done.stdout)
    if count is None or int(count[1]) == 0 or "Non-2xx" in done.stdout:
        raise SystemExit(f"bench: {url} does not answer as it should:\n{done.stdout}")
    return int(count[1])
