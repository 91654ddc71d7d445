"""
What plugins import: the values that hooks receive and return, and what they build sources and resources from.

These names, and the attributes that their docstrings name, are the public interface beside :mod:`agm.hookspecs` and
:mod:`agm.testing`.  Everything else may change between versions.
"""

from agm import hookimpl
from agm.cluster.store import StoreAway
from agm.core.answer import Answer, KeepAnswer, LocalAnswer
from agm.core.classify import Fault, Verdict
from agm.core.client_keys import ClientKey, KeyRing, digest
from agm.core.errors import (
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from agm.core.models import Patterns
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    Body,
    EndStream,
    GatewayRequest,
    ModelChoice,
    RequestRecord,
    UpstreamRequest,
)
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import quote_model
from agm.core.wire.usage import Usage
from agm.hookspecs import Site
from agm.plugins.key_lookups import CachedKeys
from agm.serving.cluster import Cluster, Counter
from agm.serving.gateway import Gateway
from agm.upstream.accounts import AccountSource
from agm.upstream.credentials.credential import ApiKey, StaticToken
from agm.web.base import ApiResource, Visit, send_json

__all__ = [
    "Account",
    "AccountChoice",
    "AccountSource",
    "Answer",
    "ApiKey",
    "ApiResource",
    "AttemptRecord",
    "Body",
    "BodyTooLarge",
    "CachedKeys",
    "ClientKey",
    "Cluster",
    "Counter",
    "EndStream",
    "Fault",
    "Forbidden",
    "Framing",
    "Gateway",
    "GatewayError",
    "GatewayRequest",
    "InvalidRequest",
    "KeepAnswer",
    "KeyRing",
    "LocalAnswer",
    "ModelChoice",
    "NotFound",
    "Patterns",
    "RequestRecord",
    "Site",
    "StaticToken",
    "StoreAway",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "UpstreamRequest",
    "Usage",
    "Verdict",
    "Visit",
    "digest",
    "hookimpl",
    "quote_model",
    "send_json",
]
