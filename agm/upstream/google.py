"""
Credentials that google-auth knows how to get: its classes speak to token endpoints, in the threads of a
:class:`~agm.upstream.credentials.Refresher`, one refresh at a time for each credential.

Nothing here blocks the reactor, and no secret gets into an error, a log or a repr.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import msgspec
from google.auth import (
    aws,
    environment_vars,
    external_account,
    external_account_authorized_user,
    identity_pool,
    impersonated_credentials,
    pluggable,
)
from google.auth.credentials import Credentials as GoogleCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport import Request
from google.oauth2 import credentials as authorized_user
from google.oauth2 import service_account
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.core.network import Network
from agm.upstream.credentials import CredentialError, Headers, Refreshed, Refresher, header_value, is_header_value
from agm.upstream.google_transport import TokenAnswer

log = Logger()

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"
#: Seconds before its end from which on a token is renewed, as google-auth has it.
REFRESH_AHEAD = 225.0
#: Seconds for which a failure that has little chance to go away by itself is taken for the answer to every request.
FAILURE_MEMORY = 10.0
#: The same for a token endpoint that did not answer, or said that it could not.
HICCUP_MEMORY = 2.0
#: Seconds between two refreshes ahead of expiry, and for which a new token is used whatever its expiry says.
PACE = 10.0
#: Bytes of a credentials file that are read at most.
MAX_FILE = 1024 * 1024


@attrs.frozen(eq=False)
class _Token:
    """`expires` is a time of the credential's own clock; None if the token has no known end."""

    headers: Headers = attrs.field(repr=False)
    expires: float | None


@attrs.frozen(eq=False)
class _Refused:
    """An outcome instead of an exception: those hold frames, and frames hold secrets."""

    reason: str
    permanent: bool
    #: Seconds for which to take it for the answer.
    memory: float

    def error(self) -> CredentialError:
        """One for each of those who wait."""
        return CredentialError(self.reason, permanent=self.permanent)


class GoogleCredential(Refreshed):
    """
    A credential of google-auth, loaded when first used, and refreshed ahead of its expiry.

    A token with little time left goes on being used while it is renewed in the background; only who finds none that is
    valid waits.  All who wait do so for the same refresh, and giving up does not end it for the others.

    :param load: gives the credentials, called in a thread, never twice at a time; may block, may raise
        :class:`CredentialError`.
    :param now: seconds of any clock that goes on steadily, from any thread; the reactor's if not given.
    :param network: how the token endpoint is reached, if not as the gateway's upstreams.
    """

    kind = "google"
    refreshable = True

    def __init__(
        self,
        load: Callable[[], GoogleCredentials],
        *,
        refresher: Refresher,
        now: Callable[[], float] | None = None,
        network: Network | None = None,
    ) -> None:
        self._load = load
        self._refresher = refresher
        self._network = network
        self._now = refresher.seconds if now is None else now
        #: The worker's; elsewhere only touched while none is under way.
        self._google: GoogleCredentials | None = None
        self._project: str | None = None
        self._token: _Token | None = None
        self._given: _Token | None = None
        self._failure: _Refused | None = None
        self._renewing = False
        self._renewed_at: float | None = None
        self._waiting: dict[Deferred[_Token], None] = {}

    @property
    def project(self) -> str | None:
        """The project of a service account, known once it has been loaded."""
        return self._project

    async def headers(self) -> Headers:
        """
        ``authorization``, and ``x-goog-user-project`` if the credential names a quota project.

        :raises CredentialError: if there is no valid token, and none can be had.
        """
        self._given = token = self._current() or await self._renewed()
        return token.headers

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """The next :meth:`headers` refresh first; unless what was rejected has been replaced already."""
        if headers is None and self._given is not None:
            headers = self._given.headers
        if self._token is not None and headers == self._token.headers:
            self._token = None

    def _current(self) -> _Token | None:
        """The token if it is valid; one that is about to expire starts its renewal."""
        token = self._token
        if token is None or token.expires is None:
            return token
        left = token.expires - self._now()
        if left <= 0:
            return None
        if left < REFRESH_AHEAD and not self._renewing and not self._within(PACE):
            self._renew()
        return token

    async def _renewed(self) -> _Token:
        failure = self._failure
        if failure is not None and not self._renewing and self._within(failure.memory):
            raise failure.error()
        waiting: Deferred[_Token] = Deferred(lambda d: self._waiting.pop(d, None))
        self._waiting[waiting] = None
        if not self._renewing:
            self._renew()
        return await waiting

    def _within(self, seconds: float) -> bool:
        """Whether the last renewal ended less than `seconds` ago; never after the clock was set back."""
        return self._renewed_at is not None and 0 <= self._now() - self._renewed_at < seconds

    def _renew(self) -> None:
        self._renewing = True
        Deferred.fromCoroutine(self._refresh())

    async def _refresh(self) -> None:
        outcome: tuple[_Token, str | None] | _Refused
        try:
            outcome = await self._refresher.run(self._work)
        except CredentialError as e:
            outcome = _Refused(e.reason, e.permanent, 0.0)
        except Exception:
            log.failure("a credential could not be refreshed")
            outcome = _Refused("the credential could not be refreshed because of an internal error", False, PACE)
        self._renewing = False
        self._renewed_at = self._now()
        for name in ("token", "refresh_token", "client_secret"):
            self._refresher.meet(getattr(self._google, name, None))
        waiting, self._waiting = self._waiting, {}
        if isinstance(outcome, _Refused):
            self._refresher.outcomes["refused" if outcome.permanent else "failed"] += 1
            self._failure = outcome
            if outcome.permanent:
                self._google = None  # a person will have put a new file in place when it is tried again
            if not waiting:
                log.warn("a token could not be renewed ahead of its expiry: {reason}", reason=outcome.reason)
        else:
            self._refresher.outcomes["ok"] += 1
            self._failure = None
            self._token, self._project = outcome
        for each in waiting:
            if each.called:
                continue  # one before it has cancelled it just now
            if isinstance(outcome, _Refused):
                each.errback(outcome.error())
            else:
                each.callback(outcome[0])

    # In a thread

    def _work(self) -> tuple[_Token, str | None] | _Refused:
        google = self._google
        if google is None:
            loaded = self._loaded()
            if isinstance(loaded, _Refused):
                return loaded
            google = self._google = loaded
        exchange = _Watched(self._refresher.request_over(self._network))
        try:
            # only at first: later it may be the one that was rejected
            if self._renewed_at is None and _holds_token(google):
                return self._result(google, _lifetime(google, None))
            google.refresh(exchange)
            return self._result(google, _lifetime(google, exchange))
        except Exception as e:
            return _refusal(e, exchange, google)

    def _loaded(self) -> GoogleCredentials | _Refused:
        try:
            return self._load()
        except CredentialError as e:
            return _Refused(e.reason, e.permanent, FAILURE_MEMORY)
        except (Exception, SystemExit) as e:  # a loader may be a plugin's, and a plugin may be a script
            permanent = isinstance(e, GoogleAuthError | ValueError | KeyError)
            return _Refused(f"the credential cannot be loaded ({type(e).__name__})", permanent, FAILURE_MEMORY)

    def _result(self, google: GoogleCredentials, lifetime: float | None) -> tuple[_Token, str | None]:
        token = google.token
        if not is_header_value(token):
            raise ValueError("no usable token")
        headers = [(b"authorization", b"Bearer " + token.encode("ascii"))]
        if google.quota_project_id:
            headers.append((b"x-goog-user-project", header_value(google.quota_project_id, "the quota project")))
        expires = None if lifetime is None else self._now() + max(lifetime, PACE)
        return _Token(tuple(headers), expires), getattr(google, "project_id", None)


class _Watched(Request):
    """The transport as one refresh uses it: what the last answer said is remembered, but for anything secret."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.status: int | None = None
        self.date: datetime | None = None
        self.code = ""
        #: Whether the endpoint found fault with the time that was signed.
        self.untimely = False

    def __call__(self, *args: Any, **kwargs: Any) -> TokenAnswer:
        answer: TokenAnswer = self._request(*args, **kwargs)
        self.status = answer.status
        self.date = _date(answer.headers.get("date", ""))
        if answer.status != 200:
            self.code = _error_code(answer.data)
            self.untimely = re.search(rb"reasonable timeframe|iat and exp", answer.data) is not None
        return answer


def _error_code(body: bytes) -> str:
    """
    The code in an OAuth error, ``{"error": "invalid_grant"}``, or in a Google API's, ``{"error": {"status": …}}``.

    Anything that does not look like a code is nobody's business: an endpoint may repeat in its errors what it was sent.
    """
    try:
        error = json.loads(body)["error"]
        code = error["status"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}|[A-Z_]{1,40}", code) else ""


def _date(value: str) -> datetime | None:
    try:
        return _naive(parsedate_to_datetime(value))
    except ValueError:
        return None


def _naive(moment: datetime) -> datetime:
    """In UTC, without saying so: google-auth's way."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _utcnow() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _holds_token(google: GoogleCredentials) -> bool:
    """Whether the file held a token that another program got, and that is good for a while."""
    left = _lifetime(google, None)
    return left is not None and left >= REFRESH_AHEAD and is_header_value(google.token)


def _lifetime(google: GoogleCredentials, exchange: _Watched | None) -> float | None:
    """
    Seconds that a token has left, which just came in `exchange`, or was in a file; None if it does not end.

    google-auth adds the ``expires_in`` of an answer to the computer's clock, and taking the same clock away again gives
    it back, however wrong the clock is.  The IAM API names a moment instead; that is compared with its own clock.
    """
    if google.expiry is None:
        return None
    absolute = isinstance(google, impersonated_credentials.Credentials) or (
        isinstance(google, external_account.Credentials) and google.service_account_email is not None
    )
    start = exchange.date if absolute and exchange is not None else None
    return float((_naive(google.expiry) - (start or _utcnow())).total_seconds())


# -- Why a refresh failed ----------------------------------------------------------------------------


def _refusal(error: Exception, exchange: _Watched, google: GoogleCredentials) -> _Refused:
    if isinstance(error, CredentialError):
        return _Refused(error.reason, error.permanent, FAILURE_MEMORY if error.permanent else HICCUP_MEMORY)
    if isinstance(error, TransportError):
        return _Refused(f"no token can be had: {error}", False, HICCUP_MEMORY)
    federated = isinstance(google, external_account.Credentials)
    if exchange.status is None:
        if federated:
            reason = "the subject token of the external account cannot be read from its source"
            return _Refused(f"{reason} ({type(error).__name__})", False, FAILURE_MEMORY)
        if isinstance(error, GoogleAuthError):
            return _Refused("the credential lacks what a refresh needs; make a new one", True, FAILURE_MEMORY)
    if exchange.status == 200:
        return _Refused("the token endpoint answered without a usable token", False, HICCUP_MEMORY)
    if exchange.status in (400, 401, 403, 404) and exchange.code:
        if exchange.untimely:
            why = "the token endpoint finds this computer's clock wrong; set the clock, and it goes on by itself"
            return _Refused(why, False, FAILURE_MEMORY)
        # What else renews the subject token of an external account will do so again without a person.
        permanent = not (federated and exchange.code == "invalid_grant") and not getattr(error, "retryable", False)
        return _Refused(_cure(exchange.code, google), permanent, FAILURE_MEMORY)
    if exchange.status is not None:
        return _Refused(f"the token endpoint answered with status {exchange.status}", False, HICCUP_MEMORY)
    return _Refused(f"the credential could not be refreshed ({type(error).__name__})", False, HICCUP_MEMORY)


def _cure(code: str, google: GoogleCredentials) -> str:
    if code == "invalid_grant":
        google = getattr(google, "_source_credentials", google)  # which an impersonating credential refreshes first
        if isinstance(google, service_account.Credentials):
            return (
                "the token endpoint refused the signature of the service account (invalid_grant): its key was deleted"
                " or disabled, or this computer's clock is wrong; set the clock, or make a new key"
            )
        if isinstance(google, external_account.Credentials):
            return (
                "the token endpoint refused the subject token of the external account (invalid_grant):"
                " it has expired, or its audience is another; see to what provides it"
            )
        return (
            "the token endpoint refused the refresh token (invalid_grant): it has expired or was revoked;"
            " sign in again, and put the new credentials file in place"
        )
    if code in ("invalid_client", "unauthorized_client", "deleted_client", "disabled_client"):
        return (
            f"the token endpoint does not accept the client of the credential ({code}):"
            " check its client id and secret, and that it was not deleted or disabled"
        )
    if code in ("PERMISSION_DENIED", "NOT_FOUND"):
        return (
            f"the credential may not act for the service account ({code}): check the account's name,"
            " and grant the role roles/iam.serviceAccountTokenCreator on it"
        )
    return f"the token endpoint refused the credential ({code}); check it, or make a new one"


# -- Loading -----------------------------------------------------------------------------------------


def load_google(credentials: str, *, scopes: Sequence[str] = (CLOUD_PLATFORM,)) -> GoogleCredentials:
    """
    The credentials that a file holds, or the computer's application default credentials.

    It may block, and is to be called in a thread.

    :param credentials: ``adc``, or the path of a file as Google's tools write it.
    :param scopes: what a service account asks for; a person's credential has the scopes that the person agreed to.
    :raises CredentialError: if there is no such thing, or it means nothing; its reason names the cure.
    """
    return _default(scopes) if credentials == "adc" else _from_file(Path(credentials), scopes, {})


def _default(scopes: Sequence[str]) -> GoogleCredentials:
    # The order is Google's.  Its own function for it would ask gcloud and a web service for the name of a project.
    override = {}
    if quota_project := os.environ.get(environment_vars.GOOGLE_CLOUD_QUOTA_PROJECT):
        override["quota_project_id"] = quota_project
    if named := os.environ.get(environment_vars.CREDENTIALS):
        return _from_file(Path(named), scopes, override)
    gcloud = _gcloud_folder() / "application_default_credentials.json"
    if gcloud.is_file():
        return _from_file(gcloud, scopes, override)
    return _MetadataCredentials(scopes, quota_project)


def _gcloud_folder() -> Path:
    if configured := os.environ.get(environment_vars.CLOUD_SDK_CONFIG_DIR):
        return Path(configured)
    return Path("~/.config/gcloud").expanduser()


def _from_file(path: Path, scopes: Sequence[str], override: Mapping[str, str]) -> GoogleCredentials:
    what = f"the credentials file {path.name!r}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise CredentialError(f"{what} does not exist", permanent=True) from None
    except (PermissionError, IsADirectoryError, ValueError) as e:
        raise CredentialError(f"{what} cannot be read ({type(e).__name__})", permanent=True) from None
    except OSError as e:
        raise CredentialError(f"{what} cannot be read: {e.strerror}") from None
    try:
        info = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        info = None
    if info is None:
        raise CredentialError(f"{what} is not a JSON object", permanent=True)
    return _from_info({**info, **override}, what, scopes)


def _from_info(info: Mapping[str, Any], what: str, scopes: Sequence[str]) -> GoogleCredentials:
    kind = info.get("type")
    known = _TYPES.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise CredentialError(f"{what} {_not_a_credential(info)}", permanent=True)
    build, needed = known
    missing = [name for name in needed if not info.get(name)]
    if missing:
        raise CredentialError(f"{what} is of type {kind}, but lacks {_listed(missing)}", permanent=True)
    for name in _URLS:
        if info.get(name) and not _is_confidential(info[name]):
            raise CredentialError(
                f"{what} has a {name} that would send secrets in the clear; it must be an https URL"
                " (plain http is for loopback hosts only)",
                permanent=True,
            )
    try:
        return build(info, scopes)
    except CredentialError as e:
        raise CredentialError(f"{what} {e.reason}", permanent=e.permanent) from None
    except Exception as e:
        # the parsers' own messages may quote what they could not parse
        failure = type(e).__name__
    raise CredentialError(f"{what} is not a valid file of type {kind} ({failure})", permanent=True)


def _not_a_credential(info: Mapping[str, Any]) -> str:
    if "type" in info:
        return f"is of a type that is not supported; supported are {_listed(sorted(_TYPES))}"
    if "refresh_token" in info or "access_token" in info:
        missing = [name for name in ("type", "client_id", "client_secret", "refresh_token") if name not in info]
        return (
            f"lacks {_listed(missing)}: it looks like the token store of a command line tool (oauth_creds.json)."
            ' Add "type": "authorized_user" and the client_id and client_secret of the OAuth client that the tool'
            " signed in with, or sign in anew with: gcloud auth application-default login"
        )
    if "installed" in info or "web" in info:
        return (
            "describes an OAuth client, not somebody's credential; sign in with it:"
            " gcloud auth application-default login --client-id-file=FILE"
        )
    return 'lacks "type"; make one with: gcloud auth application-default login'


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


#: Where secrets are sent to.
_URLS = ("token_uri", "token_url", "service_account_impersonation_url")


def _is_confidential(url: object) -> bool:
    try:
        split = urlsplit(url) if isinstance(url, str) else None
        host = split.hostname if split is not None else None
    except ValueError:
        return False
    if split is None or not host:
        return False
    loopback = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
    return split.scheme == "https" or (split.scheme == "http" and loopback)


def _authorized_user(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    # google-auth's own constructor from a file overrides the token_uri, and its copies forget the expiry
    parsed = authorized_user.Credentials.from_authorized_user_info(info)
    return authorized_user.Credentials(
        token=parsed.token,
        expiry=parsed.expiry,
        refresh_token=parsed.refresh_token,
        token_uri=info.get("token_uri") or parsed.token_uri,
        client_id=parsed.client_id,
        client_secret=parsed.client_secret,
        scopes=parsed.scopes,
        quota_project_id=parsed.quota_project_id,
        rapt_token=parsed.rapt_token,
        universe_domain=parsed.universe_domain,
        account=parsed.account,
    )


def _service_account(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    return service_account.Credentials.from_service_account_info(
        info, scopes=list(scopes), quota_project_id=info.get("quota_project_id")
    )


def _external_account(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    source = info["credential_source"]
    if "certificate" in source:
        raise CredentialError("is bound to a client certificate, which is not supported", permanent=True)
    build: type[external_account.Credentials] = identity_pool.Credentials
    if info["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request":  # noqa: S105  # a type, no token
        build = aws.Credentials
    elif "executable" in source:
        build = pluggable.Credentials
    return build.from_info(info, scopes=list(scopes))


def _external_account_authorized_user(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    return external_account_authorized_user.Credentials.from_info(info)


def _impersonated(info: Mapping[str, Any], scopes: Sequence[str]) -> GoogleCredentials:
    source = info["source_credentials"]
    if source.get("type") == "impersonated_service_account":
        raise CredentialError(
            "has a source of its own type; name the service accounts between as delegates", permanent=True
        )
    url = info["service_account_impersonation_url"]
    principal = re.search(r"/([^/:]+):generateAccessToken$", url)
    if principal is None:
        raise CredentialError("names no service account in its service_account_impersonation_url", permanent=True)
    return impersonated_credentials.Credentials(
        source_credentials=_from_info(source, "has a source that", scopes),
        target_principal=principal[1],
        target_scopes=list(scopes),
        delegates=info.get("delegates"),
        quota_project_id=info.get("quota_project_id"),
        # the URL as it stands: it may be a regional one
        iam_endpoint_override=url,
    )


#: By type: what makes the credentials, and the keys that it cannot do without.
_TYPES: Mapping[str, tuple[Callable[[Mapping[str, Any], Sequence[str]], GoogleCredentials], Sequence[str]]] = {
    "authorized_user": (_authorized_user, ("refresh_token", "client_id", "client_secret")),
    "service_account": (_service_account, ("client_email", "private_key", "token_uri")),
    "external_account": (
        _external_account,
        ("audience", "subject_token_type", "token_url", "credential_source"),
    ),
    "external_account_authorized_user": (_external_account_authorized_user, ()),
    "impersonated_service_account": (
        _impersonated,
        ("source_credentials", "service_account_impersonation_url"),
    ),
}


class _MetadataCredentials(GoogleCredentials):
    """
    The service account of the machine, from its metadata server.

    google-auth's own class for it needs another HTTP library.
    """

    def __init__(self, scopes: Sequence[str], quota_project: str | None) -> None:
        super().__init__()
        self._scopes = scopes
        self._quota_project_id = quota_project
        self._answered = False

    def refresh(self, request: Request) -> None:
        """Ask for a token."""
        host = os.environ.get(environment_vars.GCE_METADATA_HOST)
        path = "computeMetadata/v1/instance/service-accounts/default/token"
        try:
            answer = request(
                f"http://{host or 'metadata.google.internal'}/{path}?scopes={','.join(self._scopes)}",
                headers={"Metadata-Flavor": "Google"},
                timeout=3,
            )
        except TransportError:
            answer = None
        # A captive portal answers anything, but does not say that it is Google.
        if answer is None or answer.headers.get("metadata-flavor") != "Google":
            if host or self._answered:
                raise CredentialError("the metadata server does not answer")
            raise CredentialError(
                "there are no application default credentials: make them with"
                " gcloud auth application-default login, or name a file in GOOGLE_APPLICATION_CREDENTIALS",
                permanent=True,
            )
        self._answered = True
        if answer.status == 404:
            raise CredentialError("the machine has no service account; give it one", permanent=True)
        if answer.status != 200:
            raise CredentialError(f"the metadata server answered with status {answer.status}")
        token = json.loads(answer.data)
        self.token = token["access_token"]
        self.expiry = _utcnow() + timedelta(seconds=int(token["expires_in"]))
