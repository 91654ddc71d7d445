"""What the three kinds of upstreams can do.  How each is spoken to is in :mod:`agm.plugins.builtin.wrapping`."""

from __future__ import annotations

from collections.abc import Mapping

#: Collections of resources that belong to one account each; see :mod:`agm.core.ownership`.
COLLECTIONS = (
    "files",
    "cachedContents",
    "batches",
    "operations",
    "tunedModels",
    "fileSearchStores",
    "corpora",
)
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

#: The methods that each kind has, by Google's names.
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
        }
    ),
    "vertex": frozenset(
        {
            "generateContent",
            "streamGenerateContent",
            "countTokens",
            "embedContent",
            "predict",
            *VERTEX_SESSIONS,
        }
    ),
    "code-assist": frozenset({"generateContent", "streamGenerateContent", "countTokens"}),
}
