"""A dialogue with the emulator without a socket: a request in, the reply's bytes and steps out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.task import Clock

from agm.emulator import control
from agm.emulator.calls import Call
from agm.emulator.replies import Fill, Reply, Send, Wait
from agm.emulator.requestlog import Entry
from agm.emulator.site import answer
from agm.emulator.state import State

KEY = {"x-goog-api-key": "k1"}
TOKEN = {"authorization": "Bearer t1"}
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hello <there>"}]}]}

KINDS = ("api-key", "vertex", "code-assist")


def whole(reply: Reply) -> bytes:
    """The body of a reply, as far as it gets."""
    body = b""
    for step in reply.steps:
        if isinstance(step, Send):
            body += step.data
        elif isinstance(step, Fill):
            body += step.block * step.count
    return body


@attrs.frozen
class Answered:
    """A reply and the log entry of its request."""

    reply: Reply
    entry: Entry

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def body(self) -> bytes:
        return whole(self.reply)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        document = self.json
        return (document[0] if isinstance(document, list) else document)["error"]

    @property
    def reasons(self) -> list[str]:
        if self.status == 200:
            return []
        return [detail["reason"] for detail in self.error.get("details", ()) if "reason" in detail]

    def detail(self, name: str) -> Any:
        """The detail of this type."""
        for detail in self.error["details"]:
            if detail["@type"] == f"type.googleapis.com/google.rpc.{name}":
                return detail
        raise AssertionError(f"no {name} in {self.error}")

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.reply.headers if key.lower() == name.lower()), None)

    @property
    def events(self) -> list[Any]:
        """The documents of a stream of server-sent events, the envelope taken off."""
        documents = [json.loads(event.removeprefix(b"data: ")) for event in self.body.split(b"\r\n\r\n") if event]
        return [document.get("response", document) for document in documents]

    @property
    def text(self) -> str:
        """All that the model said."""
        documents = self.events if self.header("content-type") == "text/event-stream" else self.json
        return text_of(documents if isinstance(documents, list) else [documents])

    @property
    def waits(self) -> list[float]:
        return [step.seconds for step in self.reply.steps if isinstance(step, Wait) and step.seconds]


def text_of(documents: list[Any]) -> str:
    return "".join(
        part.get("text", "")
        for document in documents
        for candidate in document.get("response", document).get("candidates", ())
        for part in candidate["content"].get("parts", ())
        if not part.get("thought")
    )


class Dialogue:
    """An emulator with a clock that stands still at 1,000,000 s."""

    def __init__(self, seed: int = 0) -> None:
        self.reactor = Clock()
        self.reactor.advance(1_000_000)
        self.state = State(self.reactor, seed)

    def ask(
        self,
        method: str,
        target: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        path, _, query = target.partition("?")
        call = Call(
            method=method,
            path=path,
            query=dict(pair.partition("=")[::2] for pair in query.split("&") if pair),
            headers=headers if headers is not None else KEY,
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
        if path.startswith("/_emu"):
            entry = Entry(0, 0.0, 0, method, path, {}, {}, "", 0, b"")
            return Answered(control.reply(call, self.state), entry)
        entry = self.state.log.open(
            time=self.state.clock.now(),
            connection=1,
            method=method,
            path=path,
            query=call.query,
            headers=call.headers,
            body=call.body,
        )
        return Answered(answer(call, self.state, entry), entry)

    def model(
        self,
        kind: str,
        model: str,
        method: str = "generateContent",
        body: Any = None,
        *,
        alt: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """A model call of one of the three kinds."""
        target, body, usual = model_call(kind, model, method, HELLO if body is None else body)
        return self.ask("POST", target + (f"?alt={alt}" if alt else ""), body, usual if headers is None else headers)

    def control(self, path: str, body: Any = None) -> Any:
        """A control call that works."""
        answered = self.ask("GET" if body is None else "POST", f"/_emu/{path}", b"" if body is None else body)
        assert answered.status == 200, answered.body
        return answered.json


def model_call(kind: str, model: str, method: str, body: Any) -> tuple[str, Any, Mapping[str, str]]:
    """Target, body and credential of a model call."""
    if kind == "api-key":
        return f"/v1beta/models/{model}:{method}", body, KEY
    if kind == "vertex":
        return f"/v1/projects/p/locations/global/publishers/google/models/{model}:{method}", body, TOKEN
    if method == "countTokens":
        return "/v1internal:countTokens", {"request": {"model": f"models/{model}", **body}}, TOKEN
    return f"/v1internal:{method}", {"model": model, "project": "p", "request": body}, TOKEN
