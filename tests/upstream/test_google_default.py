"""Application default credentials: where they are looked for, and the machine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from google.auth.exceptions import TransportError
from twisted.web.http_headers import Headers as WireHeaders

from agm.upstream.credentials.credential import CredentialError
from agm.upstream.credentials.google import REFRESH_AHEAD, GoogleCredential
from agm.upstream.credentials.google_default import CLOUD_PLATFORM
from agm.upstream.credentials.google_transport import HeaderValues, TokenAnswer
from agm.upstream.credentials.refresher import Refresher
from tests.upstream.google_credentials import (
    HOUR,
    Time,
    Write,
    a_service_account,
    a_user,
    load_refusal,
    loaded,
    refusal,
)
from tests.upstream.token_server import CANARY, Asked, TokenServer


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
