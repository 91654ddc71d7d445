"""
Veo: videos that take a while, by the Developer API (a file to download) and by Vertex AI (the bytes, or a bucket).

A video is there when its operation is looked at for the second time.  It is an MP4 container that names its prompt, and
no more: there is nothing in it to see.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from agm.emulator import errors
from agm.emulator.holdings import DOWNLOADS, Operation, by_number, project_number
from agm.emulator.stored import Context, route

_MOST_VIDEOS = 4
_LOOKS = 2


def _box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + name + data


def mp4(text: str) -> bytes:
    """Return an MP4 file without a track, with `text` in a free box."""
    header = struct.pack(">5I", 0, 0, 0, 1_000, 8_000)  # version, created, changed, units a second, duration
    header += struct.pack(">IHHII", 0x00010000, 0x0100, 0, 0, 0)  # rate, volume, reserved
    header += (
        struct.pack(">9I", 0x00010000, 0, 0, 0, 0x00010000, 0, 0, 0, 0x40000000) + bytes(24) + struct.pack(">I", 1)
    )
    brands = b"isom" + struct.pack(">I", 0x200) + b"isomiso2mp41"
    return _box(b"ftyp", brands) + _box(b"moov", _box(b"mvhd", header)) + _box(b"free", text.encode())


def _asked(context: Context) -> tuple[Mapping[str, Any], Mapping[str, Any], int]:
    """Return the instance, the parameters, and how many videos are wanted."""
    message = context.read("PredictRequest")
    instances, parameters = message.get("instances") or (), message.get("parameters")
    instance = instances[0] if instances and isinstance(instances[0], Mapping) else {}
    parameters = parameters if isinstance(parameters, Mapping) else {}
    if not instance.get("prompt") and not instance.get("image") and not instance.get("video"):
        raise errors.invalid_argument("Text prompt, image or video is missing.")
    count = parameters.get("sampleCount", 1)
    if not isinstance(count, int) or not 1 <= count <= _MOST_VIDEOS:
        raise errors.invalid_argument(f"Number of videos must be between 1 and {_MOST_VIDEOS} inclusive.")
    return instance, parameters, count


def _contents(context: Context, instance: Mapping[str, Any], count: int) -> list[bytes]:
    digest = hashlib.sha256(f"{context.state.seed}\n{context.name}".encode()).hexdigest()[:8]
    return [mp4(f"{digest} {index + 1}: {instance.get('prompt', '')}") for index in range(count)]


def _keep(context: Context, name: str, response: Mapping[str, Any]) -> dict[str, Any]:
    operation = Operation(name=name, account=context.account, response=response, looks=_LOOKS)
    context.holdings.operations[name] = operation
    return operation.resource()


def _start(context: Context) -> dict[str, Any]:
    instance, _, count = _asked(context)
    samples = []
    for content in _contents(context, instance, count):
        file = context.holdings.keep_file(context.state.seed, context.account, content, "video/mp4", context.now)
        samples.append({"video": {"uri": f"{DOWNLOADS}/{context.version}/{file.name}:download?alt=media"}})
    return _keep(
        context,
        f"models/{context.name}/operations/{context.new_id()}",
        {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse",
            "generateVideoResponse": {"generatedSamples": samples},
        },
    )


def _operation(context: Context) -> dict[str, Any]:
    return context.holdings.operation(context.name, context.account).look()


def _start_at_vertex(context: Context) -> dict[str, Any]:
    instance, parameters, count = _asked(context)
    target = context.admitted.target
    bucket = parameters.get("storageUri")
    videos: list[dict[str, Any]] = []
    for index, content in enumerate(_contents(context, instance, count)):
        if isinstance(bucket, str) and bucket:
            video = {"gcsUri": f"{bucket.rstrip('/')}/sample_{index}.mp4"}
        else:
            video = {"bytesBase64Encoded": base64.b64encode(content).decode()}
        videos.append({**video, "mimeType": "video/mp4"})
    project = project_number(context.admitted.about.project)
    place = f"projects/{project}/locations/{target.location}"
    digest = hashlib.sha256(context.new_id(40).encode()).hexdigest()
    return _keep(
        context,
        f"{place}/publishers/google/models/{context.name}/operations/{digest[:8]}-{digest[8:12]}-{digest[12:16]}",
        {
            "@type": "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse",
            "raiMediaFilteredCount": 0,
            "videos": videos,
        },
    )


def _fetch(context: Context) -> dict[str, Any]:
    name = context.read("FetchPredictOperationRequest").get("operationName", "")
    if f"/models/{context.name}/operations/" not in name:
        raise errors.invalid_argument("The operation name is not one of this model's.")
    return context.holdings.operation(by_number(name), context.account).look()


ROUTES = (
    route(r"models/([^:]+):predictLongRunning", "POST", "PredictLongRunning", _start, is_model=True),
    route(r"(models/[^:]+/operations/[^/:]+)", "GET", "GetOperation", _operation),
)
VERTEX_ROUTES = (
    route(
        r"publishers/google/models/([^/:]+):predictLongRunning",
        "POST",
        "PredictLongRunning",
        _start_at_vertex,
        is_model=True,
    ),
    route(r"publishers/google/models/([^/:]+):fetchPredictOperation", "POST", "FetchPredictOperation", _fetch),
)
