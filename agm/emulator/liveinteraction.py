"""
A live interaction: ``interactions/live``, a WebSocket on which events go both ways.

The first event makes an interaction or connects to one; each ``input`` is answered with steps, as a stream of the
Interactions API is.  What is said is kept with the interaction, so that it can be gone on with over another connection,
over HTTP, or by the next interaction.  One that has ended tells everything again to whoever connects to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agm.emulator import answers, credentials, errors, interactions, jsontext, modelcalls, steps
from agm.emulator import stepstream as wire
from agm.emulator.calls import Call, Target
from agm.emulator.errors import Circumstances, GoogleError, Kind
from agm.emulator.faults import Fault
from agm.emulator.holdings import Interaction
from agm.emulator.live import Close, Played, Step, at_once, played, refused, say, token_of
from agm.emulator.replies import Wait
from agm.emulator.requestlog import Entry
from agm.emulator.state import Account, State

_PATH = re.compile(r"/+(?P<version>v1beta|v1alpha|v1)/+interactions/live/?")
_FIELDS = frozenset({"event_type", "model", "previous_interaction_id", "store", "system_instruction", "tools"})
_ENDED = ("completed", "cancelled", "failed", "incomplete")


def handles(call: Call) -> bool:
    """Return whether a path is a live interaction's, and a WebSocket is asked for."""
    return _PATH.fullmatch(call.path) is not None and call.headers.get("upgrade", "").lower() == "websocket"


class LiveInteraction:
    """One connection to a live interaction."""

    interrupted: Mapping[str, Any] | None = None

    def __init__(self, call: Call, state: State, entry: Entry) -> None:
        path = _PATH.fullmatch(call.path)
        assert path is not None, "see handles()"
        self._call, self._state, self._entry, self._version = call, state, entry, path["version"]
        entry.rpc = "LiveInteraction"
        self._made: Interaction | None = None
        self._given: Mapping[str, Any] = {}
        self._fault: Fault | None = None
        self._played = Played()

    @property
    def set_up(self) -> bool:
        """Whether the interaction is made, or connected to."""
        return self._made is not None

    def received(self, payload: bytes) -> Sequence[Step]:
        """Return what follows from a message, which is an event or a list of them."""
        try:
            document = jsontext.read(payload)
            listed = document.get("events", [document]) if isinstance(document, dict) else None
            if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
                raise errors.invalid_argument("A message must be an event, or a list of events.")
            told: list[Step] = []
            for event in listed:
                told += self._on_event(event)
                if told and isinstance(told[-1], Close):
                    break
            return told
        except GoogleError as error:
            return [refused(error)]

    def _on_event(self, event: Mapping[str, Any]) -> list[Step]:
        kind = event.get("event_type")
        if self._made is None:
            if kind not in ("interaction.create", "interaction.connect"):
                raise errors.invalid_argument("The first event must be interaction.create or interaction.connect.")
            return self._create(event) if kind == "interaction.create" else self._connect(event)
        known: Mapping[object, Callable[[Interaction, Mapping[str, Any]], list[Step]]] = {
            "input": self._answer,
            "interaction.complete": self._complete,
            "interaction.cancel": self._cancel,
            "interaction.disconnect": lambda made, event: [Close(1000)],
        }
        if kind not in known:
            error = wire.error_fields(GoogleError(400, f"Event '{kind}' is not supported by this model."))
            return [say({"error": error, "event_type": "error"})]
        return known[kind](self._made, event)

    # How it begins

    def _create(self, event: Mapping[str, Any]) -> list[Step]:
        for unknown in sorted(event.keys() - _FIELDS):
            raise errors.invalid_argument(f"Unknown parameter '{unknown}'.")
        model = str(event.get("model") or "").removeprefix("models/")
        if not model:
            raise errors.invalid_argument("'model' must be specified.")
        account = self._authenticated(model)
        self._entry.model = model
        holdings = self._state.holdings
        about = self._about(model)
        if not account.has_model(model):
            raise errors.model_not_found(about)
        fault = self._fault = self._state.fault_for(account.name, model)
        before = at_once(fault, about)
        if before and not isinstance(before[0], Wait):
            return before
        modelcalls.use_quota(self._state, account, model, about)
        previous, turns = event.get("previous_interaction_id"), []
        if previous:
            turns = [dict(turn) for turn in holdings.interaction(previous, account.name).turns]
        now = self._state.clock.now()
        made = self._made = Interaction(
            name=interactions.name_of(holdings.new_id(self._state.seed, 23)),
            account=account.name,
            named={"model": model},
            given={"previous_interaction_id": previous} if previous else {},
            steps=[],
            usage={},
            ends="completed",
            turns=turns,
            environment="",
            created=now,
            updated=now,
        )
        self._given = event
        if event.get("store", True):
            holdings.interactions[made.name] = made
        return [*before, say({"interaction_id": made.name, "event_type": "interaction.created"})]

    def _connect(self, event: Mapping[str, Any]) -> list[Step]:
        account = self._authenticated("")
        made = self._state.holdings.interaction(str(event.get("id")), account.name)
        token = token_of(self._call)
        if token is not None and token not in made.tokens:
            raise GoogleError(403, "The auth token is for another interaction.")
        self._made = made
        self._entry.model = made.named.get("model", made.named.get("agent"))
        connected = say({"event_type": "interaction.connected"})
        if made.status not in _ENDED:
            return [connected]
        return [connected, *map(say, self._events(made, made.steps, first=0)), self._completed(made), Close(1000)]

    def _about(self, model: str) -> Circumstances:
        target = Target(Kind.API_KEY, self._version, model, "liveInteraction")
        return target.about("12345678", self._state.clock.now())

    def _authenticated(self, model: str) -> Account:
        state, about, token = self._state, self._about(model), token_of(self._call)
        if token is not None:
            holder = next((made for made in state.holdings.interactions.values() if token in made.tokens), None)
            if holder is None:
                raise GoogleError(401, "Token has expired or is invalid")
            account = state.account_named(holder.account)
        else:
            account = credentials.authenticate(self._call, state, about, keys=True)
        self._entry.account = account.name
        credentials.check_standing(self._call, account, about)
        return account

    # What is said

    def _answer(self, made: Interaction, event: Mapping[str, Any]) -> list[Step]:
        if made.status in _ENDED:
            raise errors.invalid_argument(f"The interaction takes no input: its status is {made.status}.")
        try:
            made.turns = [*made.turns, *steps.turns_of(event.get("content"))]
        except (AttributeError, TypeError):
            raise errors.invalid_argument("'content' must be a list of contents.") from None
        name = made.named.get("model") or made.named["agent"]
        request = steps.as_request(self._given, made.turns)
        answer = answers.compose(name, request, seed=self._state.seed, text=wire.text_for(self._fault))
        said = steps.of_answer(answer, answers.digest_of(self._state.seed, name, request))
        events = self._events(made, said, first=len(made.steps))
        made.steps = [*made.steps, *said]
        made.turns = [*made.turns, *steps.said_in(said)]
        made.usage = _added(made.usage, steps.usage_of(answer, said))
        made.updated = self._state.clock.now()
        return played(self._fault, events, self._played)

    def _events(self, made: Interaction, said: Sequence[Mapping[str, Any]], *, first: int) -> list[dict[str, Any]]:
        """Return the events of some steps, of which the first has this index."""
        wanted = max(self._fault.count, 1) if self._fault is not None and self._fault.name == "chunks" else None
        told = steps.events_of({"id": made.name, "steps": said}, wanted=wanted)
        return [{**one, "index": one["index"] + first} for one in told if one["event_type"].startswith("step.")]

    def _complete(self, made: Interaction, event: Mapping[str, Any]) -> list[Step]:
        made.status, made.updated = made.ends, self._state.clock.now()
        return [self._completed(made), Close(1000)]

    def _completed(self, made: Interaction) -> Step:
        told = {"created": interactions.second(made.created), "updated": interactions.second(made.updated)}
        status: dict[str, Any] = {} if made.status == "completed" else {"status": {"code": 1, "message": made.status}}
        return say({**told, **status, "usage": made.usage, "event_type": "interaction.completed"})

    def _cancel(self, made: Interaction, event: Mapping[str, Any]) -> list[Step]:
        made.status, made.updated = "cancelled", self._state.clock.now()
        return [say({"usage": made.usage, "event_type": "interaction.cancelled"}), Close(1000)]


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of two turns: sums, and those by modality of both."""
    summed: dict[str, Any] = dict(one)
    for name, value in other.items():
        if isinstance(value, int):
            summed[name] = one.get(name, 0) + value
            continue
        by = {each["modality"]: each["tokens"] for each in one.get(name, ())}
        for each in value:
            by[each["modality"]] = by.get(each["modality"], 0) + each["tokens"]
        summed[name] = [{"modality": modality, "tokens": count} for modality, count in by.items()]
    return summed
