"""Replays: the pool's rules, a recording each, and what is made of recordings and policies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agm import hookimpl
from agm.cli import main
from agm.config import ConfigError
from agm.diagnose.recording import RecordingError, config_for, read
from agm.diagnose.replay import Replay, Replayed
from testbed.processes import environment, run

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.jsonl"))


def lines(*documents: dict[str, Any]) -> str:
    return "\n".join(json.dumps(document) for document in documents)


def two_accounts(**pool: Any) -> dict[str, Any]:
    """A head with accounts a and b."""
    accounts = [{"name": name, "kind": "api-key"} for name in "ab"]
    return {"recording": 1, "config": {"pool": {"strategy": "priority", **pool}, "accounts": accounts}}


def replayed(
    text: str, *changes: tuple[str, str], path: Path | None = None, plugins: tuple[object, ...] = ()
) -> Replayed:
    recording = read(text)
    return Replay(recording, config_for(recording, path, changes), plugins=plugins, entry_points=False).run()


def accounts_of(found: Replayed) -> list[str]:
    """The accounts of all attempts, in their order."""
    return [event.fields["account"] for event in found.events if event.what == "attempt"]


# -- The rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_is_decided_as_it_was(path: Path) -> None:
    """Each of these recordings shows one rule; what is printed for it is beside it, checked by a person."""
    text = path.read_text(encoding="utf-8")
    found = replayed(text)
    assert found.text() + "\n" == path.with_suffix(".txt").read_text(encoding="utf-8")
    assert replayed(text) == found  # and always the same


def test_no_expectation_is_without_its_recording() -> None:
    assert [path.stem for path in RECORDINGS] == sorted(p.stem for p in RECORDINGS[0].parent.glob("*.txt"))
    assert len(RECORDINGS) >= 8


# -- Policies ----------------------------------------------------------------------------------------

THREE = [{"request": f"r{n}", "at": n, "model": "m"} for n in range(3)]


def test_a_change_makes_another_policy() -> None:
    recording = read(lines(two_accounts(), *({**request, "conversation": "x"} for request in THREE)))
    for strategy, accounts in (("sticky", ["a", "a", "a"]), ('"round-robin"', ["a", "b", "a"])):
        config = config_for(recording, None, [("pool.strategy", strategy)])
        assert accounts_of(Replay(recording, config, entry_points=False).run()) == accounts
    assert config_for(recording, None).pool.strategy == "priority"


def test_a_number_can_be_changed() -> None:
    text = lines(two_accounts(), THREE[0], {"account": "*", "status": 503, "times": 0})
    assert len(accounts_of(replayed(text, ("pool.max_attempts", "1")))) == 1
    assert len(accounts_of(replayed(text))) == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(("pool.strategy", "stick"), "did you mean 'sticky'"), (("pool.atempts", "3"), "did you mean 'max_attempts'")],
)
def test_a_change_is_checked_as_the_file_is(change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        replayed(lines(two_accounts(), *THREE), change)


def test_no_table_can_be_made_of_a_value() -> None:
    with pytest.raises(RecordingError, match=r"pool\.strategy\.x cannot be set"):
        replayed(lines(two_accounts(), *THREE), ("pool.strategy.x", "1"))


def test_no_credential_of_a_configuration_is_looked_for(tmp_path: Path) -> None:
    """Neither files nor variables need be there: a policy can be tried by somebody who has none of the keys."""
    path = tmp_path / "agm.toml"
    path.write_text(
        """
        [pool]
        strategy = "round-robin"
        [[auth.keys]]
        name = "laptop"
        key_env = "NOBODY_SETS_THIS"
        requests_per_minute = 2
        [[accounts]]
        name = "key"
        kind = "api-key"
        api_key_env = "NOR_THIS"
        [[accounts]]
        name = "express"
        kind = "vertex"
        api_key_file = "missing.key"
        [[accounts]]
        name = "project"
        kind = "vertex"
        credentials = "missing.json"
        project = "p"
        [[accounts]]
        name = "team"
        kind = "code-assist"
        credentials = "missing.json"
        """,
        encoding="utf-8",
    )
    found = replayed(lines(*({**THREE[0], "request": f"r{n}"} for n in range(4))), path=path)
    assert accounts_of(found) == ["key", "express", "project", "team"]
    assert found.summary()["served"] == 4
    limited = replayed(lines(*({**request, "key": "laptop"} for request in THREE)), path=path)
    assert limited.summary()["failed"] == 1
    unknown = replayed(lines(*({**request, "key": "other"} for request in THREE)), path=path)
    assert unknown.summary()["served"] == 3


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent", "countTokens"])
@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
def test_every_kind_and_framing_is_answered(kind: str, method: str) -> None:
    head = {"recording": 1, "config": {"accounts": [{"name": "a", "kind": kind, "project": "p"}]}}
    if kind == "api-key":
        del head["config"]["accounts"][0]["project"]  # type: ignore[index]
    text = lines(head, {**THREE[0], "method": method}, {**THREE[1], "method": method}, {"account": "a", "status": 503})
    assert replayed(text).summary()["served"] == 2


def test_plugins_take_part() -> None:
    class Never:
        @hookimpl
        def agm_filter_accounts(self, accounts: Any, request: Any) -> dict[str, str]:
            return {"a": "never"}

    assert accounts_of(replayed(lines(two_accounts(), *THREE), plugins=(Never(),))) == ["b", "b", "b"]


def test_a_request_ends_when_its_answer_has_come_to_its_end() -> None:
    """Its account serves it as long as it lasts."""
    text = lines(
        two_accounts(strategy="least-loaded"),
        THREE[0],
        THREE[1],
        {"account": "*", "status": 200, "lasts": 5, "times": 0},
    )
    ends = [(event.time, event.fields["account"]) for event in replayed(text).events if event.what == "served"]
    assert [time for time, _ in ends] == [5.0, 6.0]
    assert len({account for _, account in ends}) == 2


def test_answers_are_for_their_account_model_time_and_number() -> None:
    text = lines(
        two_accounts(),
        *({"request": f"r{n}", "at": n, "model": model} for n, model in enumerate(["m", "x", "m", "m", "m"])),
        {"account": "b", "status": 400},
        {"account": "*", "status": 499, "model": "x"},
        {"account": "a", "status": 400, "from": 2, "until": 3, "times": 0},
        {"account": "a", "status": 413, "from": 2, "times": 1},
    )
    ends = [event.fields["status"] for event in replayed(text).events if event.what in ("served", "failed")]
    assert ends == [200, 499, 400, 413, 200]


def test_a_recorded_body_is_read_as_an_upstreams_is() -> None:
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Please retry in 7.5s."}}
    found = replayed(lines(two_accounts(), THREE[0], {"account": "a", "status": 429, "body": body}))
    assert next(event.fields["delay"] for event in found.events if event.what == "attempt") == 7.5


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"status": 429, "reason": "DAILY_QUOTA", "delay": 3}, "quota"),
        ({"status": 429, "reason": "QUOTA_IS_ZERO"}, "quota"),
        ({"status": 429, "reason": "QUOTA_EXHAUSTED", "delay": 90}, "quota"),
        ({"status": 429, "reason": "RATE_LIMIT_EXCEEDED", "delay": 9}, "rate"),
        ({"status": 503, "reason": "MODEL_CAPACITY_EXHAUSTED"}, "capacity"),
        ({"status": 403, "reason": "SERVICE_DISABLED"}, "blocked"),
        ({"status": 403, "reason": "API_KEY_LEAKED"}, "locked"),
        ({"status": 400, "reason": "BILLING"}, "blocked"),
        ({"status": 400, "reason": "API_KEY_INVALID"}, "locked"),
        ({"status": 403, "reason": "IAM_PERMISSION_DENIED", "about": "forbidden"}, "forbidden"),
        ({"status": 403, "reason": "IAM_PERMISSION_DENIED", "about": "blocked"}, "blocked"),
        ({"status": 403, "reason": "PERMISSION_DENIED", "about": "forbidden"}, "forbidden"),
        ({"status": 403, "reason": "PERMISSION_DENIED", "about": "final"}, "final"),
        ({"status": 403, "reason": "PERMISSION_DENIED", "about": "missing"}, "missing"),
        ({"status": 403, "reason": "PERMISSION_DENIED", "about": "unclear"}, "unclear"),
        ({"status": 404, "reason": "NOT_FOUND"}, "no-model"),
        ({"status": 404, "reason": "NOT_FOUND", "about": "final"}, "final"),
        ({"status": 404, "reason": "HTTP_404"}, "endpoint"),
        ({"status": 502, "reason": "HTTP_502"}, "endpoint"),
    ],
)
def test_an_error_that_is_made_of_a_reason_means_what_the_reason_says(answer: dict[str, Any], fault: str) -> None:
    """So that what was recorded as a reason comes out as the same reason."""
    found = replayed(lines(two_accounts(), THREE[0], {"account": "a", **answer}))
    first = next(event.fields for event in found.events if event.what == "attempt")
    assert (first["status"], first["reason"], first["fault"]) == (answer["status"], answer["reason"], fault)


def test_a_token_that_cannot_be_had_sends_the_request_elsewhere() -> None:
    found = replayed(lines(two_accounts(), THREE[0], {"account": "a", "fault": "token"}))
    assert accounts_of(found) == ["a", "b"]


# -- Recordings that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no request in it"),
        ("# nothing\n\n{", "line 3: "),
        ("[]", "line 1: expected an object"),
        ("{}", "line 1: it is neither"),
        ('{"request": "r", "model": "m", "modle": 1}', "line 1: .*modle"),
        ('{"request": "r", "model": "m"}\n{"request": "r", "model": "m"}', "line 2: request 'r' is there already"),
        ('{"request": "r", "model": "m"}\n{"recording": 1}', "line 2: the head must come first"),
        ('{"recording": 2}', "line 1: "),
        ('{"recording": 1, "starts": "2026-01-15T12:00:00"}', "line 1: starts needs a zone"),
        ('{"request": "r", "model": "m", "method": "guess"}', "line 1: there is no method 'guess'"),
        ('{"request": "r", "model": "m", "at": -1}', "line 1: at -1.0 is no time"),
        ('{"account": "a"}', "line 1: an answer has a status, or a fault"),
        ('{"account": "a", "status": 429, "fault": "429"}', "line 1: an answer has a status, or a fault"),
        ('{"account": "a", "status": 99}', "line 1: 99 is no status"),
        ('{"account": "a", "status": 200, "latency": -1}', "line 1: no number"),
        ('{"account": "a", "fault": "drip-3"}', "line 1: 'drip-3' is no fault that can be replayed"),
        ('{"account": "a", "fault": "bogus"}', "line 1: unknown step 'bogus'"),
    ],
)
def test_what_is_wrong_with_a_recording_is_told_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(RecordingError, match=complaint):
        read(text)


def test_a_recording_without_a_configuration_needs_one() -> None:
    with pytest.raises(RecordingError, match="name one with --config"):
        replayed(lines(*THREE))


# -- The command -------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.jsonl"
    path.write_text(lines(two_accounts(), *THREE, {"account": "a", "fault": "429day"}), encoding="utf-8")
    return path


@pytest.mark.process
def test_the_command_prints_what_was_decided(recording: Path, tmp_path: Path) -> None:
    """Through the real process; nothing of the person's own configuration is needed."""
    done = run(
        [sys.executable, "-m", "agm", "replay", str(recording), "--set", "pool.max_attempts=2"],
        capture_output=True,
        env=environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == replayed(recording.read_text(), ("pool.max_attempts", "2")).text() + "\n"


def test_the_command_prints_json(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["served"] == 3
    assert [event["what"] for event in found["events"]][:3] == ["asks", "attempt", "rests"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.jsonl"], "missing.jsonl cannot be read"),
        (["{recording}", "--set", "pool.strategy"], "write KEY=VALUE"),
        (["{recording}", "--set", "pool.strategy=x"], "pool.strategy: 'x' is not one of"),
        (["{recording}", "--config", "missing.toml"], "missing.toml: cannot be read"),
        (["{recording}", "--set", 'plugins.load=["missing_plugin"]'], "missing_plugin"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(
    arguments: list[str], complaint: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *(argument.format(recording=recording) for argument in arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert complaint in printed.err
    assert "Traceback" not in printed.err


def test_the_example_in_the_documentation_is_true() -> None:
    """What docs/replay.md shows is what its recording gives."""
    text = (Path(__file__).parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")
    text = text[text.index("## A recording") :]
    shown = text.split("```console\n")[1].split("```")[0].partition("\n")[2]
    recorded = text.split("```json\n")[1].split("```")[0]
    assert replayed(recorded).text() + "\n" == shown
