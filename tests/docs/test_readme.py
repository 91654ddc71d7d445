"""
The README is true: every command and program in it runs, and prints what it says.

Blocks are read by their language.  ``console`` holds commands and their whole output; ``python`` and ``js`` are
programs, with their output in the ``text`` block right after; a Python block that starts with ``# name.py`` is a file;
a ``sh`` block that runs twistd says which gateway the blocks after it talk to.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from testbed.hermetic import outside
from testbed.processes import BIN, PATIENCE, Twistd, environment, get, run, until
from tests.helpers import pages
from tests.helpers.pages import ROOT, write_possessions

NODE = ROOT / "tests" / "clients" / "node"
#: The address in the README, for which the address of a gateway on a free port is put.
ADDRESS = "http://127.0.0.1:8045"


#: What runs a gateway.
_SERVES = re.compile(r"\btwistd -n agm\b|\bagm serve\b")


@attrs.frozen
class Block:
    """A block of the README, and the last command before it that runs twistd."""

    block: pages.Block
    gateway: str

    @property
    def language(self) -> str:
        return self.block.language

    @property
    def text(self) -> str:
        return self.block.text

    @property
    def line(self) -> int:
        return self.block.line

    @property
    def output(self) -> str | None:
        return self.block.output


def read_blocks() -> list[Block]:
    """The blocks of the README."""
    found: list[Block] = []
    gateway = ""
    for block in pages.blocks(ROOT / "README.md"):
        if block.language == "sh" and _SERVES.search(block.text):
            gateway = block.text.strip()
        found.append(Block(block, gateway))
    return found


BLOCKS = read_blocks()


def blocks(language: str) -> pytest.MarkDecorator:
    """Run a test with each block of a language."""
    return pytest.mark.parametrize(
        "block", [pytest.param(b, id=f"line {b.line}") for b in BLOCKS if b.language == language]
    )


class Reader:
    """Somebody who follows the README: a home, a folder, and the gateways that were started so far."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.folder = folder / "somewhere"
        self.folder.mkdir(parents=True)
        for block in BLOCKS:
            if block.block.file is not None:
                (self.folder / block.block.file).write_text(block.text)
        write_possessions(self.folder)
        # as the README has it the gateway is at its own port, and so may be that of the person who runs the tests
        file = Path(self.env["XDG_CONFIG_HOME"]) / "agm" / "agm.toml"
        file.parent.mkdir(parents=True, mode=0o700)
        file.write_text('[gateway]\nlisten = ["tcp:1:interface=127.0.0.1"]\n')
        file.chmod(0o600)
        self._gateways: dict[str, Twistd] = {}

    @property
    def env(self) -> dict[str, str]:
        """The environment, with the commands of the Python that runs the tests."""
        return environment(self.home, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")

    def address(self, block: Block) -> str:
        """Where the gateway listens that a block is meant for."""
        if block.gateway not in self._gateways:
            words = shlex.split(block.gateway.rpartition("&&")[2])
            after = words[words.index("serve") + 1 :] if "serve" in words else words[3:]
            assert after[:2] == ["--port", "8045"], words
            folder = self.folder.parent / f"gateway-{len(self._gateways)}"
            path = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
            env = environment(folder, PYTHONPATH=path)
            self._gateways[block.gateway] = Twistd.start(folder, "agm", "--port", "0", *after[2:], env=env)
        return self._gateways[block.gateway].url()

    def run(self, *command: str, block: Block) -> str:
        """The standard output of a command, as the README writes it."""
        address = self.address(block)
        done = run(
            [word.replace(ADDRESS, address) for word in command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self.readable(done.stdout).replace(address, ADDRESS)

    def readable(self, output: str) -> str:
        """Output with the home that the README has, and with the line ends of a page, of the last line, too."""
        output = output.replace(str(self.home), "/home/you").replace("\r\n", "\n")
        return f"{output}\n" if output and not output.endswith("\n") else output

    def leave(self) -> None:
        """End what was started."""
        for twistd in self._gateways.values():
            twistd.end()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("reader"))
    try:
        yield reader
    finally:
        reader.leave()


@blocks("console")
@pytest.mark.process
def test_each_command_prints_what_the_readme_says(reader: Reader, block: Block) -> None:
    said = block.block.commands
    printed = [(command, reader.run("bash", "-c", command, block=block)) for command, _ in said]
    assert printed == said


@blocks("python")
@pytest.mark.process
def test_each_python_program_prints_what_the_readme_says(reader: Reader, block: Block) -> None:
    if block.block.file is not None:
        assert len(block.text.splitlines()) <= 10
        return
    assert reader.run(sys.executable, "-W", "ignore", "-c", block.text, block=block) == block.output


@blocks("js")
@pytest.mark.process
def test_each_javascript_program_prints_what_the_readme_says(reader: Reader, block: Block) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    if not (reader.folder / "package.json").exists():
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(NODE / name, reader.folder / name)
        npm = ["npm", "ci", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=reader.folder, env=outside(), check=True, capture_output=True)
    program = reader.folder / "program.mjs"
    program.write_text(block.text.replace(ADDRESS, reader.address(block)))
    assert reader.run("node", str(program), block=block) == block.output


def test_nothing_is_left_out() -> None:
    assert [block.line for block in BLOCKS if block.block.not_run or block.block.not_compared] == []


def test_each_shell_block_is_a_gateway_that_starts_the_test_command_or_another_program() -> None:
    others = [block.text for block in BLOCKS if block.language == "sh" and not _SERVES.search(block.text)]
    assert [text.split()[0] for text in others] == ["bash", "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8045"]


def test_the_test_command_is_what_runs_for_every_change() -> None:
    command = next(block.text.strip() for block in BLOCKS if block.text.startswith("bash "))
    assert command in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / command.removeprefix("bash ")).exists()


@pytest.mark.process
@pytest.mark.slow
def test_the_first_command_sets_up_and_runs_the_demo_from_nothing(tmp_path: Path) -> None:
    checkout = tmp_path / "agm"
    unwanted = shutil.ignore_patterns(".*", "*.egg-info", "build", "node_modules", "dropin.cache", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=unwanted)
    command = next(block for block in BLOCKS if block.language == "sh").text
    env = {name: value for name, value in environment(tmp_path).items() if not name.startswith(("PYTHON", "COVERAGE"))}
    log = tmp_path / "log"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", "-c", command.replace("--port 8045", "--port 0")],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "agm serves" in log.read_text() or shell.poll() is not None, "a gateway", patience=300)
        address = re.search(r"listening on (http\S+)", log.read_text())
        assert address is not None, log.read_text()
        assert get(address[1], "/healthz") == (200, b'{"status":"ok"}')
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(PATIENCE)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
