"""
The webhooks of ``[[alerts]]``: each is told its alerts once an hour, and again a few times where it does not answer.

Neither a URL nor what a webhook answers is in a log: both may hold a secret.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Coroutine
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from agm import hookimpl
from agm.config import AlertConfig, Config
from agm.core.alerts import Alert

#: Seconds for which what was told is not told again.
REPEAT = 3600.0
#: Seconds before each try after the first one.
PAUSES = (1.0, 5.0, 30.0, 120.0)
#: Seconds for a try, and for those that are in flight at the stop.
PATIENCE = 10.0
#: Alerts on their way to one webhook; what comes when there are so many is logged, and not told.
MAX_WAITING = 50
#: Alerts that are known to have been told; the oldest is forgotten first.
MAX_TOLD = 10_000

log = Logger()


@attrs.define(eq=False)
class _Webhook:
    """One webhook, what it was told and when, and what is on its way to it."""

    config: AlertConfig
    told: OrderedDict[tuple[str, str], float] = attrs.field(factory=OrderedDict)
    sending: dict[Deferred[None], None] = attrs.field(factory=dict)

    def knows(self, alert: Alert, now: float) -> bool:
        """Return whether it was told so within the hour; from now on it was."""
        key = alert.kind, alert.about
        before = self.told.get(key)
        if before is not None and now - before < REPEAT:
            return True
        self.told[key] = now
        self.told.move_to_end(key)
        if len(self.told) > MAX_TOLD:
            self.told.popitem(last=False)
        return False

    def send(self, telling: Coroutine[Any, Any, None]) -> None:
        """Let it be told."""
        sending: Deferred[None] = Deferred.fromCoroutine(telling)
        self.sending[sending] = None
        sending.addBoth(lambda _: self.sending.pop(sending, None))


class Webhooks:
    """The plugin that tells the webhooks of the configuration."""

    def __init__(self) -> None:
        self._gateway: Any = None
        self._webhooks: dict[str, _Webhook] = {}
        self._stopped = False

    @hookimpl(trylast=True)
    def agm_configure(self, config: Config) -> None:
        """Take up the webhooks; one that stays knows what it was told."""
        before, self._webhooks = self._webhooks, {}
        for one in config.alerts:
            if one.url is not None:
                known = before.get(one.name)
                self._webhooks[one.name] = _Webhook(one) if known is None or known.config.url != one.url else known
                self._webhooks[one.name].config = one

    @hookimpl(trylast=True)
    def agm_started(self, gateway: Any) -> None:
        """Keep the gateway, by whose connections they are told."""
        self._gateway = gateway

    @hookimpl(trylast=True)
    def agm_alert(self, alert: Alert) -> None:
        """Tell those that are to hear of it; what was said within the hour is not said again."""
        if self._gateway is None or self._stopped:
            return
        for webhook in self._webhooks.values():
            if alert.kind not in webhook.config.on or webhook.knows(alert, self._gateway.reactor.seconds()):
                continue
            if len(webhook.sending) >= MAX_WAITING:
                log.error("alert: webhook {name} does not keep up, and is not told", name=webhook.config.name)
                continue
            log.info("alert to webhook {name}: {text}", name=webhook.config.name, text=alert.text)
            webhook.send(self._tell(webhook.config, _payload(webhook.config, alert, self._gateway.wall())))

    @hookimpl(trylast=True)
    def agm_stopping(self) -> Awaitable[None] | None:
        """Wait a little for what is on its way."""
        self._stopped = True
        under_way = [sending for webhook in self._webhooks.values() for sending in webhook.sending]
        return self._finish(under_way) if under_way else None

    async def _finish(self, under_way: list[Deferred[None]]) -> None:
        done = DeferredList(under_way)

        def give_up() -> None:
            for one in under_way:
                one.cancel()

        timer = self._gateway.reactor.callLater(PATIENCE, give_up)
        await done
        if timer.active():
            timer.cancel()

    async def _tell(self, config: AlertConfig, payload: bytes) -> None:
        """Post a payload until it is taken, or may not be, or has been tried often enough."""
        name, why = config.name, ""
        try:
            for pause in (0.0, *PAUSES):
                if pause:
                    if self._stopped:
                        break
                    await deferLater(self._gateway.reactor, pause)
                status, why = await self._post(config, payload)
                if status is not None and status < 300:
                    return
                if status is not None and status not in (408, 425, 429) and status < 500:
                    break
        except CancelledError:
            why = "the gateway stops"
        log.error("alert: webhook {name} was not told: {why}", name=name, why=why)

    async def _post(self, config: AlertConfig, payload: bytes) -> tuple[int | None, str]:
        """Post once; returns the status that came, None for none, and what to say of it."""
        assert config.url is not None
        headers = {"Content-Type": "application/json", "User-Agent": "agm"}
        posting: Deferred[int] = Deferred.fromCoroutine(self._status(config.url.reveal(), headers, payload))
        posting.addTimeout(PATIENCE, self._gateway.reactor)
        try:
            status = await posting
        except CancelledError:
            raise
        except DeferredTimeout:
            return None, f"it did not answer within {PATIENCE:g} seconds"
        except Exception as e:  # whatever treq and its agents raise; the text of it may have the address
            return None, f"it cannot be reached ({type(e).__name__})"
        return status, f"it answered {status}"

    async def _status(self, url: str, headers: dict[str, str], payload: bytes) -> int:
        answer = await self._gateway.http.post(url, data=payload, headers=headers, allow_redirects=False)
        await answer.collect(lambda _: None)
        return int(answer.code)


def _payload(config: AlertConfig, alert: Alert, at: float) -> bytes:
    """Write an alert in a webhook's form."""
    if config.form == "slack":
        text = alert.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return msgspec.json.encode({"text": f"agm: {text}"})
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return msgspec.json.encode(
        {"alert": alert.kind, "about": alert.about, "text": alert.text, "at": when, "details": dict(alert.details)}
    )
