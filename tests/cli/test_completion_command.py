"""``agm completion``: what the shells get, and that bash completes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agm.cli import main
from testbed.processes import BIN, PATIENCE, environment

_ASK = """\
source <(agm completion bash)
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
read -ra COMP_WORDS <<< "$1"
case "$1" in *' ') COMP_WORDS+=("");; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete agm
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers for a line."""
    env = environment(folder, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", AGM_CONFIG=str(folder / "agm.toml"))
    done = subprocess.run(
        ["bash", "--norc", "-c", _ASK, "bash", line],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    return sorted(word.strip() for word in done.stdout.splitlines() if word.strip())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("agm sta", ["status"]),
        ("agm account en", ["enable"]),
        ("agm account enable ", ["spare", "work", "--config", "--help", "-h"]),
        ("agm key revoke l", ["laptop"]),
        ("agm explain x --me", ["--method"]),
        ("agm completion ", ["bash", "fish", "zsh", "--help", "-h"]),
    ],
)
@pytest.mark.process
def test_bash_completes_commands_options_and_names(tmp_path: Path, line: str, offered: list[str]) -> None:
    """Names are those of the configuration."""
    (tmp_path / "agm.toml").write_text(
        '[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\n'
        '[[accounts]]\nname = "spare"\nkind = "api-key"\napi_key_env = "NOT_SET"\n'
        f'[[auth.keys]]\nname = "laptop"\nkey_sha256 = "{"0" * 64}"\n'
    )
    assert completed(line, tmp_path) == sorted(offered)


@pytest.mark.process
def test_a_configuration_that_cannot_be_used_completes_no_name_and_says_nothing(tmp_path: Path) -> None:
    """A line that is being typed is no place for an error."""
    (tmp_path / "agm.toml").write_text("not TOML")
    assert completed("agm account enable w", tmp_path) == []
    (tmp_path / "agm.toml").unlink()
    assert completed("agm account enable w", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.process
def test_each_shell_can_read_what_it_gets(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where the shell is there to say so."""
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "agm" in script.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", str(script)], timeout=PATIENCE, check=False).returncode == 0
