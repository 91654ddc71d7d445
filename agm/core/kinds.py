"""What the three kinds of upstreams can do.  How each is spoken to is in :mod:`agm.defaults.wrapping`."""

from __future__ import annotations

from collections.abc import Mapping

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
        }
    ),
    "vertex": frozenset({"generateContent", "streamGenerateContent", "countTokens", "embedContent", "predict"}),
    "code-assist": frozenset({"generateContent", "streamGenerateContent", "countTokens"}),
}
