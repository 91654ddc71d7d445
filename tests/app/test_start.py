"""What a gateway does at its start, and what it leaves for when it is needed."""

from __future__ import annotations

import json
import sys

import pytest

from testbed.processes import run

#: What is large, and of use to some gateways only.
NOT_AT_START = {
    "agm.cli",
    "agm.testing.conformance",
    "agm.emulator",
    "agm.observe.exposition",
    "agm.diagnose.replay",
    "agm.testing",
    "agm.upstream.credentials.google",
    "google.auth",
    "opentelemetry",
    "prometheus_client",
    "pytest",
    "requests",
    "rich",
    "tomlkit",
    "urllib3",
}

PROGRAM = """
import json, sys
from twisted.internet.task import Clock
from agm.app.tuning import settle_memory
from agm.serving.assemble import make_gateway
from agm.config import parse

config = parse(sys.argv[1], environ={})
make_gateway(Clock(), config, "off", installed=False)
settle_memory()
print(json.dumps(list(sys.modules)))
"""

ACCOUNT = '[[accounts]]\nname = "a"\nkind = "vertex"\nproject = "p"\nlocation = "global"\n'


def _modules(config: str) -> set[str]:
    done = run([sys.executable, "-c", PROGRAM, config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.process
def test_a_gateway_whose_accounts_have_keys_imports_nothing_that_only_others_need() -> None:
    """Each of these costs time at the start, and memory for ever."""
    assert _modules(ACCOUNT + 'access_token = "t"\n') & NOT_AT_START == set()


@pytest.mark.process
def test_an_account_with_google_credentials_brings_google_auth_at_the_start() -> None:
    """Not with the first request, which would have to wait for it."""
    assert "google.auth" in _modules(ACCOUNT + 'credentials = "adc"\n')
