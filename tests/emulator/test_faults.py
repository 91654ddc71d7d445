"""Reading the names of faults, and that the manual lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agm.emulator.faults import FAULTS, STATUSES, Fault, from_model, from_step, happens

MANUAL = Path(__file__).parents[2] / "docs" / "emulator.md"


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("emu-503", Fault("503")),
        ("emu-429-2", Fault("429", 2.0)),
        ("emu-429-once-a-b", Fault("429", None, "a-b")),
        ("emu-429rpm-30", Fault("429rpm", 30.0)),
        ("emu-429rpm-0.5", Fault("429rpm", 0.5)),
        ("emu-429rpm", Fault("429rpm", 56.0)),
        ("emu-429rpm-7-once-n", Fault("429rpm", 7.0, "n")),
        ("emu-429day", Fault("429day")),
        ("emu-drop-0", Fault("drop", 0.0)),
        ("emu-hang", Fault("hang")),
        ("emu-hang-2", Fault("hang", 2.0)),
        ("tunedModels/emu-cut", Fault("cut")),
        ("publishers/google/models/emu-lf", Fault("lf")),
    ],
)
def test_a_models_name_asks_for_a_fault(model: str, fault: Fault) -> None:
    """Name, number and nonce."""
    assert from_model(model) == fault


@pytest.mark.parametrize(
    "model",
    [
        "gemini-2.5-flash",
        "emu-",
        "emu-418",
        "emu-200",
        "emu-nonsense",
        "emu-cut-3",
        "emu-drop-x",
        "emu-drop--1",
        "emu-drop-1e9",
        "emu-latency-9999999999",
        "my-emu-429",
        "emu-429-once-",
    ],
)
def test_any_other_name_is_a_model(model: str) -> None:
    """Unknown faults, and arguments that are none, answer normally."""
    assert from_model(model) is None


def test_a_step_is_a_fault_with_or_without_its_prefix() -> None:
    """Scripts read better without ``emu-``."""
    assert from_step("429-2") == from_step("emu-429-2") == Fault("429", 2.0)


def test_ok_is_no_fault() -> None:
    """A step may be a normal answer."""
    assert from_step("ok") is None


def test_an_unknown_step_is_refused() -> None:
    """A script with a typing error would test nothing."""
    with pytest.raises(ValueError, match="unknown step 'dorp-1'"):
        from_step("dorp-1")


def test_counts_and_statuses() -> None:
    """A fault's number as a count, and its name as a status."""
    assert Fault("drop", 3.0).count == 3
    assert Fault("hang").count == 0
    assert Fault("503").status == 503
    assert Fault("503nodetails").status is None


def test_faults_of_generation_leave_other_methods_alone() -> None:
    """countTokens fails with statuses, not with cut streams."""
    assert not happens(Fault("cut"), generation=False)
    assert happens(Fault("cut"), generation=True)
    assert happens(Fault("429rpm"), generation=False)
    assert happens(Fault("503"), generation=False)


def test_the_manual_has_a_row_for_every_fault_and_no_other() -> None:
    """``docs/emulator.md`` shows the table with each fault's argument and meaning."""
    rows = re.findall(r"^\| `emu-([a-z0-9]+)(?:-([A-Z]+))?` \| (.+?) \| (.+?) \|$", MANUAL.read_text(), re.MULTILINE)
    listed = {name: (argument or None, scope, meaning) for name, argument, scope, meaning in rows}
    statuses = {name for name in listed if name.isdigit()}
    assert {int(name) for name in statuses} == STATUSES
    assert {name: value for name, value in listed.items() if name not in statuses} == {
        name: (kind.argument, kind.scope.value, kind.meaning) for name, kind in FAULTS.items()
    }
