"""
Other people's gateways, for who wants to see them in the same run: ``--peers nginx,mitmproxy,litellm``.

nginx passes bytes, and is Debian's.  mitmproxy runs an addon that wraps and unwraps (``mitm_addon.py``); it and LiteLLM
are looked for in virtual environments of their own in the cache folder, and who has none is told how to make it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness import HERE, cache, environment

from testbed.processes import until

Peer = Callable[[str, str], AbstractContextManager[tuple[str, int]]]

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 100m;
  keepalive_requests 1000000;
  upstream gemini {{ server {upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://gemini;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
_LITELLM = """
model_list:
  - model_name: gemini-2.5-flash
    litellm_params:
      model: gemini/gemini-2.5-flash
      api_key: bench-key
      api_base: {upstream}
litellm_settings:
  telemetry: false
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        port: int = it.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def _running(port: int, command: list[str], folder: Path) -> Iterator[tuple[str, int]]:
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment(folder), cwd=folder) as process,
    ):
        try:
            until(lambda: _listens(port) or process.poll() is not None, command[0], patience=120)
            if process.poll() is not None:
                raise SystemExit(f"bench: {command[0]} did not start:\n{(folder / 'output').read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _installed(name: str, package: str, module: str) -> str:
    """A command of a virtual environment in the cache folder."""
    folder = cache() / name
    command = folder / "bin" / module
    if not command.exists():
        raise SystemExit(
            f"bench: {name} is missing; install it with:"
            f" python3 -m venv {folder} && {folder}/bin/pip install '{package}'"
        )
    return str(command)


@contextmanager
def nginx(upstream: str, kind: str) -> Iterator[tuple[str, int]]:
    """Bytes, and nothing else: the plain form, whatever the kind."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit("bench: nginx is missing; install it with: apt install nginx-light")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nginx.conf"
        host = upstream.removeprefix("http://")
        file.write_text(_NGINX.format(folder=folder, upstream=host, port=port), encoding="ascii")
        log = f"{folder}/error.log"
        with _running(port, [found, "-p", folder, "-e", log, "-c", str(file)], Path(folder)) as it:
            yield it


@contextmanager
def mitmproxy(upstream: str, kind: str) -> Iterator[tuple[str, int]]:
    """A reverse proxy with an addon; its name for streams is the addon's affair."""
    command = _installed("mitmproxy", "mitmproxy", "mitmdump")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "--mode", f"reverse:{upstream}", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
        options += ["--set", f"confdir={folder}", "--set", f"wrap={'true' if kind == 'code-assist' else 'false'}"]
        with _running(port, [command, *options, "-s", str(HERE / "mitm_addon.py")], Path(folder)) as it:
            yield it


@contextmanager
def litellm(upstream: str, kind: str) -> Iterator[tuple[str, int]]:
    """Its native Gemini route, with an API key, whatever the kind."""
    command = _installed("litellm", "litellm[proxy]", "litellm")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(_LITELLM.format(upstream=upstream), encoding="ascii")
        options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        with _running(port, [command, "--config", str(file), *options], Path(folder)) as it:
            yield it


PEERS: dict[str, Peer] = {"nginx": nginx, "mitmproxy": mitmproxy, "litellm": litellm}


def named(text: str) -> list[str]:
    """The peers of an option's value.  :raises ValueError: if one is none."""
    found = [name for name in text.split(",") if name]
    if unknown := [name for name in found if name not in PEERS]:
        raise ValueError(f"{unknown[0]} is no peer; there are {', '.join(PEERS)}")
    return found
