"""``POST /v1/embeddings``: texts as one batch, and the vectors as numbers or in base64."""

from __future__ import annotations

import base64
import struct
from typing import Any

import attrs
import msgspec

from agm.api import Answer, BadUpstreamAnswer, GatewayError, TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, read_object, unreadable
from agm.dialects.reading import Fields, text


class _Embedding(msgspec.Struct):
    values: list[float]


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0


class _Answer(msgspec.Struct, rename="camel"):
    embeddings: list[_Embedding | None] | None = None
    embedding: _Embedding | None = None
    usage_metadata: _Usage | None = None


#: Texts of one batch at most, as Google has it.
BATCH = 100

_ANSWER = msgspec.json.Decoder(_Answer)


def _texts(given: Any) -> list[str]:
    """Return the texts of an input: one, or several; OpenAI's tokens mean nothing to another model."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise BadParameter("input", "a string, or an array of strings, is expected.")
    if isinstance(given[0], int | list):
        raise BadParameter(
            "input",
            "tokens are of OpenAI's own models; send the texts that they stand for (LangChain's OpenAIEmbeddings does "
            "with check_embedding_ctx_length=False).",
        )
    return [text(one, f"input[{number}]") for number, one in enumerate(given)]


@attrs.frozen
class _Request:
    """A request, read; a batch has so many texts at most."""

    model: str
    texts: list[str]
    dimensions: int | None
    in_base64: bool

    @classmethod
    def read(cls, body: bytes) -> _Request:
        fields = Fields(read_object(body))
        model = fields.needed("model")
        texts = _texts(fields.take("input"))
        dimensions = fields.whole("dimensions", 1)
        in_base64 = fields.one_of("encoding_format", "float", "base64", why="there are") == "base64"
        fields.skip("user")
        fields.end()
        return cls(model, texts, dimensions, in_base64)

    def batch(self, texts: list[str]) -> TranslatedCall:
        """Return the call for several texts; each of them names the model that serves."""
        requests = [self._one(one) for one in texts]

        def settle(document: bytes, served: str) -> bytes:
            return msgspec.json.encode({"requests": [{"model": f"models/{served}", **one} for one in requests]})

        return TranslatedCall(self.model, "batchEmbedContents", settle(b"", self.model), settle)

    def single(self, said: str) -> TranslatedCall:
        """Return the call for one text, which all kinds of accounts have that embed at all."""
        return TranslatedCall(self.model, "embedContent", msgspec.json.encode(self._one(said)))

    def _one(self, said: str) -> dict[str, Any]:
        more: dict[str, Any] = {} if self.dimensions is None else {"outputDimensionality": self.dimensions}
        return {"content": {"parts": [{"text": said}]}, **more}

    def calls(self) -> list[TranslatedCall]:
        """Return the calls that it comes to."""
        if len(self.texts) == 1:
            return [self.single(self.texts[0])]
        return [self.batch(self.texts[at : at + BATCH]) for at in range(0, len(self.texts), BATCH)]


def translate(body: bytes) -> TranslatedCall:
    """Say which call of a model a request comes to; the first, where they are several."""
    return _Request.read(body).calls()[0]


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    asked = _Request.read(visit.body)
    vectors: list[Any] = []
    tokens = 0
    first: Answer | None = None
    calls = asked.calls()
    while calls:
        call = calls.pop(0)
        try:
            answered = await dialect.call(visit, call, after=first)
        except GatewayError as e:
            if e.status != 501 or call.method != "batchEmbedContents" or first is not None:
                raise
            calls = [asked.single(one) for one in asked.texts]  # Vertex AI has no batches
            continue
        first = first or answered
        try:
            found = _ANSWER.decode(await answered.read())
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise unreadable(e) from None
        vectors += [one.values for one in found.embeddings or [found.embedding] if one is not None]
        tokens += found.usage_metadata.prompt_token_count if found.usage_metadata is not None else 0
    assert first is not None, "there is a text"
    if len(vectors) != len(asked.texts):
        raise BadUpstreamAnswer(f"The upstream embedded {len(vectors)} of {len(asked.texts)} texts.")
    if asked.in_base64:
        vectors = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode("ascii") for one in vectors]
    listed = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    document = {"object": "list", "data": listed, "model": asked.model, "usage": usage}
    dialect.send(visit, first, msgspec.json.encode(document))
