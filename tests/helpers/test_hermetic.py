"""The tests themselves see nothing of who runs them."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agm.config import find
from agm.config.loading import default_path
from testbed.hermetic import PORT, outside

ROOT = Path(__file__).parents[2]
WISHES = {
    "AGM_CONFIG": "/nowhere/agm.toml",
    "AGM_TEST_BROWSER": "stays",
    "CLOUDSDK_CONFIG": "/nowhere",
    "GEMINI_API_KEY": "canary-of-a-person",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/adc.json",
    "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{PORT}",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "LISTEN_FDS": "1",
    "NO_COLOR": "1",
    "NOTIFY_SOCKET": "/nowhere",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "PATH": os.environ["PATH"],
    "PYTHONIOENCODING": "ascii",
    "XDG_CONFIG_HOME": "/nowhere",
    "XDG_STATE_HOME": "/nowhere",
    "https_proxy": "http://127.0.0.1:9",
}


@pytest.mark.process
def test_nothing_of_the_environment_reaches_a_test_but_what_is_for_the_tests(tmp_path: Path) -> None:
    script = "import os; from testbed import hermetic; hermetic.isolate(); print(*sorted(os.environ))"
    script += "; print(os.environ['HOME'])"
    script += "; print(sorted(hermetic.outside().items()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**WISHES, "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names, home, elsewhere = done.stdout.splitlines()
    xdg = {f"XDG_{what}_HOME" for what in ("CONFIG", "STATE", "DATA", "CACHE")}
    assert set(names.split()) - {"LC_CTYPE"} == {"AGM_TEST_BROWSER", "AGM_TEST_OUTSIDE", "HOME", "PATH", *xdg}
    assert home != str(tmp_path)
    assert not Path(home).exists(), "it is gone with the process"
    assert f"('HOME', '{tmp_path}')" in elsewhere
    assert "('https_proxy', 'http://127.0.0.1:9')" in elsewhere
    assert "canary" not in elsewhere


def test_there_is_no_configuration_of_a_person() -> None:
    assert find(None, os.environ) is None
    assert not default_path().exists()
    assert not outside()["HOME"].startswith(os.environ["HOME"])


def test_nobody_is_at_the_port_where_everybodys_gateway_is() -> None:
    for kind in (http.client.HTTPConnection, http.client.HTTPSConnection):
        with pytest.raises(ConnectionRefusedError):
            kind("127.0.0.1", PORT).connect()
