"""The table ``[cluster]``: the Redis that several processes and machines share their state by."""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

import attrs

from agm.config.files import read_path
from agm.config.reading import Place, RefusedError, setting, values_of
from agm.config.secret import (
    Secret,
    UnusableError,
    check_one_source,
    read_secret,
    read_variable,
    secret_from_environment,
    secret_from_file,
)
from agm.config.values import one_of, read_text

__all__ = ["ClusterConfig", "ClusterTable", "RedisAddress", "read_cluster"]

#: What is sealed with a shorter secret could be opened by trying.
LEAST_SECRET = 16
_EXPECTED = "expected redis://HOST:PORT, rediss://HOST:PORT (TLS) or unix:PATH"
_MOST_SOCKET_PATH = 107


@attrs.frozen(kw_only=True)
class RedisAddress:
    """
    Where a Redis or Valkey listens, and how to sign in there.

    ``path`` is a unix socket's, and empty for TCP; ``database`` is the number of the database, from 0.
    """

    host: str = ""
    port: int = 6379
    tls: bool = False
    path: str = ""
    user: str | None = None
    password: Secret | None = None
    database: int = 0

    def __str__(self) -> str:
        """As it may be shown: without the password."""
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def read_redis(value: object, place: Place) -> RedisAddress:
    """Return an address as ``redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]``, ``rediss://…`` or ``unix:PATH``."""
    # a message shows nothing of the value: it may hold a password
    text = read_text(value, place)
    if text.startswith("unix:"):
        path = str(read_path(text.removeprefix("unix:"), place))
        if len(path.encode()) > _MOST_SOCKET_PATH:
            raise RefusedError(f"names a socket whose path is longer than {_MOST_SOCKET_PATH} bytes; use a shorter one")
        return RedisAddress(path=path)
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError:
        raise RefusedError(f"cannot be read as an address; {_EXPECTED}") from None
    if split.scheme not in ("redis", "rediss") or not split.hostname or split.query or split.fragment or port == 0:
        raise RefusedError(_EXPECTED)
    database = split.path.strip("/")
    if not re.fullmatch("[0-9]{0,4}", database):
        raise RefusedError("ends in something that is no number of a database, as the 0 in redis://HOST:6379/0")
    if split.password is not None:
        place.reading.literal_secrets = True
    return RedisAddress(
        host=split.hostname,
        port=6379 if port is None else port,
        tls=split.scheme == "rediss",
        user=unquote(split.username) if split.username else None,
        password=None if split.password is None else Secret(unquote(split.password)),
        database=int(database or 0),
    )


def _read_name(value: object, place: Place) -> str:
    name = read_text(value, place)
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", name):
        raise RefusedError("expected 1 to 64 letters, digits, '.', '_' or '-': the keys in Redis begin with it")
    return name


OnLoss = Literal["share", "refuse", "allow"]
_read_on_loss = one_of("share", "refuse", "allow")


@attrs.frozen(kw_only=True)
class ClusterConfig:
    """
    What several processes and machines share.

    ``redis`` of ``None``: nothing, one process knows all.  ``name`` tells gateways apart that use one Redis;
    ``secret`` seals what must not be read there; ``on_loss`` says what becomes of limits while Redis is away.
    """

    redis: RedisAddress | None = None
    name: str = "agm"
    secret: Secret | None = attrs.field(default=None, repr=False)
    on_loss: OnLoss = "share"


@attrs.frozen(kw_only=True)
class ClusterTable:
    """``[cluster]`` as written."""

    redis: RedisAddress | None = setting(read_redis)
    name: str = setting(_read_name, "agm")
    secret: Secret | None = setting(read_secret)
    secret_file: object = setting(read_path)
    secret_env: str | None = setting(read_variable)
    on_loss: OnLoss = setting(_read_on_loss, "share")


def read_cluster(value: object, place: Place) -> ClusterConfig:
    """Return the table ``[cluster]``: ``redis`` and one source of the secret have to be there."""
    written = ClusterTable(**values_of(ClusterTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    if "redis" not in value:
        (place / "redis").problem(f"is missing: {_EXPECTED}")
    check_one_source(place, value, "the cluster", ("secret", "secret_file", "secret_env"))
    secret, at = written.secret, place / "secret"
    try:
        if written.secret_file is not None:
            at = place / "secret_file"
            secret = secret_from_file(written.secret_file, at)
        elif written.secret_env is not None:
            at = place / "secret_env"
            secret = secret_from_environment(written.secret_env, at)
    except UnusableError as unusable:
        at.problem(str(unusable))
    if secret is not None and len(secret.reveal()) < LEAST_SECRET:
        at.problem(f"is shorter than {LEAST_SECRET} characters; `openssl rand -hex 32` makes a good one")
    return ClusterConfig(redis=written.redis, name=written.name, secret=secret, on_loss=written.on_loss)
