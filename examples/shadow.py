"""
Ask another model what some requests have asked, and compare: the client waits for nothing and notices nothing.

Copy this file into the folder of ``[plugins] path``::

    [plugins]
    timeout = 120                     # seconds that the other model may take

    [plugins.shadow]
    model = "gemini-3-flash"          # without one, the plugin does nothing
    percent = 5.0

The log has a line for each: how alike the answers are.  How long each took is in the request log.
"""

from __future__ import annotations

import difflib
import json
from typing import Any

import msgspec
from twisted.logger import Logger

from agm.api import Config, Gateway, GatewayRequest, KeepAnswer, RequestRecord, hookimpl

log = Logger("shadow")


class State:
    gateway: Gateway
    model = ""
    percent = 0.0


@hookimpl
def agm_settings() -> dict[str, type[msgspec.Struct]]:
    return {"shadow": msgspec.defstruct("Settings", [("model", str, ""), ("percent", float, 5.0)])}


@hookimpl
def agm_configure(config: Config) -> None:
    table = config.plugins.tables.get("shadow", {})
    State.model, State.percent = table.get("model", ""), table.get("percent", 5.0)


@hookimpl
def agm_started(gateway: Gateway) -> None:
    State.gateway = gateway


@hookimpl
def agm_answer_request(request: GatewayRequest) -> KeepAnswer | None:
    """Keep the answers of some; with the other model's own there is nothing to compare."""
    compared = request.method == "generateContent" and request.model != State.model != ""
    return KeepAnswer() if compared and int(request.id, 16) % 10_000 < State.percent * 100 else None


@hookimpl
async def agm_request_finished(record: RequestRecord) -> None:
    if record.answer is not None and record.status == 200:
        answer = await State.gateway.call(State.model, record.request.body.raw)
        ours, others = text_of(json.loads(record.answer)), text_of(await answer.json())
        alike = difflib.SequenceMatcher(None, ours[:2000], others[:2000]).ratio()
        told = {"id": record.request.id, "model": State.model, "status": answer.status, "alike": alike}
        log.info("{id}: {model} answers {status}, {alike:.0%} alike", **told)


def text_of(document: dict[str, Any]) -> str:
    candidates = document.get("candidates") or [{}]
    return "".join(part.get("text", "") for part in candidates[0].get("content", {}).get("parts", ()))
