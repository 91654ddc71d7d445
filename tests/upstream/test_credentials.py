"""
Credentials: what they put into a request's headers, when they refresh, and what is said when they cannot.

The credentials are google-auth's own, made from files as Google's tools write them, and refreshed at a token endpoint
on loopback that counts.  Time is a number that a test sets.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import aws, pluggable
from google.auth.credentials import AnonymousCredentials
from google.auth.credentials import Credentials as GoogleCredentials
from google.auth.exceptions import DefaultCredentialsError, TransportError
from support import eventually, reactor, settle
from token_server import CANARY, Asked, TokenServer, api_error, oauth_error
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.http_headers import Headers as WireHeaders

from agm.upstream import google as module
from agm.upstream.client import UpstreamClient
from agm.upstream.credentials import ApiKey, Credential, CredentialError, Headers, Refresher, StaticToken
from agm.upstream.google import (
    CLOUD_PLATFORM,
    FAILURE_MEMORY,
    HICCUP_MEMORY,
    PACE,
    REFRESH_AHEAD,
    GoogleCredential,
    load_google,
)
from agm.upstream.google_transport import HeaderValues, TokenAnswer

HOUR = 3600.0


class Time:
    """A clock that stands still until a test sets it; its zero is its own."""

    def __init__(self) -> None:
        self.seconds = 5_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Time:
    """The credentials' clock."""
    return Time()


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[TokenServer]:
    """A token endpoint."""
    running = TokenServer()
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def refresher() -> AsyncIterator[Refresher]:
    """Threads and the transport, as the gateway puts them together."""
    client = UpstreamClient(reactor, connect_timeout=5)
    running = Refresher(reactor, client.treq())
    running.start()
    yield running
    await running.stop()
    await client.close()


@pytest.fixture(scope="module")
def private_key() -> str:
    """The key of a service account."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the keys of a credentials file, and gives its path."""

    def write(name: str = "credentials.json", **info: object) -> str:
        path = tmp_path / name
        path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))
        return str(path)

    return write


def a_user(url: str, **more: object) -> dict[str, object]:
    """An ``authorized_user``; the canary is in its secrets."""
    return {
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": f"client-{CANARY}",
        "refresh_token": f"refresh-{CANARY}",
        "token_uri": url + "/token",
        **more,
    }


def a_service_account(url: str, private_key: str, **more: object) -> dict[str, object]:
    """A ``service_account``."""
    return {
        "type": "service_account",
        "project_id": "a-project",
        "client_email": "robot@a-project.iam.gserviceaccount.com",
        "private_key": private_key,
        "token_uri": url + "/token",
        **more,
    }


def an_external_account(url: str, subject_token: Path, **more: object) -> dict[str, object]:
    """An ``external_account`` whose subject token is in a file."""
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": url + "/sts",
        "credential_source": {"file": str(subject_token)},
        **more,
    }


def an_impersonation(url: str, source: object, **more: object) -> dict[str, object]:
    """An ``impersonated_service_account``."""
    return {
        "type": "impersonated_service_account",
        "source_credentials": source,
        "service_account_impersonation_url": url + "/v1/projects/-/serviceAccounts/robot@b.c:generateAccessToken",
        **more,
    }


Make = Callable[..., GoogleCredential]


@pytest.fixture
def make(write: Write, refresher: Refresher, now: Time) -> Make:
    """Makes the credential of a file that holds the given keys."""

    def make(**info: object) -> GoogleCredential:
        path = write(**info)
        return GoogleCredential(lambda: load_google(path), refresher=refresher, now=now)

    return make


@pytest.fixture
def user(make: Make, server: TokenServer) -> GoogleCredential:
    """A person's credential."""
    return make(**a_user(server.url))


def asking(credential: Credential) -> Deferred[Headers]:
    """A request's way to the headers, under way."""
    return Deferred.fromCoroutine(credential.headers())


def token(headers: Headers) -> str:
    """The token in headers that hold nothing else, without what is the same in all of them."""
    ((name, value),) = headers
    assert name == b"authorization"
    return value.decode("ascii").removeprefix(f"Bearer ya29.{CANARY}-")


async def refusal(credential: Credential) -> CredentialError:
    """The error in place of headers."""
    with pytest.raises(CredentialError) as caught:
        await credential.headers()
    return caught.value


def loaded(credentials: str = "adc", **options: Any) -> Any:
    """The credentials, of whatever class."""
    return load_google(credentials, **options)


def load_refusal(path: str) -> CredentialError:
    """The error in place of credentials."""
    with pytest.raises(CredentialError) as caught:
        load_google(path)
    return caught.value


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Every event that is logged, as text and with all its fields."""
    lines: list[str] = []

    def watch(event: Any) -> None:
        lines.append(f"{formatEvent(event)} {event!r}")

    globalLogPublisher.addObserver(watch)
    yield lines
    globalLogPublisher.removeObserver(watch)


# -- What does not refresh ---------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_api_key_is_a_header() -> None:
    """It is what it is, before and after a 401."""
    key: Credential = ApiKey(CANARY)
    assert await key.headers() == ((b"x-goog-api-key", CANARY.encode()),)
    key.mark_rejected()
    assert await key.headers() == ((b"x-goog-api-key", CANARY.encode()),)
    assert (key.kind, key.refreshable, key.project) == ("api-key", False, None)


@pytest_twisted.ensureDeferred
async def test_a_static_token_is_a_bearer_token() -> None:
    """It is what it is, before and after a 401."""
    static: Credential = StaticToken(CANARY)
    assert await static.headers() == ((b"authorization", b"Bearer " + CANARY.encode()),)
    static.mark_rejected()
    assert await static.headers() == ((b"authorization", b"Bearer " + CANARY.encode()),)
    assert (static.kind, static.refreshable, static.project) == ("access-token", False, None)


@pytest.mark.parametrize("secret", ["", "a b", "a\r\nx: y", "schlüssel", "a\x00"])
@pytest.mark.parametrize("kind", [ApiKey, StaticToken])
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_in_a_header_is_refused(kind: Callable[[str], Credential], secret: str) -> None:
    """A line end in a key would be another header."""
    error = await refusal(kind(secret))
    assert error.permanent
    assert error.reason.endswith("is empty or holds a character that cannot be in a header")


# -- What each type of file gives --------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_person_s_credential(user: GoogleCredential, server: TokenServer) -> None:
    """The refresh token goes to the endpoint that the file names, without scopes that nobody agreed to."""
    assert token(await user.headers()) == "1"
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/token")
    assert asked.form == {
        "grant_type": "refresh_token",
        "client_id": "client",
        "client_secret": f"client-{CANARY}",
        "refresh_token": f"refresh-{CANARY}",
    }
    assert (user.kind, user.refreshable, user.project) == ("google", True, None)


@pytest_twisted.ensureDeferred
async def test_a_service_account(make: Make, server: TokenServer, private_key: str) -> None:
    """It signs for itself; its file names a project, which is known once it was read."""
    credential = make(**a_service_account(server.url, private_key))
    assert credential.project is None
    assert token(await credential.headers()) == "1"
    assert server.asked[0].form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert CLOUD_PLATFORM in claims(server.asked[0].form["assertion"])["scope"]
    assert credential.project == "a-project"


def claims(jwt: str) -> dict[str, str]:
    """The claims of a signed token."""
    from google.auth.jwt import decode

    decoded: dict[str, str] = decode(jwt, verify=False)
    return decoded


@pytest_twisted.ensureDeferred
async def test_an_external_account(make: Make, server: TokenServer, tmp_path: Path) -> None:
    """The subject token is read anew for each exchange."""
    subject_token = tmp_path / "subject"
    subject_token.write_text("first")
    credential = make(**an_external_account(server.url, subject_token))
    assert token(await credential.headers()) == "1"
    subject_token.write_text("second")
    credential.mark_rejected()
    assert token(await credential.headers()) == "2"
    assert [asked.path for asked in server.asked] == ["/sts", "/sts"]
    assert [asked.form["subject_token"] for asked in server.asked] == ["first", "second"]
    assert server.asked[0].form["scope"] == CLOUD_PLATFORM


@pytest_twisted.ensureDeferred
async def test_an_external_account_of_a_person(make: Make, server: TokenServer) -> None:
    """A workforce identity has a refresh token."""
    credential = make(
        type="external_account_authorized_user",
        audience="//iam.googleapis.com/locations/global/workforcePools/p/providers/q",
        token_url=server.url + "/sts",
        client_id="client",
        client_secret=CANARY,
        refresh_token=CANARY,
    )
    assert token(await credential.headers()) == "1"
    assert server.asked[0].form == {"grant_type": "refresh_token", "refresh_token": CANARY}


@pytest_twisted.ensureDeferred
async def test_an_impersonated_service_account(make: Make, server: TokenServer) -> None:
    """A person's token, from the person's endpoint, is exchanged for a service account's, at the URL that is named."""
    credential = make(**an_impersonation(server.url, a_user(server.url)))
    assert token(await credential.headers()) == "2"
    first, second = server.asked
    assert first.path == "/token"
    assert second.path == "/v1/projects/-/serviceAccounts/robot@b.c:generateAccessToken"
    assert second.headers["authorization"] == [f"Bearer ya29.{CANARY}-1"]
    assert json.loads(second.body) == {"delegates": None, "scope": [CLOUD_PLATFORM], "lifetime": "3600s"}


@pytest_twisted.ensureDeferred
async def test_a_quota_project_is_named_to_the_upstream(make: Make, server: TokenServer, private_key: str) -> None:
    """Whoever the file says is billed."""
    expected = (b"x-goog-user-project", b"payer")
    assert expected in await make(**a_user(server.url, quota_project_id="payer")).headers()
    assert expected in await make(**a_service_account(server.url, private_key, quota_project_id="payer")).headers()


@pytest_twisted.ensureDeferred
async def test_a_quota_project_that_is_none(make: Make, server: TokenServer) -> None:
    """It cannot smuggle a header in."""
    error = await refusal(make(**a_user(server.url, quota_project_id="payer\r\nx: y")))
    assert error.permanent
    assert error.reason.startswith("the quota project is empty or holds a character")


@pytest_twisted.ensureDeferred
async def test_a_token_in_the_file_is_used(make: Make, server: TokenServer, now: Time) -> None:
    """Another program got it, and it is good for a while; then it is renewed like any other."""
    until = datetime.now(UTC) + timedelta(hours=1)
    credential = make(**a_user(server.url, token=f"ya29.{CANARY}-held", expiry=until.strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert token(await credential.headers()) == "held"
    assert server.count == 0
    now.seconds += HOUR
    assert token(await credential.headers()) == "1"


@pytest.mark.parametrize(
    ("held", "minutes"), [("held", 3), ("held", -60), ("he ld", 60), (None, 60)], ids=["soon", "past", "odd", "none"]
)
@pytest_twisted.ensureDeferred
async def test_a_token_in_the_file_that_is_no_good(
    make: Make, server: TokenServer, held: str | None, minutes: int
) -> None:
    """It is about to expire, or is none: a new one is got at once."""
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    credential = make(**a_user(server.url, token=held, expiry=until.strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert token(await credential.headers()) == "1"


@pytest_twisted.ensureDeferred
async def test_a_rejected_token_is_not_read_from_the_file_again(make: Make, server: TokenServer, now: Time) -> None:
    """Not even when the refresh failed, and the file is read once more."""
    until = datetime.now(UTC) + timedelta(hours=1)
    credential = make(**a_user(server.url, token=f"ya29.{CANARY}-held", expiry=until.strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert token(await credential.headers()) == "held"
    credential.mark_rejected()
    server.script.append(oauth_error("invalid_grant"))
    await refusal(credential)
    now.seconds += FAILURE_MEMORY
    assert token(await credential.headers()) == "1"


# -- When it refreshes -------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_token_is_used_while_it_is_fresh(user: GoogleCredential, server: TokenServer, now: Time) -> None:
    """Three minutes and 45 seconds before its end it still is."""
    await user.headers()
    now.seconds += HOUR - REFRESH_AHEAD - 1
    assert token(await user.headers()) == "1"
    assert server.count == 1


@pytest_twisted.ensureDeferred
async def test_a_token_is_renewed_ahead_while_it_goes_on_being_used(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """Nobody waits for a token while there is a valid one, and the renewal is one for all."""
    await user.headers()
    server.held = True
    now.seconds += HOUR - REFRESH_AHEAD + 1
    for _ in range(50):
        answered = asking(user)
        assert answered.called
        assert token(await answered) == "1"
    await eventually(lambda: server.count == 2)
    server.release()
    await eventually(lambda: server.asked and user._token is not user._given, "the renewal")
    assert token(await user.headers()) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_an_expired_token_is_waited_for(user: GoogleCredential, server: TokenServer, now: Time) -> None:
    """Nobody gets one that the upstream would refuse."""
    await user.headers()
    server.held = True
    now.seconds += HOUR
    waiting = asking(user)
    await eventually(lambda: server.count == 2)
    assert not waiting.called
    server.release()
    assert token(await waiting) == "2"


@pytest_twisted.ensureDeferred
async def test_fifty_requests_share_a_refresh(user: GoogleCredential, server: TokenServer) -> None:
    """The endpoint is asked once, and all get its answer."""
    server.held = True
    waiting = [asking(user) for _ in range(50)]
    await eventually(lambda: server.count == 1)
    server.release()
    assert {token(headers) for headers in await gatherResults(waiting)} == {"1"}
    assert server.count == 1


@pytest_twisted.ensureDeferred
async def test_fifty_requests_share_a_failure(user: GoogleCredential, server: TokenServer) -> None:
    """Each gets an error of its own: tracebacks of strangers would pile up on a shared one."""
    server.held = True
    server.script.append(oauth_error("invalid_grant"))
    waiting = [asking(user) for _ in range(50)]
    await eventually(lambda: server.count == 1)
    server.release()
    errors = []
    for each in waiting:
        with pytest.raises(CredentialError) as caught:
            await each
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 50
    assert len({error.reason for error in errors}) == 1
    assert server.count == 1


@pytest_twisted.ensureDeferred
async def test_giving_up_does_not_end_the_refresh(user: GoogleCredential, server: TokenServer) -> None:
    """One client leaves; the others, and those who come later, get the token."""
    server.held = True
    leaving, staying = asking(user), asking(user)
    await eventually(lambda: server.count == 1)
    leaving.cancel()
    with pytest.raises(CancelledError):
        await leaving
    late = asking(user)
    server.release()
    assert [token(headers) for headers in await gatherResults([staying, late])] == ["1", "1"]
    assert (server.count, server.left) == (1, 0)


@pytest_twisted.ensureDeferred
async def test_a_refresh_that_nobody_waits_for_any_more_is_kept(user: GoogleCredential, server: TokenServer) -> None:
    """Its token serves the next request."""
    server.held = True
    leaving = asking(user)
    await eventually(lambda: server.count == 1)
    leaving.cancel()
    with pytest.raises(CancelledError):
        await leaving
    server.release()
    assert token(await user.headers()) == "1"
    assert server.count == 1


@pytest_twisted.ensureDeferred
async def test_who_waits_may_end_another_s_wait(user: GoogleCredential, server: TokenServer) -> None:
    """The first to get the token cancels the second, in the same turn; the third is not forgotten over it."""
    first, second, third = (asking(user) for _ in range(3))

    def cancel(headers: Headers) -> Headers:
        second.cancel()
        return headers

    first.addCallback(cancel)
    assert token(await third) == "1"
    assert token(await first) == "1"
    with pytest.raises(CancelledError):
        await second


@pytest_twisted.ensureDeferred
async def test_a_rejected_token_is_replaced(user: GoogleCredential, server: TokenServer) -> None:
    """The next request refreshes first, however long the token would have lasted."""
    assert token(await user.headers()) == "1"
    user.mark_rejected()
    assert token(await user.headers()) == "2"
    assert token(await user.headers()) == "2"


@pytest_twisted.ensureDeferred
async def test_many_rejections_are_one_refresh(user: GoogleCredential, server: TokenServer) -> None:
    """Fifty requests that were under way with the same token all got a 401."""
    await user.headers()
    for _ in range(50):
        user.mark_rejected()
    waiting = [asking(user) for _ in range(50)]
    user.mark_rejected()
    assert {token(headers) for headers in await gatherResults(waiting)} == {"2"}
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_a_rejection_waits_for_the_renewal_under_way(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """The token that is being renewed was refused meanwhile: it is not handed out once more."""
    await user.headers()
    server.held = True
    now.seconds += HOUR - 60
    assert token(await user.headers()) == "1"
    user.mark_rejected()
    waiting = asking(user)
    await eventually(lambda: server.count == 2)
    assert not waiting.called
    server.release()
    assert token(await waiting) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_a_late_rejection_of_a_replaced_token_changes_nothing(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """The renewal was faster than the 401."""
    await user.headers()
    now.seconds += HOUR - 60
    assert token(await user.headers()) == "1"
    await eventually(lambda: user._token is not user._given, "the renewal")
    user.mark_rejected()
    assert token(await user.headers()) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_a_late_rejection_says_nothing_about_what_others_were_given_since(
    user: GoogleCredential, server: TokenServer
) -> None:
    """Two requests showed the same token; the 401 of the second comes when the first has a new one."""
    first, second = await user.headers(), await user.headers()
    user.mark_rejected(first)
    assert token(await user.headers()) == "2"
    user.mark_rejected(second)
    assert token(await user.headers()) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_nothing_was_given_that_could_be_rejected(user: GoogleCredential, server: TokenServer) -> None:
    """A rejection before the first request means nothing."""
    user.mark_rejected()
    assert token(await user.headers()) == "1"


@pytest_twisted.ensureDeferred
async def test_short_lived_tokens_are_not_renewed_all_the_time(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """An endpoint whose tokens last for two minutes is asked at a pace."""
    server.expires_in = 120
    await user.headers()
    for _ in range(10):
        assert token(await user.headers()) == "1"
    await settle()
    assert server.count == 1
    now.seconds += PACE
    assert token(await user.headers()) == "1"
    await eventually(lambda: server.count == 2)


@pytest.mark.parametrize("expires_in", [0, -5])
@pytest_twisted.ensureDeferred
async def test_a_new_token_is_tried_whatever_its_expiry_says(
    user: GoogleCredential, server: TokenServer, expires_in: int
) -> None:
    """An endpoint that gives out dead tokens is not asked by every request."""
    server.expires_in = expires_in
    assert token(await user.headers()) == "1"
    assert token(await user.headers()) == "1"
    assert server.count == 1


@pytest_twisted.ensureDeferred
async def test_a_token_without_an_expiry_lasts_until_it_is_rejected(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """Nothing is known that would make it worth a refresh."""
    server.expires_in = None
    await user.headers()
    now.seconds += 1000 * HOUR
    assert token(await user.headers()) == "1"
    user.mark_rejected()
    assert token(await user.headers()) == "2"


@pytest.mark.parametrize("skew", [-2 * HOUR, 2 * HOUR], ids=["behind", "ahead"])
@pytest_twisted.ensureDeferred
async def test_a_moment_of_expiry_is_read_by_the_clock_of_who_named_it(
    make: Make, server: TokenServer, now: Time, skew: float
) -> None:
    """The IAM API says when a token ends, not how long it lasts; this computer's clock is two hours wrong."""
    server.skew = skew
    credential = make(**an_impersonation(server.url, a_user(server.url)))
    assert token(await credential.headers()) == "2"
    now.seconds += HOUR - REFRESH_AHEAD - 5
    assert token(await credential.headers()) == "2"
    assert server.count == 2
    now.seconds += REFRESH_AHEAD + 5
    assert token(await credential.headers()) == "3"


@pytest_twisted.ensureDeferred
async def test_a_moment_of_expiry_from_who_tells_no_time(make: Make, server: TokenServer, now: Time) -> None:
    """Without a date that can be read there is only this computer's clock to go by."""
    server.date = "soon"
    credential = make(**an_impersonation(server.url, a_user(server.url)))
    assert token(await credential.headers()) == "2"
    now.seconds += HOUR - REFRESH_AHEAD - 5
    assert token(await credential.headers()) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_back_makes_no_failure_last(
    user: GoogleCredential, server: TokenServer, now: Time
) -> None:
    """A failure is remembered for seconds, not until the clock has caught up."""
    server.script.append(oauth_error("invalid_grant"))
    await refusal(user)
    now.seconds -= HOUR
    assert token(await user.headers()) == "1"


class Given(GoogleCredentials):
    """A credential from a plugin, that knows its token."""

    def __init__(self, expiry: datetime, project: str | None = None) -> None:
        super().__init__()
        self.project_id = project
        self._until = expiry

    def refresh(self, request: object) -> None:
        """Know it."""
        self.token, self.expiry = f"ya29.{CANARY}-given", self._until


@pytest_twisted.ensureDeferred
async def test_an_expiry_may_have_a_time_zone(refresher: Refresher) -> None:
    """google-auth's own have none; the reactor's clock is the one if no other is given."""
    until = datetime.now(timezone(timedelta(hours=5))) + timedelta(hours=1)
    credential = GoogleCredential(lambda: Given(until, "p"), refresher=refresher)
    assert token(await credential.headers()) == "given"
    assert credential.project == "p"
    assert credential._token is not None
    assert credential._token.expires is not None
    assert HOUR - 60 < credential._token.expires - reactor.seconds() <= HOUR


# -- Who waits for whom ------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_slow_endpoint_delays_only_who_needs_it(make: Make, server: TokenServer) -> None:
    """Another account's refresh passes by."""
    slow = TokenServer()
    slow.held = True
    try:
        stuck = asking(make(name="slow.json", **a_user(slow.url)))
        await eventually(lambda: slow.count == 1)
        assert token(await make(**a_user(server.url)).headers()) == "1"
        assert not stuck.called
        slow.release()
        assert token(await stuck) == "1"
    finally:
        await slow.stop()


@pytest_twisted.ensureDeferred
async def test_threads_are_few_and_waiting_is_in_turn(server: TokenServer, write: Write) -> None:
    """With one thread, two credentials are refreshed one after the other."""
    client = UpstreamClient(reactor, connect_timeout=5)
    refresher = Refresher(reactor, client.treq(), threads=1)
    refresher.start()
    path = write(**a_user(server.url))
    server.held = True
    waiting = [asking(GoogleCredential(lambda: load_google(path), refresher=refresher)) for _ in range(2)]
    await eventually(lambda: server.count == 1)
    server.release()
    assert sorted(token(headers) for headers in await gatherResults(waiting)) == ["1", "2"]
    await refresher.stop()
    await client.close()


@pytest_twisted.ensureDeferred
async def test_loading_is_one_for_all_and_blocks_nobody(
    refresher: Refresher, server: TokenServer, write: Write
) -> None:
    """The file is on a slow disk: fifty requests wait for it once, the reactor does not."""
    path, go, loads = write(**a_user(server.url)), threading.Event(), []

    def load() -> GoogleCredentials:
        loads.append(threading.current_thread())
        assert go.wait(10)
        return load_google(path)

    credential = GoogleCredential(load, refresher=refresher)
    waiting = [asking(credential) for _ in range(50)]
    await eventually(lambda: loads)
    go.set()
    assert {token(headers) for headers in await gatherResults(waiting)} == {"1"}
    assert len(loads) == 1
    assert loads[0] is not threading.main_thread()


@pytest_twisted.ensureDeferred
async def test_a_failure_to_load_is_remembered_for_a_while(
    refresher: Refresher, server: TokenServer, write: Write, now: Time, tmp_path: Path
) -> None:
    """A storm of requests reads a missing file once; ten seconds after it is there, it works."""
    loads = []

    def load() -> GoogleCredentials:
        loads.append(1)
        return load_google(str(tmp_path / "credentials.json"))

    credential = GoogleCredential(load, refresher=refresher, now=now)
    for _ in range(50):
        error = await refusal(credential)
        assert (error.reason, error.permanent) == ("the credentials file 'credentials.json' does not exist", True)
    assert len(loads) == 1
    write(**a_user(server.url))
    now.seconds += FAILURE_MEMORY
    assert token(await credential.headers()) == "1"
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (DefaultCredentialsError(CANARY), True),
        (ValueError(CANARY), True),
        (OSError(5, CANARY), False),
        (SystemExit(CANARY), False),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest_twisted.ensureDeferred
async def test_a_plugin_s_loader_may_fail_in_its_own_way(
    refresher: Refresher, error: BaseException, permanent: bool
) -> None:
    """What is wrong with what it read needs a person; what it could not reach may come back."""

    def load() -> GoogleCredentials:
        raise error

    refused = await refusal(GoogleCredential(load, refresher=refresher))
    assert refused.permanent is permanent
    assert refused.reason == f"the credential cannot be loaded ({type(error).__name__})"


# -- When the endpoint refuses -----------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_revoked_refresh_token_needs_a_person(user: GoogleCredential, server: TokenServer) -> None:
    """The reason says what happened, and what to do."""
    server.script.append(oauth_error("invalid_grant"))
    error = await refusal(user)
    assert error.permanent
    assert (
        error.reason
        == str(error)
        == (
            "the token endpoint refused the refresh token (invalid_grant): it has expired or was revoked;"
            " sign in again, and put the new credentials file in place"
        )
    )


@pytest_twisted.ensureDeferred
async def test_a_new_file_cures_a_revoked_token(
    user: GoogleCredential, server: TokenServer, write: Write, now: Time
) -> None:
    """The file is read again; until then the endpoint is left alone."""
    server.script.append(oauth_error("invalid_grant"))
    for _ in range(3):
        await refusal(user)
    assert server.count == 1
    write(**a_user(server.url, refresh_token="new"))
    now.seconds += FAILURE_MEMORY
    assert token(await user.headers()) == "1"
    assert server.asked[-1].form["refresh_token"] == "new"


@pytest_twisted.ensureDeferred
async def test_a_service_account_s_key_may_be_deleted_or_the_clock_wrong(
    make: Make, server: TokenServer, private_key: str
) -> None:
    """Google's error is the same for both."""
    server.script.append(oauth_error("invalid_grant"))
    error = await refusal(make(**a_service_account(server.url, private_key)))
    assert error.permanent
    assert "the signature of the service account (invalid_grant)" in error.reason
    assert "set the clock, or make a new key" in error.reason


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_wrong_is_no_reason_to_give_a_service_account_up(
    make: Make, server: TokenServer, private_key: str
) -> None:
    """In Google's words; once the clock is set, nobody has to do more."""
    words = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    server.script.append(oauth_error("invalid_grant", description=words))
    error = await refusal(make(**a_service_account(server.url, private_key)))
    assert not error.permanent
    assert "clock wrong; set the clock" in error.reason


@pytest_twisted.ensureDeferred
async def test_the_source_of_an_impersonation_is_what_is_refused(
    make: Make, server: TokenServer, private_key: str
) -> None:
    """A service account that impersonates another has no refresh token."""
    server.script.append(oauth_error("invalid_grant"))
    error = await refusal(make(**an_impersonation(server.url, a_service_account(server.url, private_key))))
    assert "the signature of the service account (invalid_grant)" in error.reason


@pytest_twisted.ensureDeferred
async def test_an_expired_subject_token_may_be_renewed_by_who_wrote_it(
    make: Make, server: TokenServer, tmp_path: Path
) -> None:
    """No person has to act; what else is wrong with an external account is another matter."""
    (tmp_path / "subject").write_text("a")
    server.script.append(oauth_error("invalid_grant"))
    error = await refusal(make(**an_external_account(server.url, tmp_path / "subject")))
    assert not error.permanent
    assert "the subject token of the external account (invalid_grant)" in error.reason
    server.script.append(oauth_error("invalid_target"))
    error = await refusal(make(**an_external_account(server.url, tmp_path / "subject")))
    assert error.permanent
    assert error.reason == "the token endpoint refused the credential (invalid_target); check it, or make a new one"


@pytest_twisted.ensureDeferred
async def test_a_subject_token_that_is_not_there(make: Make, server: TokenServer, tmp_path: Path) -> None:
    """The endpoint is not even asked."""
    error = await refusal(make(**an_external_account(server.url, tmp_path / "nowhere")))
    assert not error.permanent
    assert error.reason == ("the subject token of the external account cannot be read from its source (RefreshError)")
    assert server.count == 0


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client", "deleted_client"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_is_not_accepted(user: GoogleCredential, server: TokenServer, code: str) -> None:
    """The person is told where to look."""
    server.script.append(oauth_error(code, 401))
    error = await refusal(user)
    assert error.permanent
    assert error.reason.startswith(f"the token endpoint does not accept the client of the credential ({code}): check")


@pytest.mark.parametrize(("status", "code"), [(403, "PERMISSION_DENIED"), (404, "NOT_FOUND")])
@pytest_twisted.ensureDeferred
async def test_an_impersonation_that_is_not_allowed(make: Make, server: TokenServer, status: int, code: str) -> None:
    """The role that is missing has a name."""
    server.script.extend([(200, b'{"access_token": "a", "expires_in": 3600}'), api_error(status, code)])
    error = await refusal(make(**an_impersonation(server.url, a_user(server.url))))
    assert error.permanent
    assert f"({code})" in error.reason
    assert "roles/iam.serviceAccountTokenCreator" in error.reason


@pytest_twisted.ensureDeferred
async def test_signing_in_again_may_be_asked_for(user: GoogleCredential, server: TokenServer) -> None:
    """An organisation lets sessions end: google-auth says so without a response in its error."""
    server.script.append(oauth_error("invalid_grant", error_subtype="invalid_rapt"))
    error = await refusal(user)
    assert error.permanent
    assert "sign in again" in error.reason


@pytest_twisted.ensureDeferred
async def test_a_hiccup_of_the_endpoint_is_asked_over(user: GoogleCredential, server: TokenServer) -> None:
    """One 503, and google-auth, asleep in its thread for a moment, asks again."""
    server.script.append((503, b"busy"))
    assert token(await user.headers()) == "1"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_down_may_come_back(user: GoogleCredential, server: TokenServer, now: Time) -> None:
    """Three times 503 is a failure, remembered for two seconds only, that no person needs to look at."""
    server.script.extend([(503, b"<p>busy</p>")] * 3)
    error = await refusal(user)
    assert (error.reason, error.permanent) == ("the token endpoint answered with status 503", False)
    assert (await refusal(user)).reason == error.reason
    assert server.count == 3
    now.seconds += HICCUP_MEMORY
    assert token(await user.headers()) == "1"


@pytest.mark.parametrize("answer", [(502, b"<html>"), (403, b"<html>"), (400, b'{"error": ["x"]}'), (418, b"{}")])
@pytest_twisted.ensureDeferred
async def test_what_no_token_endpoint_says_needs_no_person(
    user: GoogleCredential, server: TokenServer, answer: tuple[int, bytes]
) -> None:
    """A proxy or a captive portal is in between."""
    server.script.append(answer)
    error = await refusal(user)
    assert (error.reason, error.permanent) == (f"the token endpoint answered with status {answer[0]}", False)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b"[]",
        b"{}",
        b'{"access_token": null, "expires_in": 1}',
        b'{"access_token": "a b", "expires_in": 1}',
        b'{"access_token": "a", "expires_in": "soon"}',
        b'{"access_token": "a", "expires_in": 1e300}',
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_no_token(user: GoogleCredential, server: TokenServer, body: bytes) -> None:
    """The status was good, the rest was not."""
    server.script.append((200, body))
    error = await refusal(user)
    assert (error.reason, error.permanent) == ("the token endpoint answered without a usable token", False)


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_away(make: Make) -> None:
    """The reason is the transport's."""
    away = TokenServer()
    await away.stop()
    error = await refusal(make(**a_user(away.url)))
    assert (error.reason, error.permanent) == ("no token can be had: the token endpoint cannot be reached", False)


@pytest_twisted.ensureDeferred
async def test_a_code_that_says_to_try_again(make: Make, server: TokenServer, tmp_path: Path) -> None:
    """google-auth tried three times already; no person can do more."""
    server.script.extend([oauth_error("temporarily_unavailable")] * 3)
    error = await refusal(make(**a_user(server.url)))
    assert not error.permanent
    assert "(temporarily_unavailable)" in error.reason


@pytest_twisted.ensureDeferred
async def test_a_renewal_ahead_that_fails_is_logged_and_paced(
    user: GoogleCredential, server: TokenServer, now: Time, logged: list[str]
) -> None:
    """The token goes on being used, the endpoint is asked again after a while, and the log says why."""
    await user.headers()
    now.seconds += HOUR - 200
    server.script.append(oauth_error("invalid_grant"))
    assert token(await user.headers()) == "1"
    await eventually(lambda: any("ahead of its expiry" in line for line in logged))
    (line,) = (line for line in logged if "ahead of its expiry" in line)
    assert line.startswith(
        "a token could not be renewed ahead of its expiry: the token endpoint refused the refresh token"
    )
    assert token(await user.headers()) == "1"
    assert server.count == 2
    now.seconds += PACE
    assert token(await user.headers()) == "1"
    await eventually(lambda: server.count == 3)


@pytest_twisted.ensureDeferred
async def test_a_credential_that_lacks_what_it_needs(refresher: Refresher) -> None:
    """A plugin's loader gave one that cannot be refreshed."""
    error = await refusal(GoogleCredential(AnonymousCredentials, refresher=refresher))
    assert error.permanent
    assert error.reason == "the credential lacks what a refresh needs; make a new one"


class Broken(GoogleCredentials):
    """A credential with a mistake in it."""

    def refresh(self, request: object) -> None:
        """Fail."""
        raise LookupError(CANARY)


@pytest_twisted.ensureDeferred
async def test_a_mistake_in_a_credential_is_an_error_like_any_other(refresher: Refresher) -> None:
    """It is named by its type, which holds no secret."""
    error = await refusal(GoogleCredential(Broken, refresher=refresher))
    assert (error.reason, error.permanent) == ("the credential could not be refreshed (LookupError)", False)


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_mistake_of_our_own_leaves_nobody_waiting() -> None:
    """It is logged with its traceback, and everybody who waits gets an error."""

    class Mistaken(Refresher):
        async def run(self, fn: Callable[[], Any]) -> Any:
            raise LookupError("a mistake")

    client = UpstreamClient(reactor, connect_timeout=5)
    error = await refusal(GoogleCredential(loaded, refresher=Mistaken(reactor, client.treq())))
    assert (error.reason, error.permanent) == (
        "the credential could not be refreshed because of an internal error",
        False,
    )


# -- Secrets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        oauth_error("invalid_grant"),
        oauth_error(CANARY),
        oauth_error("invalid_grant", 502),
        (200, json.dumps({"access_token": f"{CANARY} {CANARY}"}).encode()),
        (400, CANARY.encode()),
        api_error(400, "INVALID_ARGUMENT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_repeats_secrets_is_not_repeated(
    user: GoogleCredential, server: TokenServer, logged: list[str], answer: tuple[int, bytes]
) -> None:
    """Neither the error, nor what it came from, nor a log holds anything that went over the wire."""
    server.script.append(answer)
    error = await refusal(user)
    said = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + "".join(logged)
    assert CANARY not in said
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest_twisted.ensureDeferred
async def test_nothing_shows_a_secret(
    user: GoogleCredential, server: TokenServer, refresher: Refresher, logged: list[str]
) -> None:
    """What lives in the gateway for long may get into a log or a debugger at any time."""
    await user.headers()
    user.mark_rejected()
    await user.headers()
    for thing in (ApiKey(CANARY), StaticToken(CANARY), user, user._token, refresher, refresher.request, server):
        assert CANARY not in f"{thing} {thing!r}"
    assert CANARY not in "".join(logged)


def frames_of(error: BaseException) -> Iterator[str]:
    """The local variables of every frame that an error holds, as a debugger or an error reporter shows them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == module.__file__:
            yield from map(repr, frame.f_locals.values())


@pytest_twisted.ensureDeferred
async def test_the_frames_of_an_error_hold_no_file(make: Make, server: TokenServer, private_key: str) -> None:
    """A reporter that collects local variables finds no key: errors do not come out of the thread with their frames."""
    broken = private_key.replace("MII", "MIJ", 1)
    error = await refusal(make(**a_service_account(server.url, broken, other=CANARY)))
    assert error.reason.startswith(
        "the credentials file 'credentials.json' is not a valid file of type service_account"
    )
    shown = "".join(frames_of(error))
    assert CANARY not in shown
    assert "PRIVATE KEY" not in shown


# -- Loading a file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (
            {"access_token": CANARY, "refresh_token": CANARY, "scope": "a", "token_type": "Bearer", "expiry_date": 1},
            "lacks type, client_id and client_secret: it looks like the token store of a command line tool"
            ' (oauth_creds.json). Add "type": "authorized_user" and the client_id and client_secret of the OAuth client'
            " that the tool signed in with, or sign in anew with: gcloud auth application-default login",
        ),
        (
            {"installed": {"client_id": "a", "client_secret": CANARY}},
            "describes an OAuth client, not somebody's credential; sign in with it:"
            " gcloud auth application-default login --client-id-file=FILE",
        ),
        ({}, 'lacks "type"; make one with: gcloud auth application-default login'),
        (
            {"type": "gdch_service_account"},
            "is of a type that is not supported; supported are authorized_user, external_account,"
            " external_account_authorized_user, impersonated_service_account and service_account",
        ),
        ({"type": [CANARY]}, "is of a type that is not supported; supported are"),
        (
            {"type": "authorized_user", "client_id": "a"},
            "is of type authorized_user, but lacks refresh_token and client_secret",
        ),
        ({"type": "external_account"}, "is of type external_account, but lacks audience, subject_token_type,"),
        (a_user("http://a.example"), "has a token_uri that would send secrets in the clear; it must be an https URL"),
        (a_user("ftp://127.0.0.1"), "has a token_uri that would send secrets in the clear"),
        (a_user("http://["), "has a token_uri that would send secrets in the clear"),
        (a_user("http://127.0.0.1.a.example"), "has a token_uri that would send secrets in the clear"),
        (a_user("", token_uri=[1]), "has a token_uri that would send secrets in the clear"),
        (a_user("", token_uri="token"), "has a token_uri that would send secrets in the clear"),
        (a_user("https://a", expiry=CANARY), "is not a valid file of type authorized_user (ValueError)"),
        (
            {"type": "external_account_authorized_user", "client_id": CANARY},
            "is not a valid file of type external_account_authorized_user (InvalidOperation)",
        ),
        (
            an_external_account("https://a", Path("b"), credential_source={"certificate": {}}),
            "is bound to a client certificate, which is not supported",
        ),
        (an_impersonation("https://a", CANARY), "is not a valid file of type impersonated_service_account ("),
        (
            an_impersonation("https://a", a_user("http://b.example")),
            "has a source that has a token_uri that would send secrets in the clear",
        ),
        (
            an_impersonation("https://a", {"type": "impersonated_service_account"}),
            "has a source of its own type; name the service accounts between as delegates",
        ),
        (
            an_impersonation("https://a", a_user("https://b"), service_account_impersonation_url="https://c/d"),
            "names no service account in its service_account_impersonation_url",
        ),
    ],
)
def test_a_file_that_is_no_credential(write: Write, info: dict[str, object], reason: str) -> None:
    """The reason names the file, what is wrong with it, and the cure; never what is in it."""
    error = load_refusal(write("team.json", **info))
    assert error.permanent
    assert error.reason.startswith("the credentials file 'team.json' " + reason)
    assert CANARY not in error.reason


@pytest.mark.parametrize("content", [b"", b"[]", b'"a"', b"{", b"\xff", b"[" * 10_000, b" " * (1024 * 1024 + 1)])
def test_a_file_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    """Nor is one that is too long."""
    (tmp_path / "a.json").write_bytes(content)
    error = load_refusal(str(tmp_path / "a.json"))
    assert (error.reason, error.permanent) == ("the credentials file 'a.json' is not a JSON object", True)


def test_a_file_from_another_editor(tmp_path: Path) -> None:
    """A byte order mark is no reason to refuse it."""
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(a_user("https://a")).encode())
    assert load_google(str(tmp_path / "a.json")).token is None


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """Each is for a person to look at."""
    (tmp_path / "file").touch()
    assert load_refusal(str(tmp_path / "none")).reason == "the credentials file 'none' does not exist"
    assert load_refusal(str(tmp_path / "file" / "a")).reason == "the credentials file 'a' does not exist"
    assert load_refusal(str(tmp_path)).reason.endswith("cannot be read (IsADirectoryError)")
    assert load_refusal("a\0b").reason.endswith("cannot be read (ValueError)")


def test_a_disk_that_fails_may_recover(tmp_path: Path) -> None:
    """A name that is too long stands for whatever else the system says."""
    error = load_refusal(str(tmp_path / ("a" * 300)))
    assert error.reason.endswith("cannot be read: File name too long")
    assert not error.permanent


def test_external_accounts_come_in_three_kinds(write: Write) -> None:
    """A subject token from AWS and one from a program have classes of their own."""
    aws_source = {
        "environment_id": "aws1",
        "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity",
    }
    of_aws = an_external_account(
        "https://a",
        Path("b"),
        subject_token_type="urn:ietf:params:aws:token-type:aws4_request",
        credential_source=aws_source,
    )
    assert isinstance(load_google(write(**of_aws)), aws.Credentials)
    of_program = an_external_account("https://a", Path("b"), credential_source={"executable": {"command": "c"}})
    assert isinstance(load_google(write(**of_program)), pluggable.Credentials)


def test_scopes_are_what_is_asked_for(write: Write, private_key: str) -> None:
    """A service account takes them; a person's credential keeps its own."""
    path = write(**a_service_account("https://a", private_key))
    assert loaded(path, scopes=("s",)).scopes == ["s"]
    assert loaded(path).scopes == [CLOUD_PLATFORM]
    assert loaded(write(**a_user("https://a", scopes="p q")), scopes=("s",)).scopes == ["p", "q"]


# -- Application default credentials -----------------------------------------------------------------


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without credentials, whose home is empty."""
    for name in (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_QUOTA_PROJECT",
        "CLOUDSDK_CONFIG",
        "GCE_METADATA_HOST",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


def test_adc_in_the_order_of_google(bare_environment: pytest.MonkeyPatch, write: Write, tmp_path: Path) -> None:
    """The variable, then gcloud's folder where the variable for it says, then gcloud's usual folder."""
    usual = tmp_path / "home" / ".config" / "gcloud"
    usual.mkdir(parents=True)
    write("home/.config/gcloud/application_default_credentials.json", **a_user("https://a", client_id="usual"))
    assert loaded().client_id == "usual"
    (tmp_path / "moved").mkdir()
    write("moved/application_default_credentials.json", **a_user("https://a", client_id="moved"))
    bare_environment.setenv("CLOUDSDK_CONFIG", str(tmp_path / "moved"))
    assert loaded().client_id == "moved"
    bare_environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", write(**a_user("https://a", client_id="named")))
    assert loaded().client_id == "named"


def test_adc_names_the_file_that_is_missing(bare_environment: pytest.MonkeyPatch) -> None:
    """A variable that is set is meant: nothing else is tried."""
    bare_environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/a.json")
    assert load_refusal("adc").reason == "the credentials file 'a.json' does not exist"


def test_adc_takes_the_quota_project_of_the_environment(
    bare_environment: pytest.MonkeyPatch, write: Write, private_key: str
) -> None:
    """As Google's libraries do; a file that the configuration names keeps its own."""
    path = write(**a_service_account("https://a", private_key))
    bare_environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    bare_environment.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    assert loaded().quota_project_id == "payer"
    assert loaded(path).quota_project_id is None


@pytest_twisted.ensureDeferred
async def test_adc_of_a_machine(
    bare_environment: pytest.MonkeyPatch, refresher: Refresher, server: TokenServer, now: Time
) -> None:
    """Without a file the metadata server is asked, in Google's way."""
    bare_environment.setenv("GCE_METADATA_HOST", server.host)
    bare_environment.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    credential = GoogleCredential(loaded, refresher=refresher, now=now)
    assert await credential.headers() == (
        (b"authorization", f"Bearer ya29.{CANARY}-1".encode()),
        (b"x-goog-user-project", b"payer"),
    )
    (asked,) = server.asked
    assert isinstance(asked, Asked)
    assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert asked.query == f"scopes={CLOUD_PLATFORM}".encode()
    assert asked.headers["metadata-flavor"] == ["Google"]
    now.seconds += HOUR - REFRESH_AHEAD - 1
    await credential.headers()
    assert server.count == 1


@pytest.mark.parametrize(
    ("answer", "reason", "permanent"),
    [
        ((404, b"none"), "the machine has no service account; give it one", True),
        ((500, b"oops"), "the metadata server answered with status 500", False),
        ((200, b"<html>"), "the token endpoint answered without a usable token", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_metadata_server_without_a_token(
    bare_environment: pytest.MonkeyPatch,
    refresher: Refresher,
    server: TokenServer,
    answer: tuple[int, bytes],
    reason: str,
    permanent: bool,
) -> None:
    """A machine may have no service account."""
    bare_environment.setenv("GCE_METADATA_HOST", server.host)
    server.script.append(answer)
    error = await refusal(GoogleCredential(loaded, refresher=refresher))
    assert (error.reason, error.permanent) == (reason, permanent)


class Metadata:
    """A transport that answers as `says` has it; nothing that is not Google."""

    def __init__(self, *says: TokenAnswer | None) -> None:
        self._says = list(says)

    def __call__(self, url: str, **options: Any) -> TokenAnswer:
        assert url.startswith("http://metadata.google.internal/")
        answer = self._says.pop(0)
        if answer is None:
            raise TransportError("the name of the token endpoint cannot be resolved")
        return answer


def answered(body: bytes, **headers: str) -> TokenAnswer:
    """An answer with status 200."""
    return TokenAnswer(200, HeaderValues(WireHeaders({name: [value] for name, value in headers.items()})), body)


@pytest.mark.parametrize("says", [None, answered(b"Please log in")], ids=["nobody", "a portal"])
def test_adc_that_are_nowhere(bare_environment: pytest.MonkeyPatch, says: TokenAnswer | None) -> None:
    """The cure is named, whether nobody answers in the metadata server's name, or somebody who is not Google."""
    with pytest.raises(CredentialError) as caught:
        loaded().refresh(Metadata(says))
    assert caught.value.permanent
    assert caught.value.reason == (
        "there are no application default credentials: make them with"
        " gcloud auth application-default login, or name a file in GOOGLE_APPLICATION_CREDENTIALS"
    )


def test_a_metadata_server_that_answered_once_will_again(bare_environment: pytest.MonkeyPatch) -> None:
    """Its silence is then no reason to give up on the machine."""
    flavor = WireHeaders({"Metadata-Flavor": ["Google"]})
    first = TokenAnswer(200, HeaderValues(flavor), b'{"access_token": "a", "expires_in": 5}')
    transport = Metadata(first, None)
    credentials = loaded()
    credentials.refresh(transport)
    with pytest.raises(CredentialError) as caught:
        credentials.refresh(transport)
    assert (caught.value.reason, caught.value.permanent) == ("the metadata server does not answer", False)


# -- The end -----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_every_wait(make: Make, server: TokenServer, refresher: Refresher) -> None:
    """A refresh is under way: who waits for it gets an error, the threads end, and the connection is closed."""
    credential = make(**a_user(server.url))
    await credential.headers()
    credential.mark_rejected()
    server.held = True
    waiting = asking(credential)
    await eventually(lambda: server.count == 2)
    threads = [thread for thread in threading.enumerate() if "credentials" in thread.name]
    assert threads
    await refresher.stop()
    with pytest.raises(CredentialError, match="the gateway is stopping") as caught:
        await waiting
    assert not caught.value.permanent
    assert not any(thread.is_alive() for thread in threads)
    await eventually(lambda: server.left == 1)


@pytest_twisted.ensureDeferred
async def test_after_a_stop_nothing_is_started(
    user: GoogleCredential, server: TokenServer, refresher: Refresher
) -> None:
    """Nobody is left waiting for threads that are not there; a stop may be repeated, a start revives everything."""
    await refresher.stop()
    await refresher.stop()
    error = await refusal(user)
    assert (error.reason, error.permanent) == ("the gateway is stopping", False)
    assert server.count == 0
    refresher.start()
    refresher.start()
    assert token(await user.headers()) == "1"


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_only_a_moment_for_a_thread_that_blocks(refresher: Refresher) -> None:
    """A loader that hangs holds up nobody; what it says when it comes back goes nowhere."""
    go, done = threading.Event(), threading.Event()

    def hang() -> None:
        go.wait(30)
        done.set()

    waiting = Deferred.fromCoroutine(refresher.run(hang))
    await refresher.stop()
    with pytest.raises(CredentialError):
        await waiting
    assert not done.is_set()
    go.set()
    await eventually(done.is_set)


@pytest_twisted.ensureDeferred
async def test_giving_up_on_a_call_leaves_it_alone(refresher: Refresher) -> None:
    """Its result is dropped."""
    go, done = threading.Event(), threading.Event()

    def slow() -> None:
        go.wait(30)
        done.set()

    waiting = Deferred.fromCoroutine(refresher.run(slow))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    go.set()
    await eventually(done.is_set)
    assert await refresher.run(lambda: 3) == 3


@pytest_twisted.ensureDeferred
async def test_what_a_call_raises_is_raised(refresher: Refresher) -> None:
    """In the one who waits for it."""
    with pytest.raises(ZeroDivisionError):
        await refresher.run(lambda: 1 // 0)


ENDLESS = """
import sys
from pathlib import Path
from threading import Event
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from agm.upstream.client import UpstreamClient
from agm.upstream.credentials import Refresher
from agm.upstream.google import GoogleCredential, load_google
from google.oauth2.credentials import Credentials

port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
uri = f"http://127.0.0.1:{port.getHost().port}/token"
refresher = Refresher(reactor, UpstreamClient(reactor, connect_timeout=5).treq())

def silent_endpoint():
    return Credentials(None, refresh_token="r", token_uri=uri, client_id="c", client_secret="s")

def blocking_loader():
    Event().wait()

def failed(failure):
    print("the wait ended:", failure.getErrorMessage())

def begin():
    refresher.start()
    credential = GoogleCredential(globals()[sys.argv[1]], refresher=refresher)
    Deferred.fromCoroutine(credential.headers()).addErrback(failed)
    reactor.callLater(0.3, globals()[sys.argv[2]])

def stop():
    reactor.stop()

def crash():
    reactor.crash()

reactor.callWhenRunning(begin)
reactor.run()
print("the reactor stopped")
"""


@pytest.mark.parametrize(
    ("blocked", "end"), [("silent_endpoint", "stop"), ("blocking_loader", "stop"), ("blocking_loader", "crash")]
)
def test_a_process_ends_whatever_its_threads_wait_for(blocked: str, end: str) -> None:
    """Nobody called stop: the reactor's own end is enough, and not even that has to be an orderly one."""
    ran = subprocess.run(
        [sys.executable, "-c", ENDLESS, blocked, end], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "the reactor stopped" in ran.stdout
    assert ("the wait ended: the gateway is stopping" in ran.stdout) is (end == "stop")
