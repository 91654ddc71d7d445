"""Live interactions of the emulator: what they say to what they are told, and what is kept of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from agm.emulator.calls import Call
from agm.emulator.live import Close
from agm.emulator.liveinteraction import LiveInteraction, handles
from agm.emulator.replies import Cut, Hang, Send, Wait
from agm.emulator.site import answer, unlogged
from agm.emulator.state import State
from tests.emulator.test_live import documented

CREATE = {"event_type": "interaction.create", "model": "gemini-live"}


class Talk:
    """A connection, and what comes of each message."""

    def __init__(self, state: State | None = None, key: str = "alice") -> None:
        self.state = state or State(Clock())
        self.entry = unlogged(0)
        call = Call("GET", "/v1beta/interactions/live", {}, {"x-goog-api-key": key, "upgrade": "websocket"})
        assert handles(call)
        self.session = LiveInteraction(call, self.state, self.entry)

    def steps(self, document: Any) -> list[Any]:
        return list(self.session.received(json.dumps(document).encode()))

    def told(self, document: Any) -> list[dict[str, Any]]:
        """The events that come of a message."""
        return [documented(step) for step in self.steps(document) if isinstance(step, Send)]

    def created(self, **fields: Any) -> str:
        (created,) = self.told({**CREATE, **fields})
        assert created["event_type"] == "interaction.created"
        name: str = created["interaction_id"]
        return name

    def get(self, name: str) -> Any:
        """The interaction as HTTP shows it."""
        call = Call("GET", f"/v1beta/interactions/{name}", {}, {"x-goog-api-key": "alice"})
        reply = answer(call, self.state, unlogged(0))
        return json.loads(b"".join(step.data for step in reply.steps if isinstance(step, Send)))


def said(text: str) -> dict[str, Any]:
    return {"event_type": "input", "content": [{"type": "text", "text": text}]}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_type"] for event in events]


def test_an_input_is_answered_with_steps_whose_indexes_go_on() -> None:
    talk = Talk()
    name = talk.created()
    first, second = talk.told(said("Hello")), talk.told(said("And again"))
    assert kinds(first)[0] == "step.start"
    assert kinds(first)[-1] == "step.stop"
    assert "step.delta" in kinds(first)
    assert second[0]["index"] == first[-1]["index"] + 1
    (completed,) = talk.told({"event_type": "interaction.complete"})
    assert completed["event_type"] == "interaction.completed"
    shown = talk.get(name)
    assert shown["status"] == "completed"
    assert len(shown["steps"]) == second[-1]["index"] + 1
    assert completed["usage"] == shown["usage"]
    assert completed["usage"]["total_tokens"] > completed["usage"]["total_output_tokens"] > 0


def test_several_events_may_come_in_one_message() -> None:
    talk = Talk()
    events = talk.told({"events": [CREATE, said("Hello")]})
    assert kinds(events)[:2] == ["interaction.created", "step.start"]


def test_another_connection_goes_on_and_one_that_ended_is_told_again() -> None:
    talk = Talk()
    name = talk.created()
    talk.told(said("Hello"))
    assert talk.steps({"event_type": "interaction.disconnect"}) == [Close(1000)]
    again = Talk(talk.state)
    assert kinds(again.told({"event_type": "interaction.connect", "id": name})) == ["interaction.connected"]
    steps = again.told(said("What did I say?"))
    again.told({"event_type": "interaction.complete"})
    last = Talk(talk.state).told({"event_type": "interaction.connect", "id": name})
    assert kinds(last)[0] == "interaction.connected"
    assert kinds(last)[-1] == "interaction.completed"
    assert steps[-1] in last
    assert len([one for one in last if one["event_type"] == "step.start"]) == steps[-1]["index"] + 1


def test_a_cancelled_one_takes_no_more() -> None:
    talk = Talk()
    name = talk.created()
    assert kinds(talk.told({"event_type": "interaction.cancel"})) == ["interaction.cancelled"]
    assert talk.get(name)["status"] == "cancelled"
    assert talk.steps(said("Hello"))[0].code == 1007


def test_the_next_interaction_knows_of_it() -> None:
    talk = Talk()
    name = talk.created()
    talk.told(said("Hello"))
    other = Talk(talk.state)
    other.created(previous_interaction_id=name)
    other.told(said("Hello"))
    kept = other.state.holdings.interactions
    assert kept[name].turns == next(made for made in kept.values() if made.name != name).turns[: len(kept[name].turns)]


def test_one_that_is_not_stored_is_not_found() -> None:
    talk = Talk()
    name = talk.created(store=False)
    refused = Talk(talk.state).steps({"event_type": "interaction.connect", "id": name})
    assert refused == [Close(1008, "Interaction not found.")]


def test_a_token_opens_its_own_interaction_only() -> None:
    talk = Talk()
    name, other = talk.created(), Talk(State(Clock())).created()
    del other
    path = f"/v1beta/interactions/{name}/auth_tokens"
    made = answer(Call("POST", path, {}, {"x-goog-api-key": "alice"}, b"{}"), talk.state, unlogged(0))
    token = json.loads(made.steps[0].data)["auth_token"]  # type: ignore[union-attr]
    connect_to = {"event_type": "interaction.connect", "id": name}
    assert kinds(Talk(talk.state, token).told(connect_to)) == ["interaction.connected"]
    second = Talk(talk.state)
    foreign = {"event_type": "interaction.connect", "id": second.created()}
    assert Talk(talk.state, token).steps(foreign)[0].code == 1008
    assert Talk(talk.state, "auth_tokens/none").steps(connect_to)[0].code == 1008


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"event_type": "input"}, 1007),
        ([], 1007),
        ({"events": [1]}, 1007),
        ({"event_type": "interaction.create"}, 1007),
        ({**CREATE, "made_up": 1}, 1007),
        ({"event_type": "interaction.connect", "id": "v1_none"}, 1008),
        ({**CREATE, "model": "emu-429"}, 1011),
        ({**CREATE, "model": "emu-404"}, 1008),
    ],
)
def test_what_is_wrong_at_the_beginning_is_a_close_code(document: Any, code: int) -> None:
    talk = Talk()
    (close,) = talk.steps(document)
    assert close.code == code
    assert not talk.session.set_up


def test_an_event_that_no_model_takes_is_an_error_event_and_the_session_goes_on() -> None:
    talk = Talk()
    talk.created()
    (error,) = talk.told({"event_type": "world_setup"})
    assert error["event_type"] == "error"
    assert error["error"]["code"] == "invalid_request"
    assert talk.told(said("Hello"))


@pytest.mark.parametrize(
    ("model", "last"),
    [("emu-cut", Cut), ("emu-midstream", Close), ("emu-hang-2", Hang), ("emu-slow", Wait), ("emu-wsclose-1012", Close)],
)
def test_faults_are_those_of_a_session(model: str, last: type) -> None:
    talk = Talk()
    talk.created(model=model)
    assert type(talk.steps(said("Hello"))[-1]) is last
