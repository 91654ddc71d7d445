"""
Every public method of the SDKs, and what becomes of it through the gateway: one table, which has to be complete.

A row says how the method is called and what it comes to.  :mod:`tests.clients.test_sdk_methods` walks the SDKs as they
are installed and fails for a method that has no row, so that a new release brings none that nobody has decided about.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs
from google import genai
from google.genai import types

MODEL = "gemini-2.5-flash"
VEO = "veo-3.0-generate-001"
_numbers = itertools.count(1)


class Comes(Enum):
    """What a call of a method comes to."""

    WORKS = "an answer"
    SDK = "the SDK refuses it for the Developer API before it asks anybody"
    REFUSED = "refused by name, with the reason"
    ONE_ACCOUNT = "an answer where there is one account; else refused with the reason, for what is of different ones"
    OVER_TLS = "a session, for which this SDK insists on TLS: tests/clients/test_live.py, and tests/web/test_live.py"
    PLUMBING = "nothing that is sent: the SDK's own machinery"


class World:
    """What a call needs: things that are made with the SDK when they are asked for, each anew."""

    def __init__(self, client: genai.Client) -> None:
        self.client = client

    @staticmethod
    def name(before: str) -> str:
        """A name that nobody else has."""
        return f"{before}-{next(_numbers)}"

    def file(self) -> types.File:
        return self.client.files.upload(file=_bytes(b"some words"), config={"mime_type": "text/plain"})

    def cache(self) -> types.CachedContent:
        return self.client.caches.create(model=MODEL, config={"contents": "words " * 20})

    def batch(self) -> types.BatchJob:
        return self.client.batches.create(model=MODEL, src=[{"contents": [{"parts": [{"text": "hi"}]}]}])

    def store(self) -> types.FileSearchStore:
        return self.client.file_search_stores.create(config={"display_name": self.name("store")})

    def filling(self) -> types.UploadToFileSearchStoreOperation:
        return self.client.file_search_stores.upload_to_file_search_store(
            file_search_store_name=self.store().name, file=_bytes(b"words"), config={"mime_type": "text/plain"}
        )

    def document(self) -> str:
        done = self.client.operations.get(self.filling())
        assert done.response is not None
        assert done.response.document_name is not None
        return done.response.document_name

    def generated_file(self) -> str:
        line = b'{"key": "a", "request": {"contents": [{"parts": [{"text": "hi"}]}]}}'
        source = self.client.files.upload(file=_bytes(line), config={"mime_type": "application/jsonl"})
        batch = self.client.batches.create(model=MODEL, src=source.name)
        for _ in range(2):
            batch = self.client.batches.get(name=batch.name)
        assert batch.dest is not None
        assert batch.dest.file_name is not None
        return batch.dest.file_name

    def tuning(self) -> types.TuningJob:
        examples = types.TuningDataset(examples=[types.TuningExample(text_input="a", output="b")])
        return self.client.tunings.tune(base_model="models/gemini-1.5-flash-001-tuning", training_dataset=examples)

    def interaction(self, **asked: Any) -> Any:
        return self.client.interactions.create(**{"model": MODEL, "input": "hi", **asked})

    def agent(self) -> Any:
        return self.client.agents.create(id=self.name("agent"), base_agent="antigravity-preview")

    def trigger(self) -> Any:
        asked = {"agent": "deep-research-preview", "input": "hi"}
        return self.client.triggers.create(interaction=asked, schedule="0 0 * * *", time_zone="UTC")

    def environment(self) -> Any:
        return self.client.environments.create(sources=[{"type": "inline", "content": "x", "target": "a.py"}])

    def environment_file(self) -> dict[str, Any]:
        place = {"environment": self.environment().id, "path": "src/main.py"}
        self.client.environments.files.upload(**place, file=b"print(1)", mime_type="text/x-python")
        return place

    def credential(self) -> Any:
        return self.client.credentials.create(id=self.name("cred"), type="bearer_token", token="canary-x")

    def voice(self) -> Any:
        return self.client.voices.create(voice={"type": "prompted", "prompted": {"input": "warm"}})

    def webhook(self) -> Any:
        return self.client.webhooks.create(uri="https://example.com/x", subscribed_events=["interaction.completed"])


def _bytes(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


Asked = Callable[[World], dict[str, Any]]


@attrs.frozen
class Row:
    """What a method is called with, what it comes to, and a word of the refusal."""

    asked: Asked = dict
    comes: Comes = Comes.WORKS
    says: str = ""


def works(asked: Asked = lambda _: {}) -> Row:
    """A call that is answered."""
    return Row(asked, Comes.WORKS)


def by_sdk(asked: Asked, says: str) -> Row:
    """A call that the SDK refuses by itself."""
    return Row(asked, Comes.SDK, says)


_PLUMBING = Row(comes=Comes.PLUMBING)
_OVER_TLS = Row(comes=Comes.OVER_TLS)
_IMAGE = types.Image(image_bytes=b"x", mime_type="image/png")
_ENTERPRISE = "Enterprise|Vertex|Gemini Developer client"

#: By the path of the synchronous method; those below ``aio`` of the same name are called likewise.
PYTHON: Mapping[str, Row] = {
    "close": _PLUMBING,
    "aclose": _PLUMBING,
    **{
        f"{name}.do_request{suffix}": _PLUMBING
        for name in (
            *("agents", "credentials", "decisions", "environments", "environments.files", "interactions"),
            *("interactions.auth_tokens", "triggers", "voices", "webhooks"),
        )
        for suffix in ("", "_async")
    },
    "chats.create": works(lambda _: {"model": MODEL}),
    # models
    "models.generate_content": works(lambda _: {"model": MODEL, "contents": "hi"}),
    "models.generate_content_stream": works(lambda _: {"model": MODEL, "contents": "hi"}),
    "models.count_tokens": works(lambda _: {"model": MODEL, "contents": "hi"}),
    "models.embed_content": works(lambda _: {"model": "gemini-embedding-001", "contents": "hi"}),
    "models.get": works(lambda _: {"model": MODEL}),
    "models.list": works(),
    "models.update": works(lambda w: {"model": w.tuning().name, "config": {"display_name": "x"}}),
    "models.delete": works(lambda w: {"model": w.tuning().name}),
    "models.compute_tokens": by_sdk(lambda _: {"model": MODEL, "contents": "hi"}, _ENTERPRISE),
    "models.generate_images": by_sdk(lambda _: {"model": "imagen-4.0-generate-001", "prompt": "x"}, _ENTERPRISE),
    "models.generate_videos": by_sdk(lambda _: {"model": VEO, "prompt": "x"}, _ENTERPRISE),
    "models.edit_image": by_sdk(
        lambda _: {
            "model": "imagen-3.0-capability-001",
            "prompt": "x",
            "reference_images": [types.RawReferenceImage(reference_id=1, reference_image=_IMAGE)],
        },
        _ENTERPRISE,
    ),
    "models.upscale_image": by_sdk(
        lambda _: {"model": "imagen-4.0-generate-001", "image": _IMAGE, "upscale_factor": "x2"}, _ENTERPRISE
    ),
    "models.recontext_image": by_sdk(
        lambda _: {"model": "x", "source": types.RecontextImageSource(prompt="x")}, _ENTERPRISE
    ),
    "models.segment_image": by_sdk(
        lambda _: {"model": "x", "source": types.SegmentImageSource(prompt="x", image=_IMAGE)}, _ENTERPRISE
    ),
    "operations.get": works(lambda w: {"operation": w.filling()}),
    # what accounts have for themselves
    "files.upload": works(lambda _: {"file": _bytes(b"x"), "config": {"mime_type": "text/plain"}}),
    "files.list": works(),
    "files.get": works(lambda w: {"name": w.file().name}),
    "files.delete": works(lambda w: {"name": w.file().name}),
    "files.download": works(lambda w: {"file": w.generated_file()}),
    "files.register_files": Row(
        lambda _: {"auth": _Anonymous(), "uris": ["gs://bucket/file"]}, Comes.REFUSED, "register|scopes|credentials"
    ),
    "caches.create": works(lambda _: {"model": MODEL, "config": {"contents": "words " * 20}}),
    "caches.list": works(),
    "caches.get": works(lambda w: {"name": w.cache().name}),
    "caches.update": works(lambda w: {"name": w.cache().name, "config": {"ttl": "600s"}}),
    "caches.delete": works(lambda w: {"name": w.cache().name}),
    "batches.create": works(lambda _: {"model": MODEL, "src": [{"contents": [{"parts": [{"text": "hi"}]}]}]}),
    "batches.create_embeddings": works(
        lambda _: {
            "model": "gemini-embedding-001",
            "src": {"inlined_requests": {"contents": [{"parts": [{"text": "hi"}]}]}},
        },
    ),
    "batches.list": works(),
    "batches.get": works(lambda w: {"name": w.batch().name}),
    "batches.cancel": works(lambda w: {"name": w.batch().name}),
    "batches.delete": works(lambda w: {"name": w.batch().name}),
    "file_search_stores.create": works(lambda _: {"config": {"display_name": "x"}}),
    "file_search_stores.list": works(),
    "file_search_stores.get": works(lambda w: {"name": w.store().name}),
    "file_search_stores.delete": works(lambda w: {"name": w.store().name}),
    "file_search_stores.import_file": Row(
        lambda w: {"file_search_store_name": w.store().name, "file_name": w.file().name},
        Comes.ONE_ACCOUNT,
        "RESOURCES_OF_DIFFERENT_ACCOUNTS",
    ),
    "file_search_stores.upload_to_file_search_store": works(
        lambda w: {
            "file_search_store_name": w.store().name,
            "file": _bytes(b"x"),
            "config": {"mime_type": "text/plain"},
        },
    ),
    "file_search_stores.download_media": works(lambda w: {"media_id": w.document().replace("/documents/", "/media/")}),
    "file_search_stores.documents.list": works(lambda w: {"parent": w.store().name}),
    "file_search_stores.documents.get": works(lambda w: {"name": w.document()}),
    "file_search_stores.documents.delete": works(lambda w: {"name": w.document(), "config": {"force": True}}),
    "tunings.tune": works(
        lambda _: {
            "base_model": "models/gemini-1.5-flash-001-tuning",
            "training_dataset": types.TuningDataset(examples=[types.TuningExample(text_input="a", output="b")]),
        },
    ),
    "tunings.get": works(lambda w: {"name": w.tuning().name}),
    "tunings.list": by_sdk(lambda _: {}, _ENTERPRISE),
    "tunings.cancel": works(lambda w: {"name": w.tuning().name}),
    "tunings.validate_reward": by_sdk(
        lambda _: {
            "parent": "projects/p/locations/l",
            "sample_response": types.Content(parts=[types.Part(text="x")]),
            "example": types.ReinforcementTuningExample(contents=[types.Content(parts=[types.Part(text="x")])]),
            "single_reward_config": types.SingleReinforcementTuningRewardConfig(),
        },
        _ENTERPRISE,
    ),
    # Live
    "live.connect": _OVER_TLS,
    "live.music.connect": _OVER_TLS,
    "auth_tokens.create": works(lambda _: {"config": {"uses": 1}}),
    "interactions.connect": _OVER_TLS,
    # interactions
    "interactions.create": works(lambda _: {"model": MODEL, "input": "hi"}),
    "interactions.get": works(lambda w: {"id": w.interaction().id}),
    "interactions.cancel": works(lambda w: {"id": w.interaction(background=True).id}),
    "interactions.delete": works(lambda w: {"id": w.interaction().id}),
    "interactions.auth_tokens.create": works(lambda w: {"interaction_id": w.interaction().id}),
    "interactions.auth_tokens.delete": works(lambda w: _token_of(w)),
    # beside them
    "agents.create": works(lambda w: {"id": w.name("agent"), "base_agent": "antigravity-preview"}),
    "agents.list": works(),
    "agents.get": works(lambda w: {"id": w.agent().id}),
    "agents.delete": works(lambda w: {"id": w.agent().id}),
    "triggers.create": works(
        lambda _: {"interaction": {"agent": "a", "input": "x"}, "schedule": "0 0 * * *", "time_zone": "UTC"}
    ),
    "triggers.list": works(),
    "triggers.get": works(lambda w: {"id": w.trigger().id}),
    "triggers.update": works(lambda w: {"id": w.trigger().id, "display_name": "x"}),
    "triggers.delete": works(lambda w: {"id": w.trigger().id}),
    "triggers.run": works(lambda w: {"trigger_id": w.trigger().id}),
    "triggers.list_executions": works(lambda w: {"trigger_id": w.trigger().id}),
    **{
        name: works(lambda _: {"sources": [{"type": "inline", "content": "x", "target": "a.py"}]})
        for name in ("environments.create", "environments.create_environment")
    },
    **{name: works() for name in ("environments.list", "environments.list_environments")},
    **{
        name: works(lambda w: {"id": w.environment().id})
        for name in ("environments.get", "environments.get_environment")
    },
    **{
        name: works(lambda w: {"id": w.environment().id})
        for name in ("environments.delete", "environments.delete_environment")
    },
    "environments.files.upload": works(
        lambda w: {"environment": w.environment().id, "path": "a.py", "file": b"x", "mime_type": "text/x-python"}
    ),
    "environments.files.list": works(lambda w: {**w.environment_file(), "path": "src"}),
    "environments.files.download": works(lambda w: w.environment_file()),
    "credentials.create": works(lambda w: {"id": w.name("cred"), "type": "bearer_token", "token": "canary-x"}),
    "credentials.list": works(),
    "credentials.get": works(lambda w: {"id": w.credential().id}),
    "credentials.update": works(lambda w: {"id": w.credential().id, "type": "bearer_token", "token": "canary-y"}),
    "credentials.delete": works(lambda w: {"id": w.credential().id}),
    "voices.create": works(lambda _: {"voice": {"type": "prompted", "prompted": {"input": "warm"}}}),
    "voices.list": works(),
    "voices.get": works(lambda w: {"id": w.voice().id}),
    "voices.delete": works(lambda w: {"id": w.voice().id}),
    "decisions.create": works(
        lambda _: {"model": MODEL, "input": "x", "questions": {"q": {"type": "noul", "instructions": "?"}}}
    ),
    "webhooks.create": works(
        lambda _: {"uri": "https://example.com/x", "subscribed_events": ["interaction.completed"]}
    ),
    "webhooks.list": works(),
    "webhooks.get": works(lambda w: {"id": w.webhook().id}),
    "webhooks.update": works(lambda w: {"id": w.webhook().id, "uri": "https://example.com/y"}),
    "webhooks.delete": works(lambda w: {"id": w.webhook().id}),
    "webhooks.ping": works(lambda w: {"id": w.webhook().id}),
    "webhooks.rotate_signing_secret": works(lambda w: {"id": w.webhook().id}),
}


def _token_of(world: World) -> dict[str, Any]:
    interaction = world.interaction()
    return {
        "interaction_id": interaction.id,
        "auth_token": world.client.interactions.auth_tokens.create(interaction.id).auth_token,
    }


class _Anonymous:
    """Credentials of nobody: what registering files needs is a Google account, which a gateway has none of to lend."""

    token = "canary-nobody"
    expired = False
    quota_project_id = None

    def refresh(self, request: object) -> None:
        """There is nothing to refresh."""
