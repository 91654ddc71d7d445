"""
A watch over all that any process of the test run writes: no secret, no traceback, no error that nobody looked at.

Secrets of the tests hold ``canary-``, or look as Google's do.  What the processes wrote that tests have started (their
logs, standard output and standard error), what commands have printed, and what was logged in the process of the tests
itself is searched, at the latest when the run ends; what is found fails the run, with several processes, too.

A test that makes a process write a traceback says so with ``@pytest.mark.expects_logged_failures``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.logger import eventAsText, globalLogPublisher

#: What no output may hold.  The numbers of characters are those of real ones: tests of the parsers have shorter ones.
LEAK = re.compile(
    r"canary-|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{12,}|(?<![0-9A-Za-z])1//[0-9A-Za-z_-]{12,}"
    r"|GOCSPX-[0-9A-Za-z_-]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
#: What none may hold that is not announced.
TROUBLE = re.compile(
    r"Traceback \(most recent call last\)|Unhandled error in Deferred|MESSAGE LOST|Unable to format event"
)
MARKER = "expects_logged_failures"


@attrs.define(eq=False)
class Watch:
    """What has been found in a process, and what has still to be looked at; `test` is the one that runs."""

    findings: list[str] = attrs.Factory(list)
    looked: int = 0
    test: pytest.Item | None = None
    _followed: dict[Path, tuple[str, bool]] = attrs.Factory(dict)

    def look(self, source: str, text: str) -> None:
        """Search a text that was written by `source` in the test that runs."""
        self._search(f"{self._name()}: {source}", text, self._expected())

    def follow(self, folder: Path) -> None:
        """Search the files of a process in a folder when the run ends; what it is said to expect is said now."""
        self._followed[folder] = (self._name(), self._expected())

    def settle(self) -> list[str]:
        """Search what is left; everything that was found."""
        for folder, (test, expected) in self._followed.items():
            for file in [folder / "stdout", folder / "stderr", *sorted(folder.glob("*.log*"))]:
                if file.is_file():
                    self._search(f"{test}: {file}", file.read_text("utf-8", "replace"), expected)
        self._followed.clear()
        return self.findings

    def _search(self, where: str, text: str, expected: bool) -> None:
        self.looked += 1
        for pattern in [LEAK] if expected else [LEAK, TROUBLE]:
            found = pattern.search(text)
            if found is not None:
                self.findings.append(
                    f"{where}: {found[0]!r} in …{text[max(found.start() - 300, 0) : found.end() + 300]}…"
                )

    def _name(self) -> str:
        return "outside of any test" if self.test is None else self.test.nodeid

    def _expected(self) -> bool:
        return self.test is not None and self.test.get_closest_marker(MARKER) is not None


#: Of this process.
watch = Watch()


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
    watch.test = item
    try:
        return (yield)
    finally:
        watch.test = None


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
