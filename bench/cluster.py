#!/usr/bin/env python3
"""
What several workers, and several gateways behind a balancer, keep of their promises: each row with its figure.

usage: python bench/cluster.py [ROW …] [--requests 20000]

Rows: split, busy, killed, supervisor, replaced, balancer, hung.  Needs Debian's redis-server, and haproxy for the row
`balancer`.  Everything is on loopback.  Status 1 if a row is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness import HERE, account, as_installed, gateway, upstream

sys.path.insert(0, str(HERE.parent))

from testbed import balancer  # found through the line above
from testbed.load import STREAM, Load, under_load
from testbed.processes import Twistd, environment, until
from testbed.sockets import Client, ask

#: What comes through a proxy has to show one.
KEYS = '[[auth.keys]]\nname = "bench"\nkey = "bench-client-key"\n'
HEADER = "x-goog-api-key: bench-client-key\r\n"
_SERVES = re.compile(r"worker (\d+) \(process (\d+)\) serves")
#: A plugin whose every request costs two milliseconds of a core.
BURN = """
import time
from agm import hookimpl

@hookimpl
def agm_map_model(model, request):
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass
"""

Row = Callable[[argparse.Namespace], tuple[str, str, bool]]


@contextmanager
def workers(url: str, *arguments: str, count: int = 2, more: str = "") -> Iterator[Twistd]:
    """A gateway with so many workers, all of which serve."""
    with gateway(account(url) + more, "--workers", str(count), *arguments) as it:
        served(it, count)
        yield it
        it.stop()


def served(it: Twistd, count: int) -> list[int]:
    """The processes of the workers that have come to serve, once they are so many."""
    it.until(lambda: len(_SERVES.findall(it.log)) >= count, f"{count} workers")
    return [int(pid) for _, pid in _SERVES.findall(it.log)]


def address(it: Twistd) -> tuple[str, int]:
    host, _, port = it.url().removeprefix("http://").partition(":")
    return host, int(port)


@contextmanager
def busy_core() -> Iterator[None]:
    """A process that wants a core for itself."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "while True: pass"], os.environ)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def split(_: argparse.Namespace) -> tuple[str, str, bool]:
    """32 connections at once on two workers, with a core that something else holds."""
    shares = []
    with upstream() as url, workers(url) as it, busy_core():
        for _round in range(5):
            clients = [Client(it.url()) for _ in range(32)]
            tags: Counter[str] = Counter()
            for client in clients:
                client.get("/healthz")
                seen = client.finish()
                assert seen is not None
                tags[seen.headers["x-agm-request-id"][-8:]] += 1
                client.close()
            shares.append("/".join(str(n) for n in sorted(tags.values(), reverse=True)))
            time.sleep(0.3)
    worst = max(int(share.partition("/")[0]) for share in shares)
    return "32 connections on two workers, one core busy", ", ".join(shares), worst <= 18


def busy(args: argparse.Namespace) -> tuple[str, str, bool]:
    """Requests a second with a plugin that burns 2 ms, two workers beside one."""
    rates = {}
    with tempfile.TemporaryDirectory() as folder, upstream() as url:
        (Path(folder) / "burn.py").write_text(BURN, encoding="utf-8")
        for count in (1, 2):
            plugin = f'[plugins]\npath = "{folder}"\n'
            with gateway(account(url) + plugin, "--workers", str(count)) as it:
                if count > 1:
                    served(it, count)
                with under_load(it.url(), 16) as load:
                    time.sleep(2)
                    before, began = load.answered, time.monotonic()
                    time.sleep(6)
                    rates[count] = (load.answered - before) / (time.monotonic() - began)
                assert not load.errors, load.errors
                it.stop()
    ratio = rates[2] / rates[1]
    shown = f"{rates[1]:.0f} and {rates[2]:.0f} a second: {ratio:.2f}"
    return "a plugin that burns 2 ms, one worker and two", shown, ratio >= 1.9


def killed(_: argparse.Namespace) -> tuple[str, str, bool]:
    """kill -9 of a worker under load."""
    with upstream() as url, workers(url) as it:
        pid = served(it, 2)[0]
        with under_load(it.url(), 16) as load:
            until(lambda: len(load.processes) == 2, "answers of both")
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            served(it, 3)
            after = time.monotonic() - began
            time.sleep(1)
    broken = sum(load.errors.values())
    shown = f"{broken} of 16 requests in flight broke, {load.answered:,} answered, a new one serves after {after:.1f} s"
    return "kill -9 of a worker", shown, broken <= 16 and after <= 2


def supervisor(_: argparse.Namespace) -> tuple[str, str, bool]:
    """kill -9 of the supervisor under load, and the next start."""
    with upstream() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agm.toml"
        path.write_text(account(url), encoding="utf-8")
        path.chmod(0o600)
        arguments = ("agm", "--port", str(balancer.free_port()), "--config", str(path), "--workers", "2")
        variables = as_installed(environment(Path(folder)))
        first = Twistd.start(Path(folder) / "one", *arguments, env=variables)
        pids = served(first, 2)
        with under_load(first.url(), 8) as load:
            until(lambda: load.answered > 50, "answers")
            began = time.monotonic()
            first.kill()
            until(lambda: not any(map(_lives, pids)), "the end of the workers")
            gone = time.monotonic() - began
            load.stop()
        broken = {it: n for it, n in load.errors.items() if "refused" not in it}
        second = Twistd.start(Path(folder) / "two", *arguments, env=variables)
        served(second, 2)
        serves = ask(second.url(), "/readyz") == (200, b'{"status":"ok"}')
        second.stop()
    shown = f"workers end after {gone:.1f} s, {sum(broken.values())} answers broke; the next start serves: {serves}"
    return "kill -9 of the supervisor", shown, serves and not broken


def _told(it: Twistd, text: str, times: int) -> bool:
    return it.log.count(text) == times


def _asked(loads: Sequence[Load]) -> int:
    return sum(load.answered + sum(load.errors.values()) for load in loads)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def replaced(args: argparse.Namespace) -> tuple[str, str, bool]:
    """SIGUSR2, again and again, until so many requests were made."""
    rounds = 0
    with (
        upstream() as url,
        workers(url) as it,
        under_load(it.url(), 8) as kept,
        under_load(it.url(), 4, kept=False) as new,
        under_load(it.url(), 4, target=STREAM) as streams,
    ):
        loads = (kept, new, streams)
        while not rounds or _asked(loads) < args.requests:
            rounds += 1
            it.signal(signal.SIGUSR2)
            it.until(partial(_told, it, "all workers are replaced", rounds), "the replacement")
            time.sleep(2.5)
    total, errors = sum(load.answered for load in loads), sum(sum(load.errors.values()) for load in loads)
    for load in loads:
        for error, count in load.errors.items():
            print(f"  {count} × {error}", file=sys.stderr)
    return f"SIGUSR2, {rounds} times", f"{errors} errors in {total:,} requests", errors == 0


def balanced(args: argparse.Namespace) -> tuple[str, str, bool]:
    """Two gateways behind HAProxy, restarted one after the other, until so many requests were made."""
    with upstream() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "agm.toml"
        path.write_text(account(url) + "[timeouts]\nlame_duck = 3\n" + KEYS, encoding="utf-8")
        path.chmod(0o600)
        variables = as_installed(environment(folder))
        ports = [balancer.free_port() for _ in range(2)]

        def start(number: int, again: int = 0) -> Twistd:
            it = Twistd.start(
                folder / f"{number}-{again}", "agm", "--port", str(ports[number]), "--config", str(path), env=variables
            )
            it.url()
            return it

        running = [start(number) for number in range(2)]
        rounds = 0
        with balancer.balanced(folder / "haproxy", ports) as front:
            time.sleep(1.5)  # its checks
            with (
                under_load(front, 8, headers=HEADER) as kept,
                under_load(front, 4, kept=False, headers=HEADER) as new,
                under_load(front, 4, target=STREAM, headers=HEADER) as streams,
            ):
                loads = (kept, new, streams)
                while not rounds or _asked(loads) < args.requests:
                    rounds += 1
                    for number in range(2):
                        assert running[number].stop() == 0
                        running[number] = start(number, rounds)
                        time.sleep(1.5)
        for it in running:
            it.stop()
    total, errors = sum(load.answered for load in loads), sum(sum(load.errors.values()) for load in loads)
    for load in loads:
        for error, count in load.errors.items():
            print(f"  {count} × {error}", file=sys.stderr)
    return f"HAProxy, {2 * rounds} restarts", f"{errors} errors in {total:,} requests", errors == 0


def hung(_: argparse.Namespace) -> tuple[str, str, bool]:
    """SIGSTOP of a worker: new connections do not wait for it."""
    with upstream() as url, workers(url) as it:
        pid = served(it, 2)[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.4)
        slowest = 0.0
        for _round in range(60):
            began = time.monotonic()
            with socket.create_connection(address(it), 10):
                answer = ask(it.url(), "/healthz")
            slowest = max(slowest, time.monotonic() - began)
            assert answer is not None
        began = time.monotonic()
        it.until_logged("has hung for")
        found = time.monotonic() - began
    return "a worker hangs", f"slowest of 60 new connections {slowest:.2f} s; killed after {found:.0f} s", slowest < 1


ROWS: dict[str, Row] = {
    "split": split,
    "busy": busy,
    "killed": killed,
    "supervisor": supervisor,
    "replaced": replaced,
    "balancer": balanced,
    "hung": hung,
}


def main() -> int:
    """Print the rows; 1 if one is missed."""
    parser = argparse.ArgumentParser(description="What several workers keep of their promises.")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which; else all")
    parser.add_argument("--requests", type=int, default=20_000, help="of the rows replaced and balancer")
    args = parser.parse_args()
    missed = 0
    for name in args.rows or ROWS:
        what, shown, kept = ROWS[name](args)
        missed += not kept
        print(f"{'kept  ' if kept else 'MISSED'}  {what:<48}  {shown}", flush=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
