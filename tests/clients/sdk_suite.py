"""
Runs the tests that google-genai's wheel ships, in its mode ``api``, against a gateway with ``--demo`` or any other URL.

.. code-block:: sh

    pip install pytest-asyncio httpx pillow mcp        # what those tests import; best in a venv of their own
    python -m tests.clients.sdk_suite models chats batches caches
    python -m tests.clients.sdk_suite --url http://127.0.0.1:8046 chats    # the emulator alone, or a running gateway

For each part it prints how many passed, failed and were skipped.  Loaded by pytest as a plugin, this module points the
suite's client, which looks at no environment, to that URL.  Tests that ask a host of their own cannot pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

URL = "AGM_SDK_SUITE_URL"
PARTS = ("models", "chats", "batches", "caches", "interactions", "gaos", "files", "file_search_stores", "operations")


def pytest_configure() -> None:
    """Point the suite's clients to the URL, where a test names no other."""
    # pytest takes the suite for a package "genai" of its own, so that there are two copies of the SDK
    for module in [module for name, module in sys.modules.items() if name.endswith("genai._api_client")]:
        _point(module.BaseApiClient, module.HttpOptions)


def _point(client: Any, options_of: Any) -> None:
    made = client.__init__

    def init(self: Any, *args: Any, http_options: Any = None, **kwargs: Any) -> None:
        options = options_of.model_validate(http_options or {})
        options.base_url = options.base_url or os.environ[URL]
        made(self, *args, http_options=options, **kwargs)

    client.__init__ = init


def _demo() -> tuple[subprocess.Popen[bytes], str]:
    """A gateway with ``--demo``, as soon as it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "agm", "serve", "--demo", "--port", str(port)]
    gateway = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return gateway, f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    gateway.kill()
    raise SystemExit("the gateway does not listen")


def _run(part: str, url: str, workers: int) -> str:
    """Run one part of the suite; its last line."""
    found = importlib.util.find_spec("google.genai.tests")
    assert found is not None
    assert found.submodule_search_locations
    suite = Path(found.submodule_search_locations[0])
    root = Path(__file__).parents[2]
    environ = {
        **os.environ,
        URL: url,
        "GOOGLE_API_KEY": "demo",
        "GOOGLE_GENAI_RUN_GEMINI_ONLY_IN_API_MODE": "1",
        "GOOGLE_GENAI_REPLAYS_DIRECTORY": str(root / ".pytest_cache"),
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-c", os.devnull, "--rootdir", str(suite)]
    command += [
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:pytest_twisted",
        "-p",
        "tests.clients.sdk_suite",
        "--tb=no",
        "-rN",
    ]
    command += ["-W", "ignore", "--mode", "api", *(["-n", str(workers)] if workers else []), str(suite / part)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if re.search(r"\d+ (?:passed|failed|error|skipped)", line)]
    return lines[-1] if lines else (done.stdout + done.stderr)[-500:]


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0].strip())
    parser.add_argument(
        "parts", nargs="*", default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument("--url", help="what is tested; a gateway with --demo is started without")
    parser.add_argument("-n", type=int, default=0, metavar="N", help="so many workers, with pytest-xdist")
    args = parser.parse_args()
    gateway, url = (None, args.url) if args.url else _demo()
    try:
        for part in args.parts:
            print(f"{part:20} {_run(part, url, args.n)}", flush=True)
    finally:
        if gateway is not None:
            gateway.terminate()
            gateway.wait(20)


if __name__ == "__main__":
    main()
