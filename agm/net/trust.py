"""
How TLS servers are verified: the platform's trust roots, authorities of one's own beside them, and service-identity.

There is no way to leave the verification out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from OpenSSL.crypto import FILETYPE_PEM, X509, load_certificate
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.client import BrowserLikePolicyForHTTPS, HostnameCachingHTTPSPolicy
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from agm.core.network import Authorities

#: Names whose TLS settings are kept: made anew for each connection, with all of the platform's roots, they would hold
#: up the reactor for 8 ms.
NAMES = 64

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def policy_of(authorities: Authorities | None) -> IPolicyForHTTPS:
    """
    Return a policy that trusts the platform's roots, and `authorities` beside them.

    :raises ValueError: if they hold something that is no certificate, or nothing that is one.
    """
    plain = BrowserLikePolicyForHTTPS()
    if authorities is None:
        return HostnameCachingHTTPSPolicy(plain, NAMES)
    return HostnameCachingHTTPSPolicy(_TrustingMore(plain, certificates_in(authorities.pem)), NAMES)


def certificates_in(pem: bytes) -> list[X509]:
    """
    Return the certificates of a PEM text.

    :raises ValueError: if there is none, or one that cannot be read.
    """
    blocks = _CERTIFICATE.findall(pem)
    if not blocks:
        raise ValueError("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            found.append(load_certificate(FILETYPE_PEM, block))
        except Exception as e:  # OpenSSL's, cryptography's or ValueError, as the releases go
            raise ValueError(f"holds a certificate that cannot be read, number {number} of {len(blocks)}") from e
    return found


@implementer(IPolicyForHTTPS)
class _TrustingMore:
    """A policy whose contexts trust further authorities."""

    def __init__(self, policy: IPolicyForHTTPS, further: Sequence[X509]) -> None:
        self._policy = policy
        self._further = further

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return _Creator(self._policy.creatorForNetloc(hostname, port), self._further)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """
    Twisted's creator, with more in its context's store.

    Twisted lets one choose between the platform's roots and one's own; both together are the context's own business.
    """

    def __init__(self, creator: IOpenSSLClientConnectionCreator, further: Sequence[X509]) -> None:
        self._creator = creator
        self._further = further
        self._context: Any = None

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        connection: Any = self._creator.clientConnectionForTLS(tlsProtocol)
        context = connection.get_context()
        if context is not self._context:  # it is the same for all connections, as long as Twisted keeps it
            self._context = context
            store = context.get_cert_store()
            for certificate in self._further:
                store.add_cert(certificate)
        return connection


def tls_reason(error: BaseException) -> str:
    """Return why TLS could not be agreed on, in a few words."""
    if isinstance(error, VerificationError):
        return "its certificate is for another name"
    reasons = error.args[0] if isinstance(error, TLSError) and error.args and isinstance(error.args[0], list) else []
    if any("certificate verify failed" in reason for reason in reasons):
        return "its certificate cannot be verified; for a custom CA certificate, see ca_file"
    return "TLS was refused"
