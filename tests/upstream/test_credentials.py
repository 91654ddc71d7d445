"""
Credentials: what they put into a request's headers, when they refresh, and what is said when they cannot.

The credentials are google-auth's own, made from files as Google's tools write them, and refreshed at a token endpoint
on loopback that counts.  Time is a number that a test sets.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from google.auth.credentials import AnonymousCredentials
from google.auth.credentials import Credentials as GoogleCredentials
from google.auth.exceptions import DefaultCredentialsError
from twisted.internet.defer import CancelledError, gatherResults
from twisted.logger import formatEvent, globalLogPublisher

from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials import google, google_default, google_files
from agm.upstream.credentials.credential import ApiKey, Credential, CredentialError, Headers, StaticToken
from agm.upstream.credentials.google import FAILURE_MEMORY, HICCUP_MEMORY, PACE, REFRESH_AHEAD, GoogleCredential
from agm.upstream.credentials.google_default import CLOUD_PLATFORM, load_google
from agm.upstream.credentials.refresher import Refresher
from tests.helpers.support import eventually, reactor, settle
from tests.upstream.google_credentials import (
    HOUR,
    Make,
    Time,
    Write,
    a_service_account,
    a_user,
    an_external_account,
    an_impersonation,
    asking,
    loaded,
    refusal,
    token,
)
from tests.upstream.token_server import CANARY, TokenServer, api_error, oauth_error


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


@pytest_twisted.ensureDeferred
async def test_a_wall_clock_that_is_set_back_makes_no_token_last(
    refresher: Refresher, server: TokenServer, write: Write, now: Time
) -> None:
    wall = Time()
    path = write(**a_user(server.url))
    credential = GoogleCredential(lambda: load_google(path), refresher=refresher, now=now, wall=wall)
    assert token(await credential.headers()) == "1"
    wall.seconds -= 10 * HOUR
    now.seconds += HOUR
    assert token(await credential.headers()) == "2"


@pytest_twisted.ensureDeferred
async def test_a_token_that_only_the_wall_clock_calls_expired_is_renewed_and_goes_on_being_used(
    refresher: Refresher, server: TokenServer, write: Write, now: Time
) -> None:
    """The clock was set, which says nothing about the token; or the machine was paused, which does."""
    wall = Time()
    path = write(**a_user(server.url))
    credential = GoogleCredential(lambda: load_google(path), refresher=refresher, now=now, wall=wall)
    assert token(await credential.headers()) == "1"
    now.seconds += PACE
    wall.seconds += 10 * HOUR
    server.held = True
    assert token(await credential.headers()) == "1"
    await eventually(lambda: server.count == 2, "a renewal")
    assert token(await credential.headers()) == "1"
    server.release()
    await eventually(lambda: not credential._renewing, "the end of the renewal")
    assert token(await credential.headers()) == "2"
    assert server.count == 2


@pytest_twisted.ensureDeferred
async def test_an_impersonation_goes_on_when_the_clock_was_set_back(make: Make, server: TokenServer, now: Time) -> None:
    """google-auth takes the source's token for valid until the wall clock says otherwise; its endpoint does not."""
    credential = make(**an_impersonation(server.url, a_user(server.url)))
    assert token(await credential.headers()) == "2"
    now.seconds += HOUR
    server.script.append(api_error(401, "UNAUTHENTICATED"))
    assert token(await credential.headers()) == "4"
    assert [asked.path.rpartition(":")[2] for asked in server.asked[2:]] == [
        "generateAccessToken",
        "/token",
        "generateAccessToken",
    ]
    assert server.asked[-1].headers["authorization"] == [f"Bearer ya29.{CANARY}-3"]


@pytest_twisted.ensureDeferred
async def test_an_external_account_that_impersonates_goes_on_when_the_clock_was_set_back(
    make: Make, server: TokenServer, now: Time, tmp_path: Path
) -> None:
    subject_token = tmp_path / "subject"
    subject_token.write_text("subject")
    robot = f"{server.url}/v1/projects/-/serviceAccounts/robot@b.c:generateAccessToken"
    credential = make(**an_external_account(server.url, subject_token, service_account_impersonation_url=robot))
    assert token(await credential.headers()) == "2"
    now.seconds += HOUR
    server.script.append(api_error(401, "UNAUTHENTICATED"))
    assert token(await credential.headers()) == "4"


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
    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    refresher = Refresher(reactor, client.treq, threads=1)
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

    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    error = await refusal(GoogleCredential(loaded, refresher=Mistaken(reactor, client.treq)))
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


#: Where a file may be in a variable.
LOADERS = frozenset((google.__file__, google_default.__file__, google_files.__file__))


def frames_of(error: BaseException) -> Iterator[str]:
    """The local variables of every frame that an error holds, as a debugger or an error reporter shows them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename in LOADERS:
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
