"""What every test shares: the fixtures of :mod:`agm.testing`, and watches for errors and for secrets that get out."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.logger import formatEvent, globalLogPublisher

from testbed.hermetic import isolate
from tests.helpers.support import ScriptedUpstream, failures_logged

pytest_plugins = ["agm.testing", "tests.helpers.canary", "tests.helpers.patience", "tests.helpers.processes"]

isolate()

# No test is timed; and where not every test runs, a property is tried with fewer examples.
settings.register_profile("all", deadline=None)
settings.register_profile("short", deadline=None, max_examples=10)
settings.load_profile("all" if os.environ.get("AGM_TEST_ALL") else "short")

#: Rows of tables that ``tests/run.sh --all`` alone runs, each with why the others speak for them.
_LEFT_TO_ALL = (
    # accounts of Vertex AI are relayed as those with an API key are, and an array with an API key as events are
    r"tests/(?:faults|clients)/.*[\[-]vertex[\]-]",
    r"tests/(?:faults|clients)/.*[\[-](?:api-key-(?:.+-)?array|array-(?:.+-)?api-key)[\]-]",
    # the answers of the emulator without a gateway: what comes through the gateway is compared with the same table
    r"tests/clients/test_sdk_methods.py.*(?:-direct\]|\[aio\.)",  # the asynchronous twins send the same, too
    r"tests/clients/test_table.py.*[\[-]array[\]-]",
    # the same decision as for a stream; each of these waits between its attempts
    r"test_upstream_faults.py::test_a_fault_with_no_other_account\[(?:api-key-(?:unary|sse)-(?!openai)|code-assist-array)",
    # a process for each private name of Twisted's: one of the transport's and one of the parser's are tried always
    r"test_features.py::test_without_a_private_name.*\[(?!_aborting|dataBuffer)",
    r"test_features.py::test_all_of_them_can_be_turned_off\[(?:configuration|neither)",
    r"test_trial_command.py::test_each_failure_has_its_cure\[emu-(?!401)",
    r"test_json_bounds.py::.*\[(?:1000000|code-assist-streamGenerateContent)\]",
    r"test_credentials_through_gateway.py::test_a_failing_token_endpoint.*\[(?:429|500)\]",
    r"test_one_client_and_others.py::test_no_sequence.*\[[123]-(?:api-key|vertex)\]",
    r"test_slowhttptest.py::.*\[slow (?:bodies|heads of POST)\]",
    r"test_soak.py::.*\[truncation\]",
    r"test_clock.py::.*-1h-back\]",
    r"test_process.py::test_a_mistake_on_the_command_line_is_one_line\[arguments[2-7]",
    r"test_install.py::.*\[wheel\]",  # made and installed anew
    # the blocks of README and tutorial are run always
    r"test_docs_blocks.py::test_who_follows_the_page_sees_what_it_says\[(?:team|clients|cli|dialects|accounts|deploy)\.md",
    r"test_json_bounds.py::.*\[(?:api-key-generateContent|20000)\]",
    r"test_secrets.py::test_no_secret_comes_out_of_a_gateway\[json\]",
    r"test_snippets.py::.*\[(?!google-genai|openai)",
    # the kinds and framings beside each other are in the other tables of faults
    r"test_upstream_faults.py::test_a_fault_with_another_account_beside_it\[(?:code-assist-array|api-key-unary-openai)",
    r"test_clients_leave.py::.*code-assist-array",
)
_LEFT = re.compile("|".join(_LEFT_TO_ALL))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Leave to ``tests/run.sh --all`` what the rows of large tables beside them say as well, and begin with the files that
    take the longest, those with processes: else one of them would be all that is left to run in the end.
    """
    for item in items:
        if _LEFT.search(item.nodeid):
            item.add_marker("slow")
    with_processes = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in with_processes)


@pytest.fixture(scope="session", autouse=True)
def _cheap_collections() -> None:
    """What is there before the tests stays: no collection has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logged_failures(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Fail a test in whose time a failure was logged, unless it is marked ``expects_logged_failures``."""
    with failures_logged() as seen:
        yield seen
    if request.node.get_closest_marker("expects_logged_failures") is None:
        assert not seen, [event.get("log_failure") or event for event in seen]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile, as text."""
    seen: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        seen.append(formatEvent(event))

    globalLogPublisher.addObserver(watch)
    yield seen
    globalLogPublisher.removeObserver(watch)


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """An upstream whose every byte a test writes."""
    scripted = ScriptedUpstream()
    yield scripted
    await scripted.stop()
