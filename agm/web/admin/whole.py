"""
The documents of ``/_agm`` for a gateway of several workers: those of all of them, put together.

What is counted is added up, what is under way is listed together, and what all have alike is told once.  ``workers``
says how many answered, and which.  With ``?worker=N`` the document of one is told as it is.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agm import __version__
from agm.core.errors import InvalidRequest, NotFound
from agm.observe.activity import FINISHED, SHOWN_OPEN
from agm.observe.peers import Answer, added
from agm.persist.pool_state import digest_of
from agm.serving.gateway import Gateway
from agm.web.admin.describe import describe_accounts, describe_status
from agm.web.admin.request_log import describe_log, keep_bodies

__all__ = ["accounts_of_all", "answering", "describe_cluster", "describe_worker", "put_together", "status_of_all"]

#: Fields of totals and of client keys that are added up.
_KEY_COUNTS = ("requests", "errors", "prompt_tokens", "output_tokens")
_ACCOUNT_COUNTS = ("in_flight", "sessions", "attempts", "failed")


def answering(gateway: Gateway) -> Mapping[str, Callable[[Any], object]]:
    """Return what a worker answers the others."""
    return {
        "status": lambda _: describe_status(gateway),
        "metrics": lambda _: gateway.metrics.tell(),
        "worker": lambda _: describe_worker(gateway),
        "accounts": lambda _: describe_accounts(gateway),
        "log": lambda _: describe_log(gateway),
        "bodies": lambda seconds: keep_bodies(gateway, seconds),
        "reload": lambda _: _reload(gateway),
        "reset": lambda asked: gateway.pool.reset(asked["account"], asked["model"]),
    }


def _reload(gateway: Gateway) -> None:
    """Begin to read the configuration, which another worker has changed."""
    if gateway.reload_file is not None:
        gateway.reload_file()


def describe_worker(gateway: Gateway) -> dict[str, Any]:
    """Describe the process itself: where it runs, and from what."""
    live = gateway.live
    return {
        "worker": 1 if gateway.peers is None else gateway.peers.number,
        "pid": os.getpid(),
        "version": __version__,
        "started": round(live.started, 3),
        "uptime": round(live.uptime, 3),
        "configuration": _digest(gateway),
        "accounts": len(gateway.pool),
        "open": live.totals()["open"],
        "requests": live.ended,
    }


def _digest(gateway: Gateway) -> str:
    """Tell one configuration from another; nothing can be read from it."""
    config = gateway.config
    parts = [digest_of(getattr(config, it)) for it in ("gateway", "timeouts", "limits", "pool", "models", "plugins")]
    parts += [digest_of(account) for account in config.accounts]
    parts += [f"{key.name} {key.digest}" for key in config.auth.keys]
    return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=6).hexdigest()


async def status_of_all(gateway: Gateway, worker: str | None = None) -> dict[str, Any]:
    """
    Describe the gateway: all of its workers together.

    :param worker: the number of one that is to be described alone, as a query has it.
    :raises InvalidRequest: if that is no number.
    :raises NotFound: if there is no such worker, or it does not answer.
    """
    number = _number(worker)
    if gateway.peers is None:
        if number not in (None, 1):
            raise NotFound("The gateway is one process: it has no other worker.")
        return describe_status(gateway)
    answers, running = await gateway.peers.ask("status")
    if number is not None:
        answers = [answer for answer in answers if answer.worker == number]
        if not answers:
            raise NotFound(f"There is no worker {number}, or it does not answer; GET /_agm/cluster lists them.")
    document = put_together(answers)
    document["workers"] = {
        "configured": gateway.peers.count,
        "running": running,
        "heard": len(answers),
        "alone": number,
        "told": [
            {"worker": it.worker, "pid": it.document["gateway"]["pid"], **_brief(it.document["totals"])}
            for it in sorted(answers, key=lambda it: it.worker)
        ],
    }
    return document


def _brief(totals: Mapping[str, Any]) -> dict[str, Any]:
    return {name: totals[name] for name in ("requests", "open", "streams")}


def _number(worker: str | None) -> int | None:
    if worker is None:
        return None
    if not worker.isascii() or not worker.isdecimal() or len(worker) > 6:
        raise InvalidRequest("worker is the number of one: a whole number from 1 on.")
    return int(worker)


def put_together(answers: Sequence[Answer]) -> dict[str, Any]:
    """Put the documents of workers together; of what all have alike the first one's counts."""
    documents = [answer.document for answer in answers]
    first = documents[0]
    if len(documents) == 1:
        return dict(first)
    return {
        **first,
        "uptime": max(it["uptime"] for it in documents),
        "totals": added([it["totals"] for it in documents], *first["totals"]),
        "traffic": _traffic([it["traffic"] for it in documents]),
        "open": _latest([it["open"] for it in documents], "at", SHOWN_OPEN),
        "requests": _latest([it["requests"] for it in documents], "at", FINISHED),
        "gateway": {**first["gateway"], "started": min(it["gateway"]["started"] for it in documents)},
        "accounts": [_account(it["name"], documents, *_ACCOUNT_COUNTS) for it in first["accounts"]],
        "keys": _keys(documents),
        "plugins": _plugins([it["plugins"] for it in documents]),
    }


def _traffic(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by second; the last one of each is the second that is now."""
    length = max(len(it["requests"]) for it in every)
    summed: dict[str, Any] = {"second": every[0]["second"]}
    for name in every[0]:
        if name != "second":
            columns = [[0] * (length - len(it[name])) + it[name] for it in every]
            summed[name] = [sum(row) for row in zip(*columns, strict=True)]
    return summed


def _latest(lists: Sequence[Sequence[Mapping[str, Any]]], by: str, most: int) -> list[Mapping[str, Any]]:
    every = [it for found in lists for it in found]
    return sorted(every, key=lambda it: float(it[by]), reverse=True)[:most]


def _account(name: str, documents: Sequence[Mapping[str, Any]], *counts: str) -> dict[str, Any]:
    found = [it for document in documents for it in document["accounts"] if it["name"] == name]
    return {**found[0], **added(found, *counts)}


def _keys(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Client keys; what each has used today is known to all, where they share it, so the most counts."""
    every: dict[Any, list[Mapping[str, Any]]] = {}
    for document in documents:
        for key in document["keys"]:
            every.setdefault(key["name"], []).append(key)
    return [
        {
            **found[0],
            **added(found, *_KEY_COUNTS),
            "last_used": max((it["last_used"] for it in found if it["last_used"] is not None), default=None),
            "today": {name: max(it["today"][name] for it in found) for name in ("requests", "tokens")},
        }
        for found in every.values()
    ]


def _plugins(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failures: dict[tuple[str, str], int] = {}
    for failed in (it for plugins in every for it in plugins["failures"]):
        pair = (failed["plugin"], failed["hook"])
        failures[pair] = failures.get(pair, 0) + failed["count"]
    return {
        **every[0],
        "plugins": [
            {**plugin, "failures": sum(count for (name, _), count in failures.items() if name == plugin["name"])}
            for plugin in every[0]["plugins"]
        ],
        "failures": [
            {"plugin": plugin, "hook": hook, "count": count} for (plugin, hook), count in sorted(failures.items())
        ],
    }


async def accounts_of_all(gateway: Gateway) -> list[dict[str, Any]]:
    """Describe the accounts, with what all workers have in flight on each."""
    if gateway.peers is None:
        return describe_accounts(gateway)
    answers, _ = await gateway.peers.ask("accounts")
    every = [{"accounts": answer.document} for answer in answers]
    return [_account(it["name"], every, "in_flight", "sessions") for it in answers[0].document]


async def describe_cluster(gateway: Gateway) -> dict[str, Any]:
    """Describe the machines and workers that are one gateway, and whether they agree."""
    if gateway.peers is None:
        workers, running, configured = [describe_worker(gateway)], 1, 1
    else:
        answers, running = await gateway.peers.ask("worker")
        workers = sorted((it.document for it in answers), key=lambda it: (it["worker"], it["started"]))
        configured = gateway.peers.count
    differ = [
        f"the workers differ in their {what}: {', '.join(sorted({str(it[field]) for it in workers}))}"
        for field, what in (("version", "version"), ("configuration", "configuration"))
        if len({it[field] for it in workers}) > 1
    ]
    return {
        "machines": [
            {"machine": socket.gethostname(), "configured": configured, "running": running, "workers": workers}
        ],
        "agree": not differ and len(workers) == running,
        "differences": differ
        + ([f"{running - len(workers)} of {running} workers did not answer"] if len(workers) < running else []),
    }
