"""
Ask a second time where the first answer is slow to begin, and take the one that comes first; the other is cancelled.

Copy this file into the folder of ``[plugins] path``::

    [plugins]
    timeout = 120                     # seconds that both may take: an answer that is no stream comes as a whole

    [plugins.hedge]
    models = ["gemini-2.5-flash*"]    # without any, the plugin does nothing
    after = 1.5                       # seconds until the second call

Both calls cost tokens; the pool gives them different accounts where it can.
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred, FailureGroup, race
from twisted.internet.task import deferLater

from agm.api import Answer, Config, Framing, Gateway, GatewayRequest, Patterns, hookimpl


class Settings(msgspec.Struct):
    models: list[str] = []
    after: float = 1.5


class State:
    settings = Settings()
    gateway: Gateway


@hookimpl
def agm_settings() -> dict[str, type[msgspec.Struct]]:
    return {"hedge": Settings}


@hookimpl
def agm_configure(config: Config) -> None:
    State.settings = config.plugins.read("hedge", Settings)


@hookimpl
def agm_started(gateway: Gateway) -> None:
    State.gateway = gateway


@hookimpl
async def agm_answer_request(request: GatewayRequest) -> Answer | None:
    """Race two calls; what a plugin calls for a request comes here no second time."""
    if request.explaining or request.framing is Framing.ARRAY or request.model not in Patterns(State.settings.models):
        return None
    from twisted.internet import reactor  # once it is there: what imports it first chooses it

    def call(_: Any = None) -> Deferred[Answer]:
        made = State.gateway.call(
            request.model, request.body.raw, method=request.method, version=request.version, parent=request
        )
        return Deferred.fromCoroutine(made)

    second = deferLater(reactor, State.settings.after).addCallback(call)
    try:
        _, answer = await race([call(), second])
    except FailureGroup as both:
        both.failures[0].raiseException()
    return answer
