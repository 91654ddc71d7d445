"""What the built-in kinds of upstreams can do.  How each is spoken to is in :mod:`agm.plugins.builtin.wrapping`."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class IdCollection:
    """
    A collection of the Interactions API: what is in it has an ``id``, where other resources have a ``name``.

    `fields` are those of a request that name one by its id; a row without any owns nothing.  `private` is one whose
    resources answer only to the client key or team that made them, whatever ``[auth] resources`` says.  `runs` says
    whether a creation asks a model, so that it is held to limits of models; `secret` whether what is said in it is kept
    out of every log.
    """

    fields: tuple[str, ...] = ()
    private: bool = False
    runs: bool = False
    secret: bool = False


#: The Interactions API and what lives beside it, in one table.
ID_COLLECTIONS: Mapping[str, IdCollection] = {
    "interactions": IdCollection(("previous_interaction_id", "interaction_id"), private=True, runs=True),
    "agents": IdCollection(("agent", "base_agent")),
    "triggers": IdCollection(("trigger_id",)),
    "environments": IdCollection(("environment", "environment_id", "from_environment", "base_environment")),
    "credentials": IdCollection(("credential",), secret=True),
    "voices": IdCollection(("voice", "base_voice")),
    "webhooks": IdCollection(("webhook",), secret=True),
    "decisions": IdCollection(runs=True),
}
#: Collections of resources that belong to one account each; see :mod:`agm.core.ownership`.
COLLECTIONS = (
    "files",
    "cachedContents",
    "batches",
    "operations",
    "tunedModels",
    "fileSearchStores",
    "corpora",
    *ID_COLLECTIONS,
)
#: Collections that a project of Vertex AI has; ``models`` are those that were tuned.
VERTEX_COLLECTIONS = ("cachedContents", "batchPredictionJobs", "tuningJobs", "models", "endpoints", "reasoningEngines")
#: Calls of a model that Vertex AI alone has, or answers in a way of its own.
VERTEX_METHODS = ("vertex.computeTokens", "vertex.predictLongRunning", "vertex.fetchPredictOperation")
#: Calls of a model on Google's own OpenAI surface, which the Developer API has, and what is kept there.
OPENAI_CALLS = ("chat/completions", "embeddings", "images/generations", "images/edits", "videos")
OPENAI_COLLECTIONS = ("models", "files", "batches", "videos")
#: What is done to such resources, and calls that make them.
RESOURCE_METHODS = frozenset(
    {
        *(
            f"{collection}.{verb}"
            for collection in COLLECTIONS
            for verb in ("create", "get", "list", "update", "delete", "upload", "download", "cancel", "call")
        ),
        "batchGenerateContent",
        "asyncBatchEmbedContent",
        "predictLongRunning",
    }
)

#: Live sessions of the Developer API, with what makes a token for one, and of Vertex AI; see :mod:`agm.core.live`.
DEVELOPER_SESSIONS = frozenset({"BidiGenerateContent", "BidiGenerateMusic", "interactions.live", "auth_tokens.create"})
VERTEX_SESSIONS = frozenset({"LlmBidiService.BidiGenerateContent"})

#: The methods that each built-in kind has, by Google's names.
METHODS: Mapping[str, frozenset[str]] = {
    "api-key": frozenset(
        {
            "generateContent",
            "streamGenerateContent",
            "countTokens",
            "embedContent",
            "batchEmbedContents",
            "predict",
            *DEVELOPER_SESSIONS,
            *RESOURCE_METHODS,
            *(f"openai.{call.replace('/', '.')}" for call in OPENAI_CALLS),
            *(
                f"openai.{collection}.{verb}"
                for collection in OPENAI_COLLECTIONS
                for verb in ("create", "get", "list", "delete", "download", "cancel", "call")
            ),
        }
    ),
    "vertex": frozenset(
        {
            "generateContent",
            "streamGenerateContent",
            "countTokens",
            "embedContent",
            "predict",
            *VERTEX_METHODS,
            *VERTEX_SESSIONS,
            *(
                f"vertex.{collection}.{verb}"
                for collection in (*VERTEX_COLLECTIONS, "operations")
                for verb in ("create", "get", "list", "update", "delete", "cancel", "call")
            ),
        }
    ),
    "code-assist": frozenset({"generateContent", "streamGenerateContent", "countTokens"}),
}

#: Every method that a kind may have.
ALL_METHODS = frozenset().union(*METHODS.values())

#: The APIs that an account of each kind is asked through; the last is the one that has to be enabled.
SERVICES: Mapping[str, tuple[str, ...]] = {
    "api-key": ("generativelanguage.googleapis.com",),
    "vertex": ("aiplatform.googleapis.com",),
    "code-assist": ("cloudcode-pa.googleapis.com", "cloudaicompanion.googleapis.com"),
}


def vertex_endpoints(location: str) -> tuple[str, ...]:
    """Vertex AI's base URL for a location."""
    if location == "global":
        return ("https://aiplatform.googleapis.com",)
    if location in ("us", "eu"):
        return (f"https://aiplatform.{location}.rep.googleapis.com",)
    return (f"https://{location}-aiplatform.googleapis.com",)
