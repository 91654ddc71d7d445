"""
Record what was asked and what upstreams answered, for ``agm replay``: to try another policy on Monday's requests.

Copy this file into the folder of ``[plugins] path``::

    [plugins.recorder]
    folder = "/var/tmp/agm-recordings"      # without it nothing is recorded
    requests = 100000                       # at most so many in one file; then no more until a restart

Each start begins a file, which its owner alone can read.  Nothing of a conversation is in it: only the model, the
method, the name of the client key, and for the conversation a digest under a secret that is thrown away.  A request is
written when it has ended, with its attempts; answers of concurrent requests may be in another order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agm.api import AttemptRecord, RequestRecord, hookimpl

FAULTS = {"CONNECTION_LOST": "close", "FIRST_BYTE_TIMEOUT": "hang", "EMPTY_ANSWER": "empty"}
FAULTS["CREDENTIAL_UNAVAILABLE"] = "token"
settings: dict[str, Any] = {}
files: dict[str, tuple[Path, float, bytes]] = {}  # by folder: the file, its beginning and its secret
written: dict[str, int] = {}


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the table; a folder that is not there is made."""
    settings.update({"folder": None, "requests": 100_000}, **config.plugins.tables.get("recorder", {}))
    if settings["folder"] is not None:
        Path(settings["folder"]).mkdir(mode=0o700, parents=True, exist_ok=True)


def answer(attempt: AttemptRecord, record: RequestRecord) -> Mapping[str, Any]:
    line: dict[str, Any] = {"account": attempt.account, "model": attempt.model, "latency": round(attempt.ended, 3)}
    verdict = attempt.verdict
    if verdict is None:
        good: dict[str, Any] = {"fault": "cut"} if record.outcome == "aborted" else {"status": 200}
        return {**line, **good, "lasts": round(max(record.ended - (record.first_byte or record.ended), 0.0), 3)}
    if attempt.status is None or verdict.reason in FAULTS:
        return {**line, "fault": FAULTS.get(verdict.reason, "unreached")}
    told = {"reason": verdict.reason, "about": verdict.fault.value, "delay": verdict.delay}
    return {**line, "status": attempt.status, **told}


@hookimpl
def agm_request_finished(record: RequestRecord) -> None:
    """Write a line for the request, and one for each attempt."""
    folder = settings["folder"]
    if folder is None or written.get(folder, 0) >= settings["requests"]:
        return
    if folder not in files:
        path = Path(folder) / f"{record.started:.0f}-{os.getpid()}.jsonl"
        path.touch(mode=0o600)
        files[folder] = path, record.started, os.urandom(16)
    path, began, secret = files[folder]
    request, conversation = record.request, record.request.body.fingerprint
    line = {"request": request.id, "at": round(max(record.started - began, 0.0), 3), "model": request.asked_model}
    line |= {"method": request.method, "key": request.client_key}
    if conversation is not None:
        line["conversation"] = blake2b(conversation.encode(), digest_size=8, key=secret).hexdigest()
    written[folder] = written.get(folder, 0) + 1
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in [line, *(answer(it, record) for it in record.attempts)])
