"""
The pages in ``docs`` are true: each command and program on them runs, in the order of the page, and does what it shows.

A page is followed from top to bottom by a reader with a home of their own.  ``twistd`` is started in the background and
stays until another takes its port; pages that start none talk to one gateway with ``--demo``.  A configuration on the
tutorial is added to the reader's.  What is shown below a command is all that it prints, but that ``…`` stands for
anything, and what cannot be known (ids, times) for each other; where nothing is shown the command has to succeed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import BIN, PATIENCE, Twistd, environment, run, until
from tests.helpers.pages import DOCS, Block, blocks, write_possessions

GATEWAY, EMULATOR, TLS = "8045", "8046", "8443"
#: Pages whose Python is run by another test, with plugins in place and an event loop around it.
ELSEWHERE = {"plugins.md", "plugin-tutorial.md", "testing-plugins.md"}
#: Languages that are run; of all others nothing is claimed that a command could show.
RUN = ("sh", "console", "python", "js")
PAGES = sorted(page for page in DOCS.glob("*.md") if blocks(page))
#: What runs until it is ended.
_SERVES = re.compile(r"(?:\w+=\S* )*(?:twistd -n |agm serve\b)")
_GATEWAY = re.compile(r"^(\$ )?(twistd -n (--pidfile= )?agm|agm serve)\b(?!-)", re.M)
#: Commands that look at what others have done, and change nothing.
_LOOK = re.compile(r"agm (?:log|usage|status|account list)\b")
#: What differs from run to run, and what stands for it.
_UNKNOWABLE = (
    (re.compile(r"\b(?:[0-9a-f]{16}|[0-9a-f]{24})\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.+]\d+)?"), "TIME"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:ms|s|min|h)\b"), "DURATION"),
    (re.compile(r"\bpid \d+"), "PID"),
    (re.compile(r" {2,}"), "  "),
)


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def comparable(text: str) -> str:
    """A text without what cannot be known beforehand."""
    for pattern, name in _UNKNOWABLE:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed."""
    lines = (re.escape(line).replace("…", ".*") for line in comparable(shown).splitlines())
    pattern = "".join(r"(?:[^\n]*\n)*" if line == ".*" else f"{line}\n" for line in lines)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in comparable(printed).splitlines())) is not None


def test_what_is_shown_agrees_with_what_is_printed_only_where_it_does() -> None:
    assert agrees("a\n…\nz 0.5 s\n", "a\nb\nc\nz 12 s\n")
    assert agrees("id 868c16a38e5bacf3, …\n", "id eeaed2bf5d3327d0, and so on\n")
    assert agrees("", "\n")
    assert not agrees("", "a\n")
    assert not agrees("a\n", "a\nb\n")
    assert not agrees("1 request\n", "2 requests\n")
    assert not agrees("a.c\n", "abc\n")


class Reader:
    """Somebody who follows a page."""

    def __init__(self, folder: Path, demo: str | None) -> None:
        self.home = folder / "home"
        self.here = folder / "here"
        self.here.mkdir(parents=True)
        self._ports = {GATEWAY: demo or free_port(), EMULATOR: free_port(), TLS: free_port()}
        self._running: dict[str, Twistd] = {}
        self.config = self.home / ".config" / "agm" / "agm.toml"
        self.config.parent.mkdir(parents=True)
        self.config.write_text(f'[gateway]\nlisten = ["tcp:{self._ports[GATEWAY]}:interface=127.0.0.1"]\n')
        self._write_possessions()

    def _write_possessions(self) -> None:
        """Files that a person has, and a page does not show."""
        write_possessions(self.here)
        write_possessions(self.home)
        for block in (block for page in PAGES for block in blocks(page)):
            if block.language in ("python", "js", "toml") and block.file is not None and "/" not in block.file:
                (self.here / block.file).write_text(self._mine(block.text) if block.language == "toml" else block.text)

    def _env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.here), *filter(None, [os.environ.get("PYTHONPATH")])])
        return environment(self.home, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", NO_COLOR="1", PYTHONPATH=path)

    def _mine(self, text: str) -> str:
        """A text of a page with the ports that are free here."""
        for theirs, mine in self._ports.items():
            text = re.sub(rf"\b{theirs}\b", mine, text)
        return text

    def _theirs(self, text: str) -> str:
        """What was printed, as the page has it."""
        text = text.replace(str(self.home), "/home/you").replace(str(self.here), "/home/you")
        for theirs, mine in self._ports.items():
            text = re.sub(rf"\b{mine}\b", theirs, text)
        return text.replace("\r\n", "\n")

    def start(self, command: str) -> None:
        """Have a twistd run in the background; one that listened there before ends."""
        words = shlex.split(self._mine(command))
        if "twistd" in words:
            words = words[words.index("twistd") + 1 :]
            assert words[0] == "-n", command
        else:
            words = ["-n", *words[words.index("agm") : words.index("serve")], *words[words.index("serve") + 1 :]]
        place = EMULATOR if "agm-emulator" in words else GATEWAY
        if place in self._running:
            self._running.pop(place).end()
        folder = self.here.parent / f"{place}-{len(list(self.here.parent.iterdir()))}"
        words = [word for word in words[1:] if word != "--pidfile="]
        words = [str(self.here / word) if (self.here / word).is_file() else word for word in words]
        twistd = self._running[place] = Twistd.start(folder, *words, env=self._env())
        port = self._ports[place]
        twistd.until(lambda: f":{port}" in twistd.log or f" {port}" in twistd.log, f"something at port {port}")
        until(lambda: self._answers(port), "an answer")

    @staticmethod
    def _answers(port: str) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", int(port))) == 0

    def configure(self, text: str) -> None:
        """Add a text to the configuration, and wait until it is in force."""
        before = self._reloads()
        with self.config.open("a") as file:
            file.write(f"\n{text}")
        self._settle(before)

    def _reloads(self) -> int:
        gateway = self._running.get(GATEWAY)
        return 0 if gateway is None else gateway.log.count("is loaded")

    def _settle(self, before: int) -> None:
        gateway = self._running.get(GATEWAY)
        if gateway is not None:
            gateway.until(lambda: self._reloads() > before, "the new configuration in force")

    def run(self, *command: str, typed: str = "") -> str:
        """What a command prints on standard output; it must succeed."""
        was, before = self.config.read_text(), self._reloads()
        done = run(
            [self._mine(word) for word in command],
            cwd=self.here,
            env=self._env(),
            input=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if self.config.read_text() != was:
            self._settle(before)
        return self._theirs(done.stdout)

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        where = f"{block.page}:{block.line}"
        match block.language:
            case "console":
                for command, shown in block.commands:
                    self._command(command, "" if block.not_compared else shown, where)
            case "sh":
                for command in re.split(r"(?<!\\)\n", block.text.strip()):
                    self._command(command, "", where)
            case "python" if block.file is None:
                printed = self.run(sys.executable, "-W", "ignore", "-c", block.text)
                assert agrees(block.output or "", printed), f"{where}: {printed}"

    def _command(self, command: str, shown: str, where: str) -> None:
        if _SERVES.match(command):
            self.start(command)
            return
        deadline = time.monotonic() + PATIENCE
        while True:
            again = _LOOK.match(command) is not None and time.monotonic() < deadline
            try:
                printed = self.run("bash", "-c", command, typed="a-key-of-no-use\n")
            except AssertionError:  # nothing is there yet, not even a file
                if not again:
                    raise
                continue
            if not again or not shown or agrees(shown, printed):
                break  # else what was asked for may be known a moment later
        assert not shown or agrees(shown, printed), f"{where}: $ {command}\n{printed}"

    def leave(self) -> None:
        """End what was started."""
        while self._running:
            self._running.popitem()[1].end()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of the gateway that all pages share which start none."""
    port = free_port()
    twistd = Twistd.start(tmp_path_factory.mktemp("demo"), "agm", "--port", port, "--demo")
    try:
        twistd.addresses()
        yield port
    finally:
        twistd.end()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.process
def test_who_follows_the_page_sees_what_it_says(page: Path, tmp_path: Path, demo: str) -> None:
    todo = [block for block in blocks(page) if block.not_run is None]
    if page.name in ELSEWHERE:
        todo = [block for block in todo if block.language != "python"]
    own = any(_GATEWAY.search(block.text) for block in todo if block.language in ("sh", "console"))
    reader = Reader(tmp_path, None if own else demo)
    try:
        for block in todo:
            if block.language in ("sh", "console", "python"):
                reader.follow(block)
            elif block.language == "toml" and page.name == "tutorial.md":
                reader.configure(block.text)
    finally:
        reader.leave()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_left_out_is_a_program_and_says_why(page: Path) -> None:
    text = page.read_text("utf-8")
    marked = [block for block in blocks(page) if block.not_run is not None or block.not_compared is not None]
    assert len(re.findall("<!-- not (?:run|compared):", text)) == len(marked)
    for block in marked:
        assert block.language in RUN, f"line {block.line}"
        assert len((block.not_run or block.not_compared or "").split()) >= 3, f"line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_document_on_a_page_can_be_read(page: Path) -> None:
    """TOML as TOML, JSON as one document or one a line."""
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            try:
                json.loads(block.text)
            except ValueError:
                for line in block.text.splitlines():
                    json.loads(line)
        else:
            assert block.language in (*RUN, "text", "yaml", "ini"), f"line {block.line}: what is that?"


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_two_servers_in_a_folder_do_not_fight_over_a_pid_file(page: Path) -> None:
    """``twistd -n`` writes ``twistd.pid`` into the folder; only the form of a service, which has its own, does."""
    for line in page.read_text("utf-8").splitlines():
        for rest in re.findall(r"twistd -n (.*)", line):
            assert rest.startswith("--pidfile=") or re.match(r"agm --port 8045\b", rest), line
