"""The watch over what the test run writes sees what it is for, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_of(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest over one module, with the watch and nothing else of this suite."""
    (folder / "test_it.py").write_text("import sys\nimport pytest\nfrom testbed.processes import run\n" + source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.helpers.canary",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:pytest_cov",
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env = {name: value for name, value in env.items() if not name.startswith(("PYTEST_", "COV", "_COVERAGE"))}
    return subprocess.run(
        [*command, "--rootdir", str(folder), *options, str(folder)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def printing(text: str) -> str:
    return f"run([sys.executable, '-c', 'import sys; sys.stderr.write(sys.argv[1])', {text!r}], capture_output=True)"


LOGGED = "from twisted.logger import Logger; Logger().info('{key}', key='canary-1')"
FOLLOWED = "from testbed.watch import watch; (tmp_path / 'x.log').write_text('canary-1'); watch.follow(tmp_path)"
READ = "print('canary-1'); assert capsys.readouterr().out"


@pytest.mark.parametrize("options", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("line", "found"),
    [
        (printing("canary-1"), "'canary-'"),
        (printing("AIzaSyA-1234567890abcdefghijklmnopqrstu"), "'AIzaSyA-"),
        (printing("Traceback (most recent call last)"), "'Traceback (most recent call last)'"),
        (LOGGED, "'canary-'"),
        (FOLLOWED, "'canary-'"),
        (READ, "'canary-'"),
        ("print('canary-1')", "'canary-'"),
    ],
    ids=[
        "a secret",
        "a key of Google's",
        "a traceback",
        "in the log",
        "in a file",
        "read by the test",
        "read by nobody",
    ],
)
@pytest.mark.process
def test_what_gets_out_fails_a_run_whose_tests_all_pass(
    tmp_path: Path, line: str, found: str, options: tuple[str, ...]
) -> None:
    done = run_of(tmp_path, f"def test_a(tmp_path, capsys):\n    {line}\n", *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert found in done.stdout
    assert "test_it.py::test_a" in done.stdout


@pytest.mark.process
def test_a_run_that_tells_nothing_passes_and_says_how_much_was_looked_at(tmp_path: Path) -> None:
    announced = (
        f"@pytest.mark.expects_logged_failures\ndef test_b():\n    {printing('Traceback (most recent call last)')}\n"
    )
    done = run_of(tmp_path, f"def test_a():\n    {printing('nothing')}\n\n\n{announced}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no secret and no unexpected error in 4 outputs" in done.stdout


@pytest.mark.process
def test_a_secret_is_none_that_can_be_announced(tmp_path: Path) -> None:
    done = run_of(tmp_path, f"@pytest.mark.expects_logged_failures\ndef test_a():\n    {printing('canary-1')}\n")
    assert done.returncode == 1
