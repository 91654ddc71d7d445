"""What commands print: in every encoding, and when nobody reads it or there is no room for it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from agm.cli import main, make_parser
from testbed.processes import environment, run
from testbed.watch import watch

CONFIGURATION = """
[gateway]
listen = ["tcp:1:interface=127.0.0.1"]
[models]
list = ["gemini-2.5-flash", "für-\N{GRINNING FACE}"]
[models.aliases]
"gpt-4o*" = "gemini-2.5-flash"
[[accounts]]
name = "work"
kind = "api-key"
api_key = "canary-of-an-account"
endpoints = ["http://127.0.0.1:1"]
[[auth.keys]]
name = "laptop"
key = "canary-of-a-client-key"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home, with a configuration; the current folder, too."""
    for name, value in environment(tmp_path).items():
        if name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".config" / "agm" / "agm.toml"
    file.parent.mkdir(parents=True)
    file.write_text(CONFIGURATION, encoding="utf-8")
    file.chmod(0o600)
    return tmp_path


def status_of(*argv: str) -> object:
    """How a command ends, in this process."""
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code


@attrs.define
class Terminal:
    """The streams of a command, with an encoding of their own."""

    encoding: str
    errors: str = "strict"
    _out: io.BytesIO = attrs.Factory(io.BytesIO)
    _err: io.BytesIO = attrs.Factory(io.BytesIO)

    def run(self, monkeypatch: pytest.MonkeyPatch, *argv: str) -> tuple[object, str, str]:
        """The status of a command, its output and its errors."""
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", io.TextIOWrapper(self._out, self.encoding, self.errors))
            patched.setattr(sys, "stderr", io.TextIOWrapper(self._err, self.encoding, self.errors))
            status = status_of(*argv)
            out, err = self._out.getvalue().decode(self.encoding), self._err.getvalue().decode(self.encoding)
        watch.look("what a command has printed", f"{out}\n{err}")
        return status, out, err


ENCODINGS = ["ascii", "iso-8859-1", "cp1252", "utf-8", "utf-16"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_command_prints_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = Terminal(encoding).run(monkeypatch, "explain", "gpt-4o-mini", "--offline")
    assert status == 0
    arrow = "\N{RIGHTWARDS ARROW}" if encoding.startswith("utf") else "->"
    assert f"gpt-4o-mini {arrow} gemini-2.5-flash" in out


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_the_same_document_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = Terminal(encoding).run(monkeypatch, "models", "--offline", "--json")
    assert status == 0
    assert "für-\N{GRINNING FACE}" in {model["name"].removeprefix("models/") for model in json.loads(out)}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "argv",
    [
        ["explain", "\N{RIGHTWARDS ARROW}\N{GRINNING FACE}\udcff", "--offline"],
        ["explain", "\N{RIGHTWARDS ARROW}\N{GRINNING FACE}\udcff", "--offline", "--json"],
        ["account", "remove", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["key", "create", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["key", "revoke", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["replay", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["plugin", "new", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["config", "check", "--config", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["log", "--model", "ü\N{RIGHTWARDS ARROW}\udcff"],
        ["ü\N{RIGHTWARDS ARROW}\udcff"],
    ],
    ids=lambda argv: " ".join(argv[:2]).encode("ascii", "replace").decode(),
)
def test_what_a_person_types_may_hold_any_character(
    encoding: str, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also bytes that are none in the terminal's encoding."""
    status, out, err = Terminal(encoding).run(monkeypatch, *argv)
    assert status in (0, 1, 2)
    assert "Traceback" not in out + err


def commands() -> Iterator[list[str]]:
    """Every command that has something to say without a running gateway, and the help of each."""
    (names,) = (action.choices for action in make_parser()._actions if action.dest == "==SUPPRESS==" and action.choices)
    assert isinstance(names, dict)
    yield ["--help"]
    yield ["--version"]
    yield from ([name, "--help"] for name in names)
    yield from (
        ["account", "list"],
        ["account", "list", "--json"],
        ["config", "check"],
        ["completion", "bash"],
        ["explain", "gpt-4o-mini", "--offline"],
        ["explain", "gpt-4o-mini", "--offline", "--json"],
        ["key", "list"],
        ["models", "--offline"],
        ["plugins", "--offline"],
        ["plugins", "--offline", "--json"],
    )


@pytest.fixture
def gone() -> Iterator[Callable[[], io.TextIOWrapper]]:
    """Makes a pipe that nobody reads from any more."""
    made: list[io.TextIOWrapper] = []

    def make() -> io.TextIOWrapper:
        reading, writing = os.pipe()
        os.close(reading)
        made.append(os.fdopen(writing, "w", encoding="utf-8"))
        return made[-1]

    yield make
    for each in made:
        each.close()  # which writes out what is left, and would complain


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_a_reader_who_has_seen_enough_ends_a_command_quietly(
    argv: list[str],
    gone: Callable[[], io.TextIOWrapper],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", gone())
        assert status_of(*argv) == 1
    said = capsys.readouterr().err.splitlines()
    assert not [line for line in said if not line.startswith(("offline:", "no gateway"))]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("argv", "status"), [(["nothing"], 2), (["account", "remove", "nobody"], 1), (["models", "--offline"], 0)]
)
def test_nobody_who_reads_the_errors_changes_no_status(
    argv: list[str], status: int, gone: Callable[[], io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone())
        ended = status_of(*argv)
    assert ended == status


@pytest.mark.process
def test_a_disk_that_is_full_is_a_line(home: Path) -> None:
    """Whether the output is small, and is written at the end, or large."""
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    for argv in (["models", "--offline"], ["explain", "m", "--offline", "--json"], ["--help"]):
        with open("/dev/full", "wb") as full:
            done = run(
                [sys.executable, "-m", "agm", *argv],
                env=environment(home),
                stdin=subprocess.DEVNULL,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "the output cannot be written: No space left on device"
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "closed", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("<&-", ">&-", "2>&-")), "<&- >&- 2>&-"]
)
@pytest.mark.process
def test_a_stream_that_was_closed_is_no_fault(home: Path, closed: str) -> None:
    for argv in (["models", "--offline"], ["account", "list", "--json"], ["--help"]):
        done = run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "agm", *argv],
            env=environment(home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.process
def test_with_head_behind_it_nothing_is_said(home: Path) -> None:
    """As the shell does it, with all that Python says at its end."""
    for argv in ("--help", "models --offline --json", "log --help"):
        done = run(
            ["sh", "-c", f'("{sys.executable}" -m agm {argv}; echo $? >&2) | head -n 0'],
            env=environment(home),
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stderr.splitlines()
        assert said[-1] in ("0", "1"), "it may have been done before head was gone"
        assert all(line.startswith("offline:") for line in said[:-1]), said
