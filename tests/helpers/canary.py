"""
A watch over all that any process of the test run writes: no secret, no traceback, no error that nobody looked at.

Secrets of the tests hold ``canary-``, or look as Google's do.  What the processes wrote that tests have started (their
logs, standard output and standard error), what commands have printed, and what was logged in the process of the tests
itself is searched, at the latest when the run ends; what is found fails the run, with several processes, too.

A test that makes a process write a traceback says so with ``@pytest.mark.expects_logged_failures``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import eventAsText, globalLogPublisher

from testbed.watch import LEAK, watch

MARKER = "expects_logged_failures"


def _logged(event: dict[str, Any]) -> None:
    """Whether a test looks at what is logged in its own process is its own affair; what must not be in it is not."""
    text = eventAsText(event)
    if LEAK.search(text):
        watch.look("what was logged", text)


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    """Watch the log."""
    config.addinivalue_line("markers", f"{MARKER}: the test makes the gateway log a failure, on purpose")
    globalLogPublisher.addObserver(_logged)


@pytest.hookimpl
def pytest_unconfigure() -> None:
    """Watch it no more."""
    globalLogPublisher.removeObserver(_logged)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Remember which test runs."""
    watch.test, watch.expects_failures = item.nodeid, item.get_closest_marker(MARKER) is not None
    try:
        return (yield)
    finally:
        watch.test, watch.expects_failures = None, False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Look at what a test, or a process that it has started, has printed and nobody has read."""
    report = yield
    for name, text in report.sections:
        if name.startswith(("Captured stdout", "Captured stderr")):
            watch.look(name, text)
    return report


@pytest.fixture
def capsys(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """pytest's own, but what a test reads is looked at."""
    read = capsys.readouterr

    def readouterr() -> Any:
        result = read()
        watch.look("what it has printed", f"{result.out}\n{result.err}")
        return result

    capsys.readouterr = readouterr  # type: ignore[method-assign]  # of this one fixture
    return capsys


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of several has ended: take over what it has found."""
    output = getattr(node, "workeroutput", {})
    watch.findings += output.get("canary", [])
    watch.looked += output.get("canary_looked", 0)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The run is over: what was found fails it."""
    findings = watch.settle()
    if hasattr(session.config, "workeroutput"):  # one of several: the first one tells
        session.config.workeroutput["canary"] = findings
        session.config.workeroutput["canary_looked"] = watch.looked
    elif findings and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was found."""
    if watch.findings:
        terminalreporter.section("secrets and errors in what was written", red=True)
        for finding in watch.findings:
            terminalreporter.write_line(finding)
    elif watch.looked:
        terminalreporter.write_line(f"no secret and no unexpected error in {watch.looked} outputs")
