"""
The certificates of listeners with TLS: where they are, whether they can be used, and how they are renewed.

``ssl:`` is read here and not by Twisted, which takes the first certificate of a file alone, and that once: here the
whole chain is sent, and what has been renewed on the disk can be taken up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, DiffieHellmanParameters
from twisted.python.filepath import FilePath
from zope.interface import implementer

from agm.config.files import why_unreadable
from agm.config.identity import Identity
from agm.core.listening import Description, ListenerRefused
from agm.net.trust import certificates_in

__all__ = ["ServerCertificate", "ssl_endpoint"]

#: A file with a key or a chain of certificates is no larger, in bytes.
MAX_FILE = 4 * 2**20
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)


def ssl_endpoint(reactor: Any, parsed: Description) -> tuple[SSL4ServerEndpoint, ServerCertificate]:
    """
    Return the server endpoint of an ``ssl:`` description, and the certificate that it shows.

    :raises ListenerRefused: if it is none, or its key and certificate cannot be used.
    """
    unknown = parsed.named.keys() - _ARGUMENTS
    if unknown or len(parsed.plain) > len(_ARGUMENTS):
        raise ListenerRefused(f"ssl has no argument {min(unknown, default='beyond the eighth')}")
    try:
        port = int(parsed.argument("port", 0) or "")
        backlog = int(parsed.argument("backlog", 5) or _BACKLOG)
    except ValueError:
        raise ListenerRefused("write a number for the port, and for backlog") from None
    certificate = ServerCertificate(CertificateFiles.of(parsed))
    return SSL4ServerEndpoint(reactor, port, certificate, backlog, parsed.argument("interface", 4) or ""), certificate


#: The arguments of ``ssl:``, by their place.
_ARGUMENTS = ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog", "extraCertChain", "dhParameters")
_BACKLOG = 50


@attrs.frozen
class Loaded:
    """What connections are made with, the certificates that they show, and when the first of these ends."""

    options: CertificateOptions
    certificates: Sequence[bytes]
    ends: datetime


@attrs.frozen
class CertificateFiles:
    """Where the key and the certificates of a listener are."""

    key: Path
    certificate: Path
    further: Path | None
    parameters: Path | None
    method: str | None

    @classmethod
    def of(cls, parsed: Description) -> CertificateFiles:
        """Take the names from a description; relative ones start where the process does."""

        def path(argument: str) -> Path | None:
            name = parsed.argument(argument, _ARGUMENTS.index(argument))
            return Path(name).absolute() if name else None

        key = path("privateKey") or Path("server.pem").absolute()
        return cls(
            key,
            path("certKey") or key,
            path("extraCertChain"),
            path("dhParameters"),
            parsed.argument("sslmethod", _ARGUMENTS.index("sslmethod")),
        )

    @property
    def paths(self) -> Sequence[Path]:
        """All of them."""
        return [path for path in (self.key, self.certificate, self.further, self.parameters) if path is not None]

    def as_they_are(self) -> Mapping[Path, Identity | None]:
        """Return how the files are now, to see whether they change."""
        return {path: Identity.of(path) for path in self.paths}

    def load(self) -> Loaded:
        """
        Return what connections are to be made with.

        :raises ListenerRefused: if the files cannot be used together.
        """
        key = self._private_key()
        public = key.public_key()
        first, *chain = _certificates("certKey", self.certificate)
        if self.further is not None:
            chain += _certificates("extraCertChain", self.further)
        own = first.to_cryptography()
        if own.public_key() != public:
            if any(each.to_cryptography().public_key() == public for each in chain):
                why = "the server's certificate must come first, then its CA chain"
            else:
                why = f"its certificate does not match the key in {str(self.key)!r}; name the two that belong together"
            raise ListenerRefused(f"certKey {str(self.certificate)!r}: {why}")
        shown = tuple(each.to_cryptography().public_bytes(Encoding.DER) for each in (first, *chain))
        return Loaded(self._options(first, key, chain), shown, own.not_valid_after_utc)

    def _options(self, first: X509, key: PrivateKeyTypes, chain: Sequence[X509]) -> CertificateOptions:
        further: dict[str, Any] = {}
        if self.method is not None:
            if not re.fullmatch(r"\w+_METHOD", self.method) or not hasattr(SSL, self.method):
                raise ListenerRefused(f"sslmethod: OpenSSL has no {self.method!r}; leave it out")
            further["method"] = getattr(SSL, self.method)
        try:
            if self.parameters is not None:
                _content("dhParameters", self.parameters)
                further["dhParameters"] = DiffieHellmanParameters.fromFile(FilePath(str(self.parameters)))
            options = CertificateOptions(
                privateKey=PKey.from_cryptography_key(key),  # type: ignore[arg-type]  # of another kind: TypeError
                certificate=first,
                extraCertChain=list(chain),
                **further,
            )
            options.getContext()  # what OpenSSL does not like it says here
        except ListenerRefused:
            raise
        except (SSL.Error, ValueError, TypeError) as e:
            raise ListenerRefused(f"OpenSSL refuses the key, the certificates or the method: {_said(e)}") from None
        return options

    def _private_key(self) -> PrivateKeyTypes:
        what = f"privateKey {str(self.key)!r}"
        found = _KEY.search(_content("privateKey", self.key))
        if found is None:
            raise ListenerRefused(f"{what} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
        try:
            return load_pem_private_key(found[0], None)
        except TypeError:
            cure = f"openssl pkey -in {self.key.name} -out FILE writes it without one"
            raise ListenerRefused(f"{what} needs a passphrase, which nobody could type at a restart; {cure}") from None
        except Exception:  # cryptography's own errors, and ValueError; they may quote what they could not read
            raise ListenerRefused(f"{what} holds a private key that cannot be read") from None


def _content(argument: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as failure:
        raise ListenerRefused(f"{argument} {str(path)!r} cannot be read: {why_unreadable(failure)}") from None
    if len(content) > MAX_FILE:
        raise ListenerRefused(f"{argument} {str(path)!r} is larger than any chain of certificates")
    return content


def _certificates(argument: str, path: Path) -> list[X509]:
    try:
        return certificates_in(_content(argument, path))
    except ListenerRefused:
        raise
    except ValueError as e:
        raise ListenerRefused(f"{argument} {str(path)!r} {e}") from None


def _said(error: Exception) -> str:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(reason[-1]) for reason in reasons) or str(error) or type(error).__name__


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """
    The certificate that a listener shows: the one that was loaded last.

    :raises ListenerRefused: if there is none that can be used.
    :ivar files: where it is from.
    :ivar read: these files as they were before they were last read.
    :ivar ends: when it ends.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self.files = files
        self.read = files.as_they_are()
        self._shown = files.load()

    @property
    def ends(self) -> datetime:
        """When its time is over."""
        return self._shown.ends

    @property
    def shown(self) -> Sequence[bytes]:
        """The certificates that clients see, the server's own first, in DER."""
        return self._shown.certificates

    def renew(self) -> bool:
        """
        Show what the files hold now to those who connect from now on; say whether that is another one.

        :raises ListenerRefused: if that cannot be used; what was shown before is shown on.
        """
        read = self.files.as_they_are()
        before, self._shown = self._shown, self.files.load()
        self.read = read
        return before.certificates != self._shown.certificates

    def pass_over(self) -> None:
        """Say what the files hold now is not to be loaded again."""
        self.read = self.files.as_they_are()

    def doubt(self) -> str | None:
        """Say why clients will refuse the certificate; None while its time is not over."""
        if datetime.now(UTC) < self.ends:
            return None
        return f"the certificate in {str(self.files.certificate)!r} ended on {self.ends:%Y-%m-%d}; renew it"

    def serverConnectionForTLS(self, tlsProtocol: Any) -> Any:
        """Make the TLS side of a new connection."""
        return self._shown.options.serverConnectionForTLS(tlsProtocol)
