"""Signing in on loopback, with the emulator as the authorization server and the test as the browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.web.client import Agent

from agm.core.oauth import Authorization, Grant, OAuthClient, SignInFailed
from agm.testing import RunningEmulator
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.sign_in import RedirectPort, exchange, new_authorization
from tests.helpers.support import reactor


@attrs.define(eq=False)
class SignIn:
    """A sign-in under way: its port, its question, and what was remarked."""

    port: RedirectPort
    authorization: Authorization
    client: HTTPUpstreamClient
    remarks: list[str]
    ended: Deferred[Grant]

    async def browser(self, url: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
        """What a browser sees there, without following further."""
        headers: dict[bytes | str, bytes | str] = {"Connection": "close"}
        if host is not None:
            headers["Host"] = host
        answer = await treq.client.HTTPClient(Agent(reactor)).request(
            method, url, headers=headers, allow_redirects=False
        )
        where = answer.headers.getRawHeaders("location", [""])[0]
        return answer.code, where or (await answer.content()).decode()

    async def agree(self) -> str:
        """Sign in at the server; where it sends the browser."""
        status, where = await self.browser(self.authorization.url)
        assert status == 302, where
        return where


@pytest_twisted.async_yield_fixture
async def signin(emulator: RunningEmulator) -> AsyncIterator[SignIn]:
    oauth = OAuthClient(
        "client", "secret", auth_uri=f"{emulator.url}/o/oauth2/v2/auth", token_uri=f"{emulator.url}/token"
    )
    remarks: list[str] = []
    port = RedirectPort(reactor, remarks.append)
    authorization = new_authorization(oauth, port.uri)
    client = HTTPUpstreamClient(reactor, connect_timeout=5)

    async def run() -> Grant:
        return await exchange(client, authorization, await port.code(authorization, 5.0))

    started = SignIn(port, authorization, client, remarks, Deferred.fromCoroutine(run()))
    yield started
    started.ended.addErrback(lambda _: None)
    started.ended.cancel()
    await port.close()
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_browser_that_agrees_brings_a_grant(signin: SignIn, emulator: RunningEmulator) -> None:
    """PKCE is checked by the server; the page says that it is done, and does not pass the code on."""
    status, page = await signin.browser(await signin.agree())
    assert (status, "go back to the terminal" in page) == (200, True)
    grant = await signin.ended
    assert emulator.state.refresh_tokens[grant.refresh_token] == "person"
    assert signin.remarks == []


@pytest_twisted.ensureDeferred
async def test_a_second_answer_is_refused(signin: SignIn) -> None:
    """A page that is loaded again changes nothing, and is told so."""
    where = await signin.agree()
    await signin.browser(where)
    await signin.ended
    status, page = await signin.browser(where)
    assert (status, "is over already" in page) == (409, True)
    assert len(signin.remarks) == 1


@pytest_twisted.ensureDeferred
async def test_a_foreign_answer_is_refused_and_waited_past(signin: SignIn) -> None:
    """Any page in the browser could send one; the person's own still counts."""
    status, page = await signin.browser(f"{signin.port.uri}?code=theirs&state=theirs")
    assert (status, "belongs to another sign-in" in page) == (400, True)
    assert len(signin.remarks) == 1
    await signin.browser(await signin.agree())
    assert (await signin.ended).refresh_token


@pytest_twisted.ensureDeferred
async def test_a_no_ends_the_sign_in(signin: SignIn) -> None:
    """At once, with the reason on both sides."""
    state = signin.authorization.state
    status, page = await signin.browser(f"{signin.port.uri}?error=access_denied&state={state}")
    assert (status, "access was denied" in page) == (200, True)
    with pytest.raises(SignInFailed, match="access was denied"):
        await signin.ended


@pytest_twisted.ensureDeferred
async def test_nothing_else_is_on_the_port(signin: SignIn) -> None:
    """Another path, another host's name (DNS rebinding), another method."""
    good = f"?code=c&state={signin.authorization.state}"
    for url, host, method in (
        (f"{signin.port.uri}favicon.ico", None, "GET"),
        (signin.port.uri + good, "evil.example", "GET"),
        (signin.port.uri + good, None, "POST"),
        (signin.port.uri + good, None, "HEAD"),
    ):
        assert (await signin.browser(url, host, method))[0] == 404
    assert not signin.ended.called


@pytest_twisted.ensureDeferred
async def test_a_page_shows_what_it_was_sent_as_text(signin: SignIn) -> None:
    """And may run nothing."""
    state = signin.authorization.state
    _, page = await signin.browser(f"{signin.port.uri}?error=%3Cb%3E&state={state}")
    assert "<b>" not in page
    with pytest.raises(SignInFailed):
        await signin.ended


@pytest_twisted.ensureDeferred
async def test_nobody_signing_in_ends_the_wait() -> None:
    """With what else could be done."""
    port = RedirectPort(reactor, lambda _: None)
    authorization = new_authorization(OAuthClient("c", "s"), port.uri)
    with pytest.raises(SignInFailed, match=r"nobody signed in within 0.05 seconds.*--no-browser"):
        await port.code(authorization, 0.05)
    assert port.redirected(f"code=c&state={authorization.state}")[0] == 409
    await port.close()


@pytest_twisted.ensureDeferred
async def test_a_code_is_good_once_and_with_its_verifier(signin: SignIn, emulator: RunningEmulator) -> None:
    """As RFC 7636 wants: whoever saw the redirect has nothing of it."""
    code = parse_qs(urlsplit(await signin.agree()).query)["code"][0]
    thief = attrs.evolve(signin.authorization, verifier="x" * 43)
    with pytest.raises(SignInFailed, match="invalid_grant"):
        await exchange(signin.client, thief, code)
    with pytest.raises(SignInFailed, match="invalid_grant"):
        await exchange(signin.client, signin.authorization, code)


@pytest_twisted.ensureDeferred
async def test_a_token_endpoint_that_cannot_be_asked_is_explained() -> None:
    """In a sentence without the code or the client's secret."""
    oauth = OAuthClient("client", "canary-secret", token_uri="http://127.0.0.1:1/token")
    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    with pytest.raises(SignInFailed, match="cannot be asked") as failed:
        await exchange(client, new_authorization(oauth, "http://127.0.0.1:5/"), "canary-code")
    assert "canary" not in failed.value.reason
    await client.close()


@pytest_twisted.ensureDeferred
async def test_two_questions_have_nothing_in_common() -> None:
    """State and verifier are new each time, and long enough not to be guessed."""
    one, two = (new_authorization(OAuthClient("c", "s"), "http://127.0.0.1:5/") for _ in range(2))
    assert one.state != two.state
    assert one.verifier != two.verifier
    assert len(one.state) >= 43 <= len(one.verifier) <= 128
