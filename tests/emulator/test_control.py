"""Control, and that the manual knows all of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

import agm
from agm.emulator import control
from agm.emulator.requestlog import Entry
from tests.emulator.dialogue import Dialogue

MANUAL = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()


def test_health(emu: Dialogue) -> None:
    """Who is there."""
    assert emu.control("health") == {"status": "ok", "version": agm.__version__}


def test_reset(emu: Dialogue) -> None:
    """Nothing is left."""
    emu.control("accounts", {"name": "a"})
    emu.model("api-key", "m")
    assert emu.ask("POST", "/_emu/reset").json == {}
    assert emu.control("accounts") == {"accounts": []}
    assert emu.control("log") == {"entries": []}


def test_accounts_are_declared_and_shown_without_credentials(emu: Dialogue) -> None:
    """One alone, or several; others appear when they are named."""
    declared = emu.control("accounts", {"name": "a", "credentials": ["secret"], "project": "p"})["accounts"]
    assert declared[0]["credentials"] == 1
    emu.control("accounts", {"accounts": [{"name": "b"}, {"name": "c", "tier": None}]})
    emu.model("api-key", "m", headers={"x-goog-api-key": "secret"})
    emu.model("api-key", "m", headers={"x-goog-api-key": "d"})
    listed = emu.control("accounts")["accounts"]
    assert [(one["name"], one["declared"]) for one in listed] == [("a", True), ("b", True), ("c", True), ("d", False)]
    assert "secret" not in str(listed)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("accounts", {"name": "a", "colour": "red"}, "unknown field `colour`"),
        ("accounts", {"credentials": []}, "missing required field `name`"),
        ("accounts", {"accounts": [{"name": 5}]}, "Expected `str`, got `int`"),
        ("accounts", {"name": "a", "disabled": "BAD_MOOD"}, "disabled 'BAD_MOOD' is none of SERVICE_DISABLED, "),
        ("accounts", {"name": "a", "token_status": 418}, "token_status 418 is none of [400, 401, "),
        ("accounts", b"{", "truncated"),
        ("script", {"account": "a", "steps": ["nonsense"]}, "unknown step 'nonsense'"),
        ("script", {"account": "a"}, "missing required field `steps`"),
        ("clock", {}, "either advance or now"),
        ("clock", {"advance": 1, "now": 1}, "either advance or now"),
    ],
)
def test_mistakes_are_named(emu: Dialogue, path: str, body: Any, said: str) -> None:
    """400, and the reason."""
    answered = emu.ask("POST", f"/_emu/{path}", body)
    assert answered.status == 400
    assert said in answered.error["message"]


def test_unknown_paths_and_methods_are_refused_with_the_known_ones(emu: Dialogue) -> None:
    """So that a typing error is soon found."""
    missing = emu.ask("GET", "/_emu/logs")
    assert (missing.status, "/_emu/log," in missing.error["message"]) == (404, True)
    wrong = emu.ask("PUT", "/_emu/clock")
    assert (wrong.status, wrong.error["message"]) == (405, "/_emu/clock answers GET, POST")


def test_scripts_are_shown_with_what_is_left(emu: Dialogue) -> None:
    """By account."""
    emu.control("accounts", {"name": "a", "credentials": ["k1"]})
    answered = emu.control("script", {"account": "k1", "steps": ["503", "emu-cut", "ok"], "repeat": True})
    assert answered == {"account": "a", "steps": 3, "repeat": True}
    emu.model("api-key", "m")
    assert emu.control("script") == {"scripts": {"a": {"left": 2, "repeat": True}}}


def test_the_log_is_read_in_parts(emu: Dialogue) -> None:
    """Since a number, of an account, with bodies, and cleared."""
    emu.model("api-key", "m")
    emu.model("vertex", "m")
    first, second = emu.control("log")["entries"]
    assert (first["account"], second["account"]) == ("k1", "t1")
    assert emu.control(f"log?since={first['seq']}")["entries"] == [second]
    assert emu.control("log?account=k1")["entries"] == [first]
    assert '"contents"' in emu.control("log?body=1")["entries"][0]["body"]
    assert "body" not in emu.control("log?body=0")["entries"][0]
    assert emu.ask("GET", "/_emu/log?since=x").status == 400
    assert emu.ask("DELETE", "/_emu/log").status == 200
    assert emu.control("log") == {"entries": []}


def test_the_clock_is_shown_moved_and_set(emu: Dialogue) -> None:
    """In seconds."""
    assert emu.control("clock") == {"now": 1_000_000.0}
    assert emu.control("clock", {"advance": 2.5}) == {"now": 1_000_002.5}
    assert emu.control("clock", {"now": 7}) == {"now": 7.0}


def test_the_manual_lists_every_control_call() -> None:
    """Path and method."""
    listed = set(re.findall(r"^\| `(GET|POST|DELETE) /_emu/([a-z]+)` \|", MANUAL, re.MULTILINE))
    assert listed == {(method, path) for path, methods in control._ROUTES.items() for method in methods}
    for method, path in listed:
        assert f"``{method} /_emu/{path}``" in (control.__doc__ or "")


def test_the_manual_lists_every_key_of_accounts_and_entries() -> None:
    """In their tables."""
    rows = [set(re.findall(r"`([a-z_0-9]+)`", row)) for row in re.findall(r"^\| (`[^|]+) \|", MANUAL, re.MULTILINE)]
    keys = set().union(*rows)
    assert {field.name for field in msgspec.structs.fields(control.AccountForm)} <= keys
    assert {field.name for field in attrs.fields(Entry)} <= keys
