"""
What plugins import: the values that hooks receive and return, and what they build sources and resources from.

These names, and the attributes that their docstrings name, are the public interface beside :mod:`agm.hookspecs` and
:mod:`agm.testing`.  Everything else may change between versions.
"""

from agm import hookimpl
from agm.cluster.store import StoreAway
from agm.config import Config
from agm.core.alerts import Alert
from agm.core.answer import Answer, KeepAnswer, LocalAnswer
from agm.core.classify import Fault, Verdict
from agm.core.client_keys import ClientKey, KeyRing, digest
from agm.core.dialect import TranslatedCall
from agm.core.errors import (
    NOT_JSON,
    BadUpstreamAnswer,
    BodyTooLarge,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from agm.core.google_error import GoogleError, read_error
from agm.core.models import Patterns, unknown_model
from agm.core.network import Network
from agm.core.request import (
    Account,
    AccountChoice,
    AnswerReader,
    AttemptRecord,
    Body,
    EndStream,
    ErrorInAnswer,
    GatewayRequest,
    ModelChoice,
    ModelList,
    RequestRecord,
    UpstreamKind,
    UpstreamRequest,
    bearer,
)
from agm.core.wire.answer_filters import Framing, StreamFailure
from agm.core.wire.target import quote_model
from agm.core.wire.usage import Usage
from agm.core.wire.vertex import Place
from agm.hookspecs import API_VERSION, ClientKeySource, Site
from agm.plugins.key_lookups import CachedKeys
from agm.serving.cluster import Cluster, Counter
from agm.serving.gateway import Gateway
from agm.upstream.accounts import AccountSource
from agm.upstream.credentials.credential import ApiKey, Credential, CredentialError, StaticToken
from agm.web.base import ApiResource, Visit, send_json
from agm.web.translating import Translation, relay_translated, send_translated

__all__ = [
    "API_VERSION",
    "NOT_JSON",
    "Account",
    "AccountChoice",
    "AccountSource",
    "Alert",
    "Answer",
    "AnswerReader",
    "ApiKey",
    "ApiResource",
    "AttemptRecord",
    "BadUpstreamAnswer",
    "Body",
    "BodyTooLarge",
    "CachedKeys",
    "ClientKey",
    "ClientKeySource",
    "Cluster",
    "Config",
    "Counter",
    "Credential",
    "CredentialError",
    "EndStream",
    "ErrorInAnswer",
    "Fault",
    "Forbidden",
    "Framing",
    "Gateway",
    "GatewayError",
    "GatewayRequest",
    "GoogleError",
    "InvalidRequest",
    "KeepAnswer",
    "KeyRing",
    "LocalAnswer",
    "ModelChoice",
    "ModelList",
    "Network",
    "NotFound",
    "Patterns",
    "Place",
    "RequestRecord",
    "Site",
    "StaticToken",
    "StoreAway",
    "StreamFailure",
    "TooManyRequests",
    "TranslatedCall",
    "Translation",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UpstreamKind",
    "UpstreamRequest",
    "Usage",
    "Verdict",
    "Visit",
    "bearer",
    "digest",
    "hookimpl",
    "quote_model",
    "read_error",
    "relay_translated",
    "send_json",
    "send_translated",
    "unknown_model",
]
