"""
What clients may have against the certificate of a listener: its time, its chain, its names.

Files are read and compared; nobody is connected to.  That the key belongs to the certificate is not checked here: a
:class:`~agm.web.certificates.ServerCertificate` whose files do not belong together cannot be made.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from agm.core.listening import is_loopback
from agm.core.words import counted
from agm.web.certificates import ServerCertificate

__all__ = ["Doubt", "doubts", "facts"]

#: A certificate is to be renewed when it holds for less than this: Let's Encrypt's are renewed 30 days before.
SOON = timedelta(days=14)


@attrs.frozen
class Doubt:
    """Why some or all clients will refuse a certificate, and what helps; `certain` if all of them will."""

    found: str
    cure: str
    certain: bool = False


def facts(certificate: ServerCertificate, now: datetime) -> str:
    """Describe a certificate: whose it is, how long it holds, and how many are sent with it."""
    first, *chain = map(x509.load_der_x509_certificate, certificate.shown)
    left = max((certificate.ends - now).days, 0)
    return (
        f"{certificate.files.certificate}: for {', '.join(_names(first)) or 'no name'}, {counted(left, 'day')} left, "
        f"{counted(len(chain), 'certificate')} of its chain"
    )


def doubts(
    certificate: ServerCertificate, hosts: Sequence[str], roots: Sequence[bytes], now: datetime
) -> Iterator[Doubt]:
    """
    Say what speaks against a certificate.

    :param hosts: the names by which clients come, as ``[gateway] allowed_hosts`` has them.
    :param roots: the authorities that this system trusts, as PEM text; none if they are not known.
    :param now: the time, with its zone.
    """
    shown = [x509.load_der_x509_certificate(each) for each in certificate.shown]
    file = str(certificate.files.certificate)
    yield from _time(shown[0], file, now)
    yield from _chain(shown, file, [*roots, *_own_authority(certificate)] if roots else roots)
    yield from _names_of(shown[0], file, hosts)


def _time(own: x509.Certificate, file: str, now: datetime) -> Iterator[Doubt]:
    left = own.not_valid_after_utc - now
    renew = "renew it: the gateway takes the new files up by itself"
    if left <= timedelta():
        yield Doubt(f"{file}: the certificate ended on {own.not_valid_after_utc:%Y-%m-%d}", renew, certain=True)
    elif left < SOON:
        yield Doubt(f"{file}: the certificate ends in {counted(left.days, 'day')}", renew)
    if own.not_valid_before_utc > now:
        found = f"{file}: the certificate holds from {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
        yield Doubt(found, "wait, or set the clock of the machine that made it", certain=True)


def _chain(shown: Sequence[x509.Certificate], file: str, roots: Sequence[bytes]) -> Iterator[Doubt]:
    for number, (one, issuer) in enumerate(pairwise(shown), 1):
        if not _issued_by(one, issuer):
            found = f"{file}: certificate {number} is not signed by the one after it"
            yield Doubt(found, "put the certificates in order, each before its issuer, and leave out all others")
            return
    own, last = shown[0], shown[-1]
    if _issued_by(own, own):
        found = f"{file}: the certificate is signed by itself, which no client trusts unless it is told to"
        yield Doubt(found, "`agm cert` makes one with a bundle for clients; or take one of an authority")
    elif roots and not _issued_by(last, last) and not _is_known(last, roots):
        issuer_name = _common_name(last.issuer)
        found = f"{file}: the chain ends at a certificate of {issuer_name}, whom this system does not know"
        yield Doubt(
            found,
            "name the file with the full chain (fullchain.pem); if it is your own authority, clients need its"
            " certificate: SSL_CERT_FILE",
        )


def _own_authority(certificate: ServerCertificate) -> Sequence[bytes]:
    """Return the authority that ``agm cert`` made with a certificate and put beside it, if it did."""
    try:
        return [(certificate.files.certificate.parent / "ca.pem").read_bytes()]
    except OSError:
        return []


def _is_known(last: x509.Certificate, roots: Sequence[bytes]) -> bool:
    """Return whether a certificate is signed by an authority that the system trusts, or is that itself."""
    for root in roots:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of roots with serial numbers that are not as they should be
                known = x509.load_pem_x509_certificate(root)
        except ValueError:
            continue
        if known.subject == last.issuer and _issued_by(last, known):
            return True
    return False


def _issued_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names_of(own: x509.Certificate, file: str, hosts: Sequence[str]) -> Iterator[Doubt]:
    names = _names(own)
    if not names:
        yield Doubt(f"{file}: the certificate is for no name", "make one with names: subjectAltName", certain=True)
        return
    for host in hosts:
        if not any(_covers(name, host) for name in names):
            found = f"{file}: the certificate is not for {host}, by which clients come ([gateway] allowed_hosts)"
            yield Doubt(found, f"make one with this name: `agm cert {shlex.quote(host)}`, or your authority's way")
    for name in names:
        is_address = ":" in name or name.replace(".", "").isdecimal()  # most listeners take any address
        if not is_address and not is_loopback(name) and not any(_covers(name, host) for host in hosts):
            found = f"{file}: the certificate is for {name}, by which the gateway refuses requests"
            example = name.replace("*", "ai", 1)
            yield Doubt(found, f'write it into the configuration: [gateway] allowed_hosts = ["{example}"]')


def _covers(name: str, host: str) -> bool:
    """Return whether a name of a certificate is that of a host; an asterisk stands for one label (RFC 6125)."""
    name, host = name.lower(), host.lower()
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return name == host


def _names(own: x509.Certificate) -> Sequence[str]:
    try:
        found = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses = found.get_values_for_type(x509.IPAddress)
    return [*found.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(found[0].value)) if found else "an authority without a name"
