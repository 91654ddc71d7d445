"""``[cluster]``: the store that several processes of one gateway share."""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import attrs

from agm.config.files import read_path
from agm.config.reading import Place, RefusedError, setting, values_of
from agm.config.secret import (
    Secret,
    UnusableError,
    check_one_source,
    read_variable,
    read_written_secret,
    secret_from_environment,
    secret_from_file,
)
from agm.config.values import one_of, read_text
from agm.config.words import show

OnLoss = Literal["share", "refuse", "allow"]
_SECRET = ("secret", "secret_env", "secret_file")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORMS = "write redis://HOST:PORT, rediss://HOST:PORT for TLS, or unix:PATH"


@attrs.frozen(kw_only=True)
class ClusterConfig:
    """
    Where the store is, with its password, if it has one; ``None`` for no store.

    ``name`` keeps several gateways in one store apart; ``secret`` is what all machines have; ``on_loss`` says what
    holds of limits while the store is away.
    """

    redis: Secret | None = None
    name: str = "agm"
    secret: Secret | None = None
    on_loss: OnLoss = "share"


def _read_address(value: object, place: Place) -> Secret:
    """The address of a Redis or Valkey; it may hold a password, and is in no message."""
    written = read_written_secret(value, place).reveal()
    if written.startswith("unix:"):
        if not written.removeprefix("unix:").startswith("/"):
            raise RefusedError("has to name the socket by its whole path: unix:/run/redis/redis.sock")
        return Secret(written)
    try:
        url = urlsplit(written)
        usable = url.scheme in ("redis", "rediss") and bool(url.hostname) and url.port != 0
        usable = usable and (not url.path.strip("/") or url.path.strip("/").isdecimal())
    except ValueError:
        usable = False
    if not usable or url.query or url.fragment:
        raise RefusedError(f"is no address of a Redis; {_FORMS}")
    return Secret(written)


def _read_name(value: object, place: Place) -> str:
    name = read_text(value, place)
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{show(name)} is no name: up to 64 letters, digits, dots, hyphens and underscores")
    return name


@attrs.frozen(kw_only=True)
class ClusterTable:
    """``[cluster]`` as written."""

    redis: Secret | None = setting(_read_address, required="name the store: redis://HOST:PORT or unix:PATH")
    name: str = setting(_read_name, "agm")
    secret: Secret | None = setting(read_written_secret)
    secret_env: str | None = setting(read_variable)
    secret_file: Path | None = setting(read_path)
    on_loss: OnLoss = setting(one_of("share", "refuse", "allow"), "share")


def read_cluster(value: object, place: Place) -> ClusterConfig:
    """The table ``[cluster]``."""
    written = ClusterTable(**values_of(ClusterTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    check_one_source(place, value, "a cluster", _SECRET)
    return ClusterConfig(
        redis=written.redis, name=written.name, secret=_secret(written, place), on_loss=written.on_loss
    )


def _secret(written: ClusterTable, place: Place) -> Secret | None:
    key = next((key for key in _SECRET if getattr(written, key) is not None), None)
    if key is None:
        return None
    at = place / key
    try:
        if written.secret is not None:
            secret = written.secret
        elif written.secret_env is not None:
            secret = secret_from_environment(written.secret_env, at)
        else:
            secret = secret_from_file(written.secret_file, at, "the secret")
    except UnusableError as lacking:
        at.problem(str(lacking))
        return None
    if len(secret.reveal()) < 16:
        at.problem("is shorter than 16 characters; make one: openssl rand -base64 32")
    return secret
