"""
Batches: requests that are answered later, in the batch itself or in a file.

A batch moves on each time it is looked at: pending, running, done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agm.emulator import answers, embeddings, errors, modelcalls, schema
from agm.emulator.errors import GoogleError, Kind
from agm.emulator.holdings import Batch
from agm.emulator.stored import Context, listed, owned, route


def _create(context: Context) -> dict[str, Any]:
    return _made(context, "BatchGenerateContentRequest", embeds=False)


def _create_of_embeddings(context: Context) -> dict[str, Any]:
    return _made(context, "AsyncBatchEmbedContentRequest", embeds=True)


def _made(context: Context, message_name: str, *, embeds: bool) -> dict[str, Any]:
    message = context.read(message_name).get("batch", {})
    config = message.get("inputConfig", {})
    file = config.get("fileName", "")
    requests = _of_file(context, file, embeds=embeds) if file else config.get("requests", {}).get("requests", ())
    if not requests:
        raise errors.invalid_argument(f"* {message_name}.batch.input_config: requests is not specified\n")
    for one in requests:
        if embeds:
            embeddings.of_request(context.name, one.get("request", {}))
        else:
            modelcalls.check_contents(one.get("request", {}), context.admitted.target)
    batch = Batch(
        name="batches/" + context.new_id(32),
        account=context.account,
        model=context.name,
        display_name=message.get("displayName", ""),
        requests=requests,
        created=context.now,
        embeds=embeds,
        file=file,
    )
    context.holdings.batches[batch.name] = batch
    return batch.resource()


def _of_file(context: Context, name: str, *, embeds: bool) -> list[dict[str, Any]]:
    """Return the requests of a file: a JSON object a line, ``{"key": …, "request": {…}}``."""
    file = context.holdings.file(name, context.account, context.now)
    if file.content is None:
        raise GoogleError(400, "The file of a batch is too large for the emulator: its bytes were not kept.")
    requests = []
    message = "EmbedContentRequest" if embeds else "GenerateContentRequest"
    for number, line in enumerate(filter(bytes.strip, file.content.splitlines()), 1):
        try:
            document = msgspec.json.decode(line)
            request = document["request"]
        except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError):
            raise errors.invalid_argument(f"Line {number} of {name} is not a request of a batch.") from None
        requests.append({"key": document.get("key"), "request": schema.read(request, message, Kind.API_KEY)})
    return requests


def _batch(context: Context) -> Batch:
    return context.holdings.batch(context.name, context.account)


def _get(context: Context) -> dict[str, Any]:
    """Each look moves a batch on."""
    batch = _batch(context)
    if batch.state == "BATCH_STATE_PENDING":
        batch.state = "BATCH_STATE_RUNNING"
    elif batch.state == "BATCH_STATE_RUNNING":
        batch.state = "BATCH_STATE_SUCCEEDED"
        output = [_answered(batch, one, context.state.seed) for one in batch.requests]
        if batch.file:
            lines = b"".join(msgspec.json.encode(one) + b"\n" for one in output)
            kept = context.holdings.keep_file(
                context.state.seed, context.account, lines, "application/jsonl", context.now, prefix="batch-"
            )
            batch.responses = kept.name
        else:
            batch.output = output
    return batch.resource()


def _answered(batch: Batch, one: Mapping[str, Any], seed: int) -> dict[str, Any]:
    if batch.embeds:
        answer: dict[str, Any] = {"embedding": embeddings.of_request(batch.model, one["request"])}
    else:
        answer = answers.unary(answers.compose(batch.model, one["request"], seed=seed))
    return {
        **({"key": one["key"]} if one.get("key") is not None else {}),
        "response": answer,
        **({"metadata": one["metadata"]} if "metadata" in one else {}),
    }


def _list(context: Context) -> dict[str, Any]:
    batches = owned(context, context.holdings.batches.values())
    return listed(context, "operations", [batch.resource() for batch in batches])


def _cancel(context: Context) -> dict[str, Any]:
    batch = _batch(context)
    if batch.state != "BATCH_STATE_SUCCEEDED":
        batch.state = "BATCH_STATE_CANCELLED"
    return {}


def _delete(context: Context) -> dict[str, Any]:
    del context.holdings.batches[_batch(context).name]
    return {}


ROUTES = (
    route(r"models/(.+):batchGenerateContent", "POST", "BatchGenerateContent", _create, is_model=True),
    route(
        r"models/(.+):asyncBatchEmbedContent", "POST", "AsyncBatchEmbedContent", _create_of_embeddings, is_model=True
    ),
    route(r"batches", "GET", "ListBatches", _list),
    route(r"(batches/[^/:]+)", "GET", "GetBatch", _get),
    route(r"(batches/[^/:]+):cancel", "POST", "CancelBatch", _cancel),
    route(r"(batches/[^/:]+)", "DELETE", "DeleteBatch", _delete),
)
