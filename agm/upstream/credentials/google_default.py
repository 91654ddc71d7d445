"""
Which of Google's credentials an account means: those of a file, or the application default credentials.

The latter are looked for in Google's order: the file that a variable names, gcloud's, the machine's own.  Looking
blocks, and belongs into a thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from google.auth import environment_vars
from google.auth.credentials import Credentials as GoogleCredentials
from google.auth.exceptions import TransportError
from google.auth.transport import Request

from agm.config.logins import AdcFile
from agm.upstream.credentials.credential import CredentialError
from agm.upstream.credentials.google import utcnow
from agm.upstream.credentials.google_files import from_file

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"


def load_google(credentials: str, *, scopes: Sequence[str] = (CLOUD_PLATFORM,)) -> GoogleCredentials:
    """
    Return the credentials that a file holds, or the computer's application default credentials.

    It may block, and is to be called in a thread.

    :param credentials: ``adc``, or the path of a file as Google's tools write it.
    :param scopes: what a service account asks for; a person's credential has the scopes that the person agreed to.
    :raises CredentialError: if there is no such thing, or it means nothing; its reason names the cure.
    """
    return _default(scopes) if credentials == "adc" else from_file(Path(credentials), scopes, {})


def _default(scopes: Sequence[str]) -> GoogleCredentials:
    # The order is Google's.  Its own function for it would ask gcloud and a web service for the name of a project.
    override = {}
    if quota_project := os.environ.get(environment_vars.GOOGLE_CLOUD_QUOTA_PROJECT):
        override["quota_project_id"] = quota_project
    adc = AdcFile.of(os.environ)
    if adc.named or adc.path.is_file():
        return from_file(adc.path, scopes, override)
    return MetadataCredentials(scopes, quota_project)


class MetadataCredentials(GoogleCredentials):
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
        self.expiry = utcnow() + timedelta(seconds=int(token["expires_in"]))
