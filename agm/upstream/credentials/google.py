"""
Credentials that google-auth knows how to get: its classes speak to token endpoints, in the threads of a
:class:`~agm.upstream.credentials.refresher.Refresher`, one refresh at a time for each credential.

Nothing here blocks the reactor, and no secret gets into an error, a log or a repr.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
from google.auth import (
    external_account,
    impersonated_credentials,
)
from google.auth.credentials import Credentials as GoogleCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport import Request
from google.oauth2 import service_account
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.core.network import Network
from agm.upstream.credentials.credential import CredentialError, Headers, Refreshed, header_value, is_header_value
from agm.upstream.credentials.google_transport import TokenAnswer
from agm.upstream.credentials.refresher import Refresher

log = Logger()

#: Seconds before its end from which on a token is renewed, as google-auth has it.
REFRESH_AHEAD = 225.0
#: Seconds for which a failure that has little chance to go away by itself is taken for the answer to every request.
FAILURE_MEMORY = 10.0
#: The same for a token endpoint that did not answer, or said that it could not.
HICCUP_MEMORY = 2.0
#: Seconds between two refreshes ahead of expiry, and for which a new token is used whatever its expiry says.
PACE = 10.0


@attrs.frozen(eq=False)
class _Token:
    """`expires` is a time of the credential's own clock, `ends` one of the wall clock; None if no end is known."""

    headers: Headers = attrs.field(repr=False)
    expires: float | None
    ends: float | None


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
    :param wall: seconds since the epoch, from any thread.
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
        wall: Callable[[], float] = time.time,
        network: Network | None = None,
    ) -> None:
        self._load = load
        self._wall = wall
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
        """
        The token if it is valid; one that is about to expire starts its renewal.

        The steady clock says that it is valid.  Where the wall clock alone says that it is not, either that was set, or
        the machine was paused without either clock knowing: it is renewed, and used until it is refused.
        """
        token = self._token
        if token is None or token.expires is None or token.ends is None:
            return token
        left = token.expires - self._now()
        if left <= 0:
            return None
        if min(left, token.ends - self._wall()) < REFRESH_AHEAD and not self._renewing and not self._within(PACE):
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
        """Return whether the last renewal ended less than `seconds` ago; never after the clock was set back."""
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
            self._refresher.found_secret(getattr(self._google, name, None))
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
            _refresh(google, exchange)
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
        expires = ends = None
        if lifetime is not None:
            expires, ends = self._now() + max(lifetime, PACE), self._wall() + max(lifetime, PACE)
        return _Token(tuple(headers), expires, ends), getattr(google, "project_id", None)


class _Watched(Request):
    """The transport as one refresh uses it: what the last answer said is remembered, but for anything secret."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.asked = 0
        self.status: int | None = None
        self.date: datetime | None = None
        self.code = ""
        #: Whether the endpoint found fault with the time that was signed.
        self.untimely = False

    def __call__(self, *args: Any, **kwargs: Any) -> TokenAnswer:
        self.asked += 1
        answer: TokenAnswer = self._request(*args, **kwargs)
        self.status = answer.status
        self.date = _date(answer.headers.get("date", ""))
        if answer.status != 200:
            self.code = _error_code(answer.data)
            self.untimely = re.search(rb"reasonable timeframe|iat and exp", answer.data) is not None
        return answer


def _refresh(google: GoogleCredentials, exchange: _Watched) -> None:
    """
    Have google-auth get a token.

    Who impersonates shows a token of its own for that.  google-auth keeps it for as long as the wall clock says, which
    is too long once that was set back: one that is refused without having been renewed just now is renewed.
    """
    try:
        google.refresh(exchange)
    except GoogleAuthError:
        impersonating = getattr(google, "_impersonated_credentials", None) or google
        source = getattr(impersonating, "_source_credentials", None)
        if source is None or exchange.status != 401 or exchange.asked != 1:
            raise
        source.token = None
        google.refresh(exchange)


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
    """Return the same for any moment."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def utcnow() -> datetime:
    """Return the time in UTC, without saying so: google-auth's way."""
    return datetime.now(UTC).replace(tzinfo=None)


def _holds_token(google: GoogleCredentials) -> bool:
    """Return whether the file held a token that another program got, and that is good for a while."""
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
    return float((_naive(google.expiry) - (start or utcnow())).total_seconds())


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
                " it has expired, or its audience is another; check its provider"
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
