"""The emulator as a service: scenarios by name, the program, and the plugin for the tests of others."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agm.emulator.command import main
from agm.emulator.faults import from_step
from agm.emulator.scenarios import SCENARIOS
from testbed.processes import PATIENCE, environment, get, run
from tests.emulator.dialogue import Dialogue
from tests.helpers.pages import DOCS, blocks

PAGE = DOCS / "emulator-ci.md"


def statuses(emu: Dialogue, count: int, key: str = "k1") -> list[int]:
    return [emu.model("api-key", "m", headers={"x-goog-api-key": key}).status for _ in range(count)]


# Scenarios


def test_each_scenario_is_made_of_faults_that_there_are_and_is_on_the_page() -> None:
    for each in SCENARIOS.values():
        assert [from_step(step) for step in each.steps]
    shown = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", PAGE.read_text().partition("## Scenarios")[2], re.M))
    assert shown == {name: each.meaning for name, each in SCENARIOS.items()}


def test_every_account_follows_a_scenario_from_its_beginning_until_it_ends(emu: Dialogue) -> None:
    assert emu.control("scenario", {"scenario": "overloaded"}) == {"scenario": "overloaded"}
    assert statuses(emu, 4) == [503, 503, 200, 503]
    assert statuses(emu, 2, "another") == [503, 503]
    emu.control("scenario", {"scenario": "recovers"})
    assert statuses(emu, 5) == [503, 503, 503, 200, 200]
    emu.control("scenario", {"scenario": "outage"})
    emu.control("script", {"account": "k1", "steps": ["429"]})
    assert statuses(emu, 2) == [429, 200]  # a script of its own goes before
    assert statuses(emu, 1, "another") == [503]
    emu.control("scenario", {"scenario": None})
    assert statuses(emu, 1, "another") == [200]


def test_a_reset_ends_a_scenario_and_an_unknown_one_is_refused(emu: Dialogue) -> None:
    emu.control("scenario", {"scenario": "outage"})
    emu.control("reset", {})
    assert emu.control("scenario")["scenario"] is None
    assert emu.control("scenario")["scenarios"]["outage"] == SCENARIOS["outage"].meaning
    with pytest.raises(ValueError, match="unknown scenario 'nope'; there are rate-limited, "):
        emu.state.follow("nope")


# The program


@pytest.mark.process
def test_the_program_says_where_it_listens_serves_a_scenario_and_ends_with_status_0(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "agm.emulator", "--port", "0", "--scenario", "outage"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    try:
        assert program.stdout is not None
        url = program.stdout.readline().removeprefix("listening on ").strip()
        assert get(url, "/_emu/health")[0] == 200
        assert json.loads(get(url, "/_emu/scenario")[1])["scenario"] == "outage"
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 0
        assert program.stdout.read() == ""
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize(("option", "value"), [("--port", "x"), ("--port", "70000"), ("--scenario", "nope")])
def test_a_mistake_is_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, value])
    assert ended.value.code == 2
    assert value in capsys.readouterr().err


# The plugin


@pytest.mark.process
@pytest.mark.slow
def test_the_tests_of_the_page_pass_with_the_plugin_and_the_environment_is_as_before(tmp_path: Path) -> None:
    program = next(block.text for block in blocks(PAGE) if block.file == "test_summary.py")
    (tmp_path / "test_summary.py").write_text(program)
    (tmp_path / "test_others.py").write_text(
        "import os\n\ndef test_it_is_there():\n    assert os.environ['GEMINI_API_KEY'] == 'emulator'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run(
        [*command, "-W", "ignore", "--gemini-emulator"], cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.process
def test_without_the_option_no_test_has_an_emulator_that_does_not_ask(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\n\n"
        "def test_without():\n    assert 'GOOGLE_GEMINI_BASE_URL' not in os.environ\n\n"
        "def test_with(gemini_emulator):\n    gemini_emulator.script(['429'])\n    assert gemini_emulator.log == []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run([*command, "-W", "ignore"], cwd=tmp_path, env=environment(tmp_path),
               capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
