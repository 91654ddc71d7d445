"""What the emulator remembers, and who a credential is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from agm.emulator.faults import Fault
from agm.emulator.requestlog import MOST_BODY, RequestLog, fingerprint, shown_header, shown_parameter
from agm.emulator.state import Account, Quotas, State


@pytest.fixture
def state() -> State:
    return State(Clock())


def test_the_clock_is_the_reactors_and_an_offset() -> None:
    """Control can move it either way, and reset it."""
    reactor = Clock()
    state = State(reactor)
    reactor.advance(10)
    state.clock.advance(5)
    assert state.clock.now() == 15
    state.clock.set(1_000)
    reactor.advance(1)
    assert state.clock.now() == 1_001
    state.clock.reset()
    assert state.clock.now() == 11


@pytest.mark.parametrize(
    ("credential", "name"),
    [
        ("alice", "alice"),
        ("alice@example.com", "alice@example.com"),
        ("a key/with spaces", "a_key_with_spaces"),
        ("ya29.emu-alice-3", "alice"),
        ("1//emu-alice-3", "alice"),
        ("AIzaSyExample", "hashed-" + fingerprint("AIzaSyExample")[7:]),
        ("ya29.a0Example", "hashed-" + fingerprint("ya29.a0Example")[7:]),
        ("x" * 81, "hashed-" + fingerprint("x" * 81)[7:]),
    ],
)
def test_a_credential_names_its_account(state: State, credential: str, name: str) -> None:
    """But what may be a real one is hashed."""
    assert state.account_of(credential).name == name


def test_a_declared_account_has_its_credentials(state: State) -> None:
    """Until it is declared again."""
    state.declare(Account("work", frozenset({"k1", "k2"})))
    assert state.account_of("k1") is state.account_of("k2") is state.account_named("work")
    assert state.is_declared("k1")
    state.declare(Account("work", frozenset({"k3"})))
    assert state.account_of("k1").name == "k1"
    assert state.account_of("k3").name == "work"


def test_a_script_goes_before_the_models_name(state: State) -> None:
    """One step a call, then as always."""
    assert state.script("k", ["429-2", "ok", "cut"]) == "k"
    assert [state.fault_for("k", "emu-503") for _ in range(4)] == [
        Fault("429", 2.0),
        Fault("503"),
        Fault("cut"),
        Fault("503"),
    ]


def test_a_script_can_be_named_by_a_credential_and_repeat_and_end(state: State) -> None:
    """An account's name goes first."""
    state.declare(Account("work", frozenset({"k1"})))
    assert state.script("k1", ["503", "ok"], repeat=True) == "work"
    assert [state.fault_for("work", "m") for _ in range(4)] == [Fault("503"), None] * 2
    state.script("work", [])
    state.script("work", [])
    assert state.fault_for("work", "m") is None


def test_quotas_are_counted_for_each_model_and_come_back(state: State) -> None:
    """Per minute and per day."""
    account = Account("a", quotas=Quotas(requests_per_minute=2, requests_per_day=3))
    assert [state.quota_left(account, "m") for _ in range(2)] == [None, None]
    assert state.quota_left(account, "m") == ("Minute", 2, 60.0)
    assert state.quota_left(account, "other") is None
    state.clock.advance(59)
    assert state.quota_left(account, "m") == ("Minute", 2, 1.0)
    state.clock.advance(1)
    assert state.quota_left(account, "m") is None
    assert state.quota_left(account, "m") == ("Day", 3, 86_340.0)
    assert state.quota_used("a") == {"m": 3, "other": 1}


def test_a_quota_of_nothing(state: State) -> None:
    """``limit: 0`` is a quota, too."""
    assert state.quota_left(Account("a", quotas=Quotas(requests_per_day=0)), "m") == ("Day", 0, 86_400.0)


def test_tokens_end_on_the_emulators_clock(state: State) -> None:
    """Or when they are revoked; a refresh token takes its account's along."""
    account = state.account_of("alice")
    first, second = state.issue(account), state.issue(account)
    assert (first, second) == ("ya29.emu-alice-1", "ya29.emu-alice-2")
    assert not state.expired(first)
    state.revoke(first)
    assert state.expired(first)
    assert not state.expired(second)
    state.revoke(state.issue_refresh_token(account))
    assert state.expired(second)
    third = state.issue(account)
    state.clock.advance(3_600)
    assert state.expired(third)


def test_reset_forgets_everything_but_connection_numbers(state: State) -> None:
    """A test starts from nothing."""
    state.declare(Account("work", frozenset({"k1"})))
    state.script("work", ["503"])
    state.issue(state.account_of("k1"))
    state.fault_for("x", "emu-503-once-a")
    state.next_connection()
    state.clock.advance(5)
    state.reset()
    assert (state.accounts, state.scripts, state.grants, state.clock.now()) == ({}, {}, {}, 0)
    assert state.fault_for("x", "emu-503-once-a") is not None
    assert state.account_of("k1").name == "k1"
    assert state.next_connection() == 2


# -- the log


def opened(log: RequestLog, **changes: Any) -> Any:
    given = {
        "time": 1.0,
        "connection": 1,
        "method": "POST",
        "path": "/x",
        "query": {"key": "secret", "alt": "sse"},
        "headers": {"x-goog-api-key": "secret", "authorization": "Bearer secret", "accept": "*/*"},
        "body": b"body",
    }
    return log.open(**{**given, **changes})


def test_no_credential_is_in_an_entry() -> None:
    """Only its hash, the same wherever it was."""
    entry = opened(RequestLog()).document()
    shown = fingerprint("secret")
    assert "secret" not in json.dumps(entry)
    assert entry["query"] == {"key": shown, "alt": "sse"}
    assert entry["headers"] == {"x-goog-api-key": shown, "authorization": f"Bearer {shown}", "accept": "*/*"}
    assert shown_header("authorization", "secret") == shown
    assert shown_header("cookie", "a=b c") == fingerprint("a=b c")
    assert shown_parameter("upload_id", "secret") == shown
    assert shown_parameter("refresh_token", "secret") == shown
    assert shown_header("referer", "http://x/?a=1&key=secret#b") == f"http://x/?a=1&key={shown}#b"


def test_a_body_is_hashed_and_kept_in_part() -> None:
    """And shown on request."""
    entry = opened(RequestLog(), body=b"x" * (MOST_BODY + 5))
    assert entry.body_length == MOST_BODY + 5
    assert len(entry.document(with_body=True)["body"]) == MOST_BODY
    assert "body" not in entry.document()


def test_the_log_is_bounded_and_can_be_asked_for_a_part() -> None:
    """The oldest go first; numbers go on."""
    log = RequestLog(limit=3)
    for index in range(5):
        opened(log).account = "a" if index % 2 else "b"
    assert [entry.seq for entry in log.entries()] == [3, 4, 5]
    assert [entry.seq for entry in log.entries(since=4)] == [5]
    assert [entry.seq for entry in log.entries(account="a")] == [4]
    log.clear()
    assert log.entries() == []
    assert opened(log).seq == 6


def test_a_form_is_shown_without_its_secrets_and_other_bodies_as_they_are() -> None:
    """A question for a token is a form."""
    form = b"grant_type=refresh_token&refresh_token=secret&client_secret=s%2Fx&client_id=c"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    shown = opened(RequestLog(), body=form, headers=headers).document(with_body=True)["body"]
    assert shown == (
        f"grant_type=refresh_token&refresh_token={fingerprint('secret')}"
        f"&client_secret={fingerprint('s%2Fx')}&client_id=c"
    )
    assert opened(RequestLog(), body=form).document(with_body=True)["body"] == form.decode()
