"""``[[accounts]]``: the upstream accounts, with what each kind needs to be let in."""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import msgspec

from agm.config.addresses import ends_in_version, read_endpoint
from agm.config.files import read_path
from agm.config.logins import read_login
from agm.config.network import authorities_in, read_proxy
from agm.config.plugin_settings import problems_of
from agm.config.problems import Problem
from agm.config.reading import Place, Reader, RefusedError, array_of, setting, values_of
from agm.config.secret import (
    Secret,
    UnusableError,
    check_one_source,
    digest_of,
    read_variable,
    read_written_secret,
    secret_from_environment,
    secret_from_file,
    why_unusable,
)
from agm.config.values import one_of, read_boolean, read_fraction, read_text, whole_number
from agm.config.words import nearest_of, show
from agm.core.network import Authorities, Network, ProxySetting
from agm.core.request import BUILT_IN_KINDS, UpstreamKind


def default_endpoints(kind: str, location: str = "global") -> tuple[str, ...]:
    """
    Return the base URLs of an account that names none: Google's own, for Vertex AI those of the location.

    None for a kind of a plugin's, which is not known here.
    """
    known = BUILT_IN_KINDS.get(kind)
    return () if known is None else known.default_endpoints(location)


_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class AccountConfig:
    """
    One upstream account, its secrets resolved.

    ``credentials`` is ``"adc"`` or the absolute path of a google-auth file; ``endpoints`` are base URLs
    without a slash at the end, tried in order; ``models`` are patterns; ``max_concurrency`` is ``None`` for
    no limit; ``reserve`` is a fraction; ``proxy`` and ``ca_file`` of ``None`` are those of ``[upstream]``.  An account
    that is not ``enabled`` may lack its secret; of one that is, ``unusable`` says why its secret is missing or cannot
    be used, and what helps.  ``login`` tells the credential in the file of ``credentials`` from another one.
    ``settings`` are the keys of an account of a plugin's kind that are that kind's own, as they were written.
    """

    name: str
    kind: str
    api_key: Secret | None = None
    credentials: str | None = None
    access_token: Secret | None = None
    project: str | None = None
    location: str = "global"
    endpoints: tuple[str, ...] = attrs.field()
    models: tuple[str, ...] = ("*",)
    priority: int = 0
    max_concurrency: int | None = None
    max_sessions: int | None = None
    reserve: float = 0.0
    proxy: ProxySetting | None = None
    ca_file: Authorities | None = None
    enabled: bool = True
    unusable: str | None = None
    login: str | None = attrs.field(default=None, repr=False)
    settings: Mapping[str, Any] = attrs.field(default=_NO_SETTINGS, repr=False)

    @endpoints.default
    def _endpoints_of_kind(self) -> tuple[str, ...]:
        return default_endpoints(self.kind, self.location)

    @property
    def network(self) -> Network | None:
        """How the account's upstream is reached; None as all others."""
        return None if self.proxy is None and self.ca_file is None else Network(self.proxy, self.ca_file)


def _read_name(value: object, place: Place) -> str:
    text = read_text(value, place)
    if not re.fullmatch("[A-Za-z0-9._-]+", text):
        raise RefusedError(f"{show(text)} is not a name of letters, digits, '.', '_' and '-'")
    return text


def read_credentials(value: object, place: Place) -> str:
    """``adc``, or the absolute path of a google-auth file."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        raise RefusedError('expected "adc" or the path of a file, not what is in the file')
    return "adc" if value == "adc" else str(read_path(value, place))


def _read_project(value: object, place: Place) -> str:
    text = read_text(value, place)
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", text):
        raise RefusedError(f"{show(text)} is not a project id or number")
    return text


def _read_location(value: object, place: Place) -> str:
    text = read_text(value, place)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", text):
        raise RefusedError(f"{show(text)} is not a location like 'global' or 'us-central1'")
    return text


def mistaken_for(kind: str) -> str | None:
    """Return the built-in kind that a name is too like to be that of another; None for itself, and for all others."""
    near = difflib.get_close_matches(kind, BUILT_IN_KINDS, 1, _ALIKE)
    return near[0] if near and near[0] != kind else None


#: Of 1, how alike two names are that nobody tells apart: ``vertx`` and ``vertex``.
_ALIKE = 0.88


def _read_kind(value: object, place: Place) -> str:
    """Any name: whether a plugin has such a kind is not known here, see :func:`kind_problems`."""
    if isinstance(value, str) and re.fullmatch("[a-z][a-z0-9-]{0,62}", value) and mistaken_for(value) is None:
        return value
    return one_of(*BUILT_IN_KINDS)(value, place)


_API_KEY = ("api_key", "api_key_env", "api_key_file")
#: What accounts of every kind have, those of plugins' too; all else is the kind's own.
_OF_EVERY_KIND = (
    "name",
    "kind",
    *_API_KEY,
    "endpoints",
    "models",
    "priority",
    "max_concurrency",
    "max_sessions",
    "proxy",
    "ca_file",
    "enabled",
)


_TOKEN = ("credentials", "access_token", "access_token_env")


@attrs.frozen(kw_only=True)
class AccountTable:
    """``[[accounts]]`` as written."""

    name: str = setting(_read_name, "", required="each account needs a name of its own")
    kind: str = setting(_read_kind, "api-key", required="write api-key, vertex or code-assist")
    api_key: Secret | None = setting(read_written_secret)
    api_key_env: str | None = setting(read_variable)
    api_key_file: Path | None = setting(read_path)
    credentials: str | None = setting(read_credentials)
    access_token: Secret | None = setting(read_written_secret)
    access_token_env: str | None = setting(read_variable)
    project: str | None = setting(_read_project)
    location: str = setting(_read_location, "global")
    endpoints: tuple[str, ...] | None = setting(
        array_of(read_endpoint, least=1, empty="names no endpoint; leave it out for Google's own")
    )
    models: tuple[str, ...] = setting(
        array_of(read_text, least=1, empty="would serve no model; leave it out for all, or write enabled = false"),
        ("*",),
    )
    priority: int = setting(whole_number(-1_000_000, 1_000_000), 0)
    max_concurrency: int | None = setting(whole_number(1, 1_000_000, "; leave it out for no limit"))
    max_sessions: int | None = setting(whole_number(1, 1_000_000, "; leave it out for no limit"))
    reserve: float = setting(read_fraction, 0.0)
    proxy: ProxySetting | None = setting(read_proxy)
    ca_file: Path | None = setting(read_path)
    enabled: bool = setting(read_boolean, True)


def read_account(value: object, place: Place) -> AccountConfig:
    """Return a table of ``[[accounts]]``."""
    settings = _NO_SETTINGS
    if isinstance(value, dict) and _is_foreign(value.get("kind")):
        settings = {key: item for key, item in value.items() if key not in _OF_EVERY_KIND}
        value = {key: item for key, item in value.items() if key in _OF_EVERY_KIND}
    values = values_of(AccountTable, value, place)
    written = AccountTable(**values)
    assert isinstance(value, dict), "no other value gets beyond the lines above"
    if _is_foreign(values.get("kind")):
        given = [name for name in _API_KEY if name in value]
        for name in given[1:]:
            (place / name).problem(f"give {given[0]} or {name}, not both")
    elif "kind" in values:
        _check_sources(written.kind, value, place)
        for number, url in enumerate(written.endpoints or ()):
            if ends_in_version(url):
                shown = show(value["endpoints"][number])
                (place / "endpoints")[number].warn(f"{shown} ends in an API version, which the gateway adds itself")
    if written.name and (holder := (place / "name").claim("account", written.name)):
        (place / "name").problem(f"{show(written.name)} is {holder} already; give each account its own name")
    # A disabled account may be disabled for the very reason that its secret is not there.
    found = _Secrets.of(written, place) if written.enabled else _Secrets(written.api_key, written.access_token)
    authorities: Authorities | None = None
    if written.ca_file is not None and written.enabled:
        try:
            authorities = authorities_in(written.ca_file, place / "ca_file")
        except RefusedError as lacking:  # without them its upstream could not be told from another
            (place / "ca_file").lack(f"{lacking}; until then {show(written.name)} is off")
            brief = str(lacking).replace(repr(str(written.ca_file)), repr(written.ca_file.name))
            found = attrs.evolve(found, unusable=found.unusable or f"the ca_file {brief}")
    if (
        found.api_key is not None
        and written.enabled
        and (
            # in another API the same key has another quota
            holder := place.claim(f"API key of {written.kind}", digest_of(found.api_key))
        )
    ):
        place.warn(f"has the same API key as {holder}, and so the same quota; remove one of the two")
    return AccountConfig(
        name=written.name,
        kind=written.kind,
        api_key=found.api_key,
        credentials=written.credentials,
        access_token=found.access_token,
        project=written.project,
        location=written.location,
        endpoints=written.endpoints or default_endpoints(written.kind, written.location),
        models=written.models,
        priority=written.priority,
        max_concurrency=written.max_concurrency,
        max_sessions=written.max_sessions,
        reserve=written.reserve,
        proxy=written.proxy,
        ca_file=authorities,
        enabled=written.enabled,
        unusable=found.unusable,
        login=found.login,
        settings=settings,
    )


def _is_foreign(kind: object) -> bool:
    return isinstance(kind, str) and kind not in BUILT_IN_KINDS and mistaken_for(kind) is None


def kind_problems(
    accounts: Iterable[AccountConfig], kinds: Mapping[str, UpstreamKind], file: Path | None
) -> Iterator[Problem]:
    """
    Say what is wrong with accounts whose kind is a plugin's, which the file alone cannot tell.

    :param accounts: all of a configuration, in its order.
    :param kinds: all that there are, by name.
    """
    for number, entry in enumerate(accounts):
        at = f"accounts[{number}]"
        if entry.kind in BUILT_IN_KINDS:
            continue
        kind = kinds.get(entry.kind)
        if kind is None:
            near = nearest_of(entry.kind, kinds)
            hint = f"did you mean {near!r}?" if near else "a plugin that has it goes into [plugins] load"
            yield Problem(file, f"{at}.kind", f"{show(entry.kind)} is not one of {', '.join(kinds)}; {hint}")
            continue
        yield from problems_of(at, entry.settings, kind.settings or msgspec.Struct, file, of=f"{kind.name} accounts")
        if entry.enabled and not entry.endpoints and not kind.default_endpoints():
            yield Problem(file, f"{at}.endpoints", f"is missing: {kind.name} accounts each name their own")
        if entry.enabled and kind.needs_key and entry.api_key is None and entry.unusable is None:
            yield Problem(file, f"{at}.api_key", f"is missing: write one of {', '.join(_API_KEY)}")


@attrs.frozen
class _Secrets:
    """What lets an account in: of the first three at most one, and ``unusable`` where none of them can be used."""

    api_key: Secret | None = None
    access_token: Secret | None = None
    login: str | None = None
    unusable: str | None = None

    @classmethod
    def of(cls, written: AccountTable, place: Place) -> "_Secrets":
        """Fetch the secret of an account; one that cannot be used is noted."""
        sources: tuple[tuple[str, str, Reader[Any]], ...] = (
            ("api_key", "api_key", _fit),
            ("api_key_env", "api_key", secret_from_environment),
            ("api_key_file", "api_key", secret_from_file),
            ("access_token", "access_token", _fit),
            ("access_token_env", "access_token", secret_from_environment),
            ("credentials", "login", lambda value, place: read_login(str(value), place)),
        )
        for key, into, read in sources:
            source = getattr(written, key)
            if source is not None:
                try:
                    return cls(**{into: read(source, place / key)})
                except UnusableError as lacking:
                    (place / key).lack(f"{lacking}; until then {show(written.name)} is off")
                    return cls(unusable=lacking.brief)
        return cls()


def _fit(secret: object, place: Place) -> Secret:
    """Return a secret that is written in the file.  Raises :class:`UnusableError`."""
    assert isinstance(secret, Secret)
    if why := why_unusable(secret.reveal()):
        raise UnusableError(why, f"the {place.key.rpartition('.')[2]} {why}")
    return secret


def _check_sources(kind: str, table: Mapping[str, object], place: Place) -> None:
    """Check that the account has the credentials that its kind needs, and none that its kind does not use."""
    api_keys = [name for name in _API_KEY if name in table]
    beside = [name for name in (*_TOKEN, "project") if name in table]
    if kind == "api-key":
        check_one_source(place, table, "an api-key account", _API_KEY)
        for name in beside:
            (place / name).problem(f"an api-key account takes no {name}; remove it, or write another kind")
    elif kind == "vertex" and api_keys:
        check_one_source(place, table, "a vertex account in express mode", _API_KEY)
        for name in beside:
            (place / name).problem(
                f"a vertex account with an API key (express mode) takes no {name}; remove it or {api_keys[0]}"
            )
    elif kind == "vertex":
        check_one_source(place, table, "a vertex account", _TOKEN, " (or an API key alone, for express mode)")
        if "project" not in table:
            (place / "project").problem("is missing: a vertex account needs it, except with an API key (express mode)")
    else:
        for name in api_keys:
            (place / name).problem(
                "a code-assist account is let in by OAuth tokens only, never by an API key;"
                ' give credentials or access_token, or write kind = "api-key"'
            )
        if not api_keys:
            check_one_source(place, table, "a code-assist account", _TOKEN)
    if kind != "vertex" and "location" in table:
        (place / "location").warn(f"only a vertex account has a location; it changes nothing for {kind}")
