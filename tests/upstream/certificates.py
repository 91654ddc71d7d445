"""Certificates for tests: an authority that is made on the spot, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.ssl import CertificateOptions, PrivateCertificate

DAY = datetime.timedelta(days=1)


@cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class TestAuthority:
    """A certificate authority; `pem` is its certificate."""

    __test__ = False

    def __init__(self, name: str = "test authority") -> None:
        self._name = _name(name)
        self._key = _key(name)
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = made.public_bytes(serialization.Encoding.PEM)

    def server(self, host: str, *, since: int = -1, until: int = 1, self_signed: bool = False) -> CertificateOptions:
        """What a TLS server of this name needs; as :meth:`pair`."""
        pem = b"".join(self.pair(host, since=since, until=until, self_signed=self_signed))
        return PrivateCertificate.loadPEM(pem).options()

    def pair(self, host: str, *, since: int = -1, until: int = 1, self_signed: bool = False) -> tuple[bytes, bytes]:
        """
        The certificate and the key of a server of this name, as PEM.

        :param since: days from today from which the certificate holds, and `until` to which.
        :param self_signed: signed by nobody but the server itself.
        """
        key = _key(f"server {host}")
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(host))
            .issuer_name(_name(host) if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since * DAY)
            .not_valid_after(now + until * DAY)
            .add_extension(x509.SubjectAlternativeName([_san(host)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key if self_signed else self._key, hashes.SHA256())
        )
        written = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return made.public_bytes(serialization.Encoding.PEM), written
