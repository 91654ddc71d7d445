"""HAProxy with the file of ``deploy/haproxy``, before gateways on loopback."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Debian has daemons where not everybody looks.
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
FILE = Path(__file__).parents[1] / "deploy" / "haproxy" / "haproxy.cfg"


def find() -> str | None:
    """Where HAProxy is; None where it is not installed."""
    return shutil.which("haproxy", path=SBIN)


def free_port() -> int:
    """Find a port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def balanced(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """Run a balancer before gateways on these ports, and give its address; without TLS, else as the file says."""
    program = find()
    assert program is not None, "apt install haproxy"
    port = free_port()
    text = FILE.read_text("utf-8")
    text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{port}", text)
    servers = "".join(f"    server s{it} 127.0.0.1:{it}\n" for it in ports)
    text = re.sub(r"(?:    server .*\n)+", servers, text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([program, "-db", "-f", str(folder / "haproxy.cfg")], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "out").read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
