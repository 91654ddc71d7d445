"""The collections beside interactions: what each keeps, for whom, and which secrets it shows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.emulator.dialogue import KEY, Answered, Dialogue

OTHER = {"x-goog-api-key": "other"}
#: A creation of each collection, and whether what it makes can be changed.
MADE: dict[str, tuple[dict[str, Any], bool]] = {
    "agents": ({"id": "my-agent", "base_agent": "antigravity", "system_instruction": "be kind"}, False),
    "triggers": ({"schedule": "0 0 * * *", "time_zone": "UTC", "interaction": {"agent": "a", "input": "x"}}, True),
    "environments": ({"sources": [{"type": "inline", "content": "x", "target": "a.py"}]}, False),
    "credentials": ({"type": "bearer_token", "token": "canary-token"}, True),
    "voices": ({"voice": {"type": "prompted", "prompted": {"input": "warm"}}}, False),
    "webhooks": ({"uri": "https://example.com/hook", "subscribed_events": ["interaction.completed"]}, True),
}


def make(emu: Dialogue, collection: str, headers: Any = KEY, **more: Any) -> Answered:
    return emu.ask("POST", f"/v1beta/{collection}", {**MADE[collection][0], **more}, headers)


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
@pytest.mark.parametrize("collection", MADE)
def test_one_is_made_listed_looked_at_and_deleted(emu: Dialogue, collection: str, version: str) -> None:
    made = emu.ask("POST", f"/{version}/{collection}", MADE[collection][0]).json
    path = f"/{version}/{collection}/{made['id']}"
    assert emu.ask("GET", path).json["id"] == made["id"]
    assert made["id"] in [one["id"] for one in emu.ask("GET", f"/{version}/{collection}").json[collection]]
    assert [emu.ask(method, path, headers=OTHER).status for method in ("GET", "DELETE")] == [404, 404]
    assert made["id"] not in str(emu.ask("GET", f"/{version}/{collection}", headers=OTHER).json)
    changed = emu.ask("PATCH", path, {"display_name": "x"}).status
    assert changed == (200 if MADE[collection][1] else 404)
    assert emu.ask("DELETE", path).json == {}
    assert emu.ask("GET", path).error == {"message": f"{collection[:-1].capitalize()} not found.", "code": "not_found"}


@pytest.mark.parametrize("collection", MADE)
def test_a_list_has_pages(emu: Dialogue, collection: str) -> None:
    names = [make(emu, collection, **({"id": f"n{n}"} if collection == "agents" else {})).json["id"] for n in range(3)]
    first = emu.ask("GET", f"/v1/{collection}?page_size=2").json
    second = emu.ask("GET", f"/v1/{collection}?page_size=2&page_token={first['next_page_token']}").json
    assert [one["id"] for one in (*first[collection], *second[collection])][:3] == names
    assert emu.ask("GET", f"/v1/{collection}?page_size=x").error["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("collection", "message"),
    [
        *((name, {}) for name in ("triggers", "credentials", "voices", "webhooks", "decisions")),
        ("agents", {"id": "a b"}),
        ("agents", []),
    ],
)
def test_what_lacks_something_is_refused(emu: Dialogue, collection: str, message: Any) -> None:
    assert emu.ask("POST", f"/v1beta/{collection}", message).error["code"] == "invalid_request"


def test_names_are_taken_once_and_agents_belong_to_somebody(emu: Dialogue) -> None:
    assert [make(emu, "agents").status for _ in range(2)] == [200, 409]
    asked = {"agent": "my-agent", "input": "hi"}
    assert emu.ask("POST", "/v1beta/interactions", asked).json["agent"] == "my-agent"
    assert emu.ask("POST", "/v1beta/interactions", asked, OTHER).status == 404


def test_secrets_are_shown_once_or_never(emu: Dialogue) -> None:
    hook = make(emu, "webhooks").json
    secret, path = hook["new_signing_secret"], f"/v1beta/webhooks/{hook['id']}"
    assert secret.startswith("whsec_")
    assert secret not in str(emu.ask("GET", path).json)
    assert hook["signing_secrets"] == [{"truncated_secret": secret[-4:]}]
    fresh = emu.ask("POST", f"{path}:rotateSigningSecret", {}).json["secret"]
    kept = emu.ask("GET", path).json["signing_secrets"]
    assert [one["truncated_secret"] for one in kept] == [secret[-4:], fresh[-4:]]
    assert emu.ask("POST", f"{path}:ping", {}).json == {}
    assert emu.ask("POST", f"{path}:ping", {}, OTHER).status == 404
    credential = make(emu, "credentials").json
    patched = emu.ask("PATCH", f"/v1beta/credentials/{credential['id']}", {"type": "oauth2", "token": "canary-x"}).json
    assert "canary" not in str([credential, patched])


def test_a_trigger_is_run(emu: Dialogue) -> None:
    path = f"/v1/triggers/{make(emu, 'triggers').json['id']}/executions"
    run = emu.ask("POST", path).json
    assert run["status"] == "in_progress"
    assert [one["id"] for one in emu.ask("GET", path).json["trigger_executions"]] == [run["id"]]


def test_an_environment_is_forked_and_has_files(emu: Dialogue) -> None:
    made = make(emu, "environments").json
    copied = emu.ask("POST", "/v1/environments", {"from_environment": f"environments/{made['id']}"}).json
    assert copied["sources"] == made["sources"]
    path = f"environments/{made['id']}/files/src/main.py"
    start = {**KEY, "x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    began = emu.ask("PUT", f"/upload/v1/{path}", headers={**start, "x-goog-upload-header-content-type": "text/x-py"})
    url = (began.header("x-goog-upload-url") or "").removeprefix("http://127.0.0.1:8046")
    part = {"x-goog-upload-command": "upload", "x-goog-upload-offset": "0"}
    assert emu.ask("POST", url, b"print", part).header("x-goog-upload-status") == "active"
    assert emu.ask("POST", url, b"print", {**part, "x-goog-upload-command": "upload, finalize"}).status == 400
    part = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "5"}
    done = emu.ask("POST", url, b"('x')", part)
    assert done.header("x-goog-upload-status") == "final"
    assert done.json["file"]["size_bytes"] == "10"
    assert emu.ask("GET", f"/v1/{path}?alt=media").body == b"print('x')"
    assert emu.ask("GET", f"/v1/environments/{made['id']}/files?recursive=true").json["files"] == [done.json["file"]]
    assert emu.ask("GET", f"/v1/environments/{made['id']}/files").json["files"] == []
    assert emu.ask("GET", f"/v1/environments/{made['id']}/files/src").json["files"] == [done.json["file"]]
    assert emu.ask("PUT", f"/upload/v1/{path}", headers=start).status == 409
    assert emu.ask("PUT", f"/upload/v1/{path}?overwrite=true", headers=start).status == 200
    assert emu.ask("POST", url, b"", part).status == 404


def test_decisions_are_made(emu: Dialogue) -> None:
    questions = {
        "a": {"type": "noul", "instructions": "is it?"},
        "b": {"type": "choice", "criteria": {"x": "", "y": ""}},
        "c": {"type": "score", "criteria": {"0": "bad", "1": "good"}},
    }
    asked = {"model": "gemini-2.5-flash", "input": "x", "questions": questions}
    answered = emu.ask("POST", "/v1beta/decisions", asked).json
    assert {name: one["type"] for name, one in answered["answers"].items()} == {
        "a": "noul",
        "b": "choice",
        "c": "score",
    }
    assert answered["usage"]["total_tokens"] > 0
    assert emu.ask("POST", "/v1beta/decisions", {**asked, "model": "emu-503"}).error["code"] == "service_unavailable"
    assert emu.ask("POST", "/v1beta/decisions", {**asked, "questions": {"a": {}}}).status == 400


def test_callers_are_refused_as_ever(emu: Dialogue) -> None:
    assert emu.ask("GET", "/v1beta/agents", headers={}).status == 403
    assert emu.ask("GET", "/v1beta/agents", headers={"x-goog-api-key": "invalid"}).reasons == ["API_KEY_INVALID"]
    assert emu.ask("PUT", "/v1beta/agents").status == 404
