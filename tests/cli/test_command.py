"""The ``agm`` command itself: what it prints without a subcommand, how it ends, that it starts quickly."""

import subprocess
import sys

import pytest

from agm import __version__
from agm.cli import main
from testbed.processes import run


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What a fresh Python, with nothing imported yet, makes of ``arguments``."""
    return run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


GOOGLE_KEY = "AIzaSyCanary-0123456789_abcdefghijklmnop"


@pytest.mark.parametrize(
    "argv",
    [
        [GOOGLE_KEY],
        ["account", "add", GOOGLE_KEY, "--kind", GOOGLE_KEY],
        ["key", "create", "x", "--requests-per-minute", GOOGLE_KEY],
        ["models", GOOGLE_KEY],
        ["config", "check", "--config", GOOGLE_KEY],
        ["replay", GOOGLE_KEY],
        ["doctor", f"--api-key={GOOGLE_KEY}"],
        ["status", "--url", f"http://me:{GOOGLE_KEY}@h"],
    ],
)
def test_a_key_that_was_typed_in_a_wrong_place_is_not_repeated(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell's history is bad enough; a log of a script's errors would be worse."""
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(argv))
    assert ended.value.code in (1, 2)
    output = capsys.readouterr()
    assert output.err
    assert GOOGLE_KEY not in output.out + output.err


@pytest.mark.process
def test_what_should_not_happen_tells_no_secret_either() -> None:
    """A traceback has the text of an exception in it."""
    script = (
        "import sys; from agm import cli; from agm.cli import models\n"
        f"def run(args): raise RuntimeError('with {GOOGLE_KEY}')\n"
        "models.run = run\n"
        "sys.exit(cli.main(['models']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "RuntimeError: with [redacted]" in ended.stderr
    assert GOOGLE_KEY not in ended.stderr


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug report can name it."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"agm {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["config"], ["confg"], ["config", "check", "stray"]])
def test_what_is_no_command_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as argparse has it, and a usage line on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("usage: agm")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["statsu"], "agm: error: there is no command statsu; did you mean agm status?"),
        (["Accounts"], "agm: error: there is no command Accounts; did you mean agm account?"),
        (["account", "lsit"], "agm account: error: there is no command lsit; did you mean agm account list?"),
        (["xyz"], "agm: error: there is no command xyz; agm --help lists the commands"),
        (["AIzaSyD-a-key-that-was-pasted"], "agm: error: there is no command of this name; agm --help lists the"),
    ],
)
def test_a_command_that_does_not_exist_brings_up_the_nearest(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may be a key is not repeated."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_interrupted_command_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the status that a shell gives for it."""

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("agm.cli.config.find", interrupted)
    assert main(["config", "path"]) == 130
    assert capsys.readouterr() == ("", "")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A person finds the subcommand from the help alone."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "config" in capsys.readouterr().out


@pytest.mark.process
def test_python_m_agm_is_the_same_command() -> None:
    """Where the script is not on the path, the module is."""
    ran = run_python("-m", "agm", "--version")
    assert (ran.returncode, ran.stdout) == (0, f"agm {__version__}\n")
    ran = run_python("-m", "agm", "config", "check", "--config", "/nowhere/agm.toml")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "/nowhere/agm.toml: cannot be read: No such file or directory (--config names it)\n"


@pytest.mark.process
def test_importing_the_module_for_running_runs_nothing() -> None:
    """Tools that walk a package import ``agm.__main__`` too."""
    ran = run_python("-c", "import agm.__main__")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.process
def test_the_command_imports_neither_twisted_nor_google() -> None:
    """They take most of a second, which every subcommand would pay."""
    slow = {"twisted", "treq", "google.auth", "cryptography", "rich", "argcomplete"}
    check = f"import sys, agm.cli; print(sorted({slow!r} & set(sys.modules)))"
    assert run_python("-c", check).stdout == "[]\n"
