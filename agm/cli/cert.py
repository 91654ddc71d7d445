"""
``agm cert``: makes the certificate of a TLS listener, for clients on this machine that insist on TLS.

Python's Live API does: it opens TLS whatever the base URL says.  The authority that signs is made for this one
certificate and for the names in it alone (RFC 5280, section 4.2.1.10), and its key is never written: who trusts it
trusts this certificate, and nothing that anybody could sign later.
"""

import argparse
import base64
import datetime
import ipaddress
import json
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from agm.cli.account import warn
from agm.cli.files import Refused
from agm.cli.running import json_text
from agm.config import default_path
from agm.persist.atomic_write import atomic_write

__all__ = ["add_parser", "platform_roots", "run"]

#: Names and addresses that are always in the certificate.
LOCAL = ("localhost", "127.0.0.1", "::1")
#: Days for which it holds: browsers and Apple's systems take no certificate that holds for longer than 398.
DAYS = 397
PORT = 8443
#: Where systems keep the authorities that they trust, each as one file.
_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSDs
)
_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9-]{1,63})*")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CA_NAME = "agm local authority"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``cert``."""
    parser = subparsers.add_parser(
        "cert",
        help="make a certificate for a TLS listener",
        description="Make a certificate for a TLS listener on this machine, and say what to write where.",
        epilog="examples:\n  agm cert\n  agm cert gateway.example.com 192.0.2.7 --port 443",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="a name or an address of the gateway beside localhost's"
    )
    parser.add_argument("--folder", metavar="FOLDER", help="where the files go; default: tls beside the configuration")
    parser.add_argument("--days", metavar="N", type=int, default=DAYS, help=f"how long it holds; default: {DAYS}")
    parser.add_argument("--port", metavar="N", type=int, default=PORT, help=f"of the ssl: line; default: {PORT}")
    parser.add_argument("--renew", action="store_true", help="replace files that are there")
    parser.add_argument("--json", action="store_true", help="print where the files are as one JSON object")
    parser.set_defaults(run=run)


@attrs.frozen
class Made:
    """The certificates and the key, as PEM text, and when they end."""

    authority: bytes
    certificate: bytes
    key: bytes
    ends: datetime.datetime


def run(args: argparse.Namespace) -> int:
    """Make the files and print the lines; 0, or 1 with the reason on standard error."""
    if not 1 <= args.days <= 3650:
        raise Refused(f"--days {args.days} is not between 1 and 3650")
    if not 1 <= args.port <= 65535:
        raise Refused(f"--port {args.port} is not between 1 and 65535")
    names = list(dict.fromkeys([*LOCAL, *(_checked(name) for name in args.names)]))
    folder = (Path(args.folder).expanduser() if args.folder else default_path().parent / "tls").absolute()
    files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "bundle")}
    there = [str(path) for path in files.values() if path.exists()]
    if there and not args.renew:
        raise Refused(f"{there[0]} is there already; --renew replaces it, --folder takes another place")
    made = make(names, args.days, datetime.datetime.now(datetime.UTC))
    roots = platform_roots(os.environ)
    if not roots:
        warn(
            "this system's certificate authorities were not found: a program that is given bundle.pem trusts this "
            "gateway and nobody else"
        )
    try:
        # the key goes first: a gateway that looks in between finds two that do not belong together, and shows the old
        atomic_write(files["key"], made.key)
        atomic_write(files["cert"], made.certificate, mode=0o644)
        atomic_write(files["ca"], made.authority, mode=0o644)
        atomic_write(files["bundle"], b"".join([*roots, made.authority]), mode=0o644)
    except OSError as e:
        raise Refused(f"{folder} cannot be written: {e.strerror}") from None
    listener = _listener(args.port, files["key"], files["cert"], args.names)
    address = f"https://{args.names[0] if args.names else 'localhost'}:{args.port}"
    if args.json:
        document = {
            "folder": str(folder),
            "names": names,
            "ends": made.ends.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "listen": listener,
            "files": {name: str(path) for name, path in files.items()},
            "environment": {"SSL_CERT_FILE": str(files["bundle"]), "GOOGLE_GEMINI_BASE_URL": address},
        }
        print(json_text(document))
        return 0
    print(f"{folder} holds the certificate for {', '.join(names)}; until {made.ends:%Y-%m-%d}.")
    print("The key of the authority that signed it is deleted: nothing else can ever be signed with it.\n")
    print("In the configuration, [gateway] listen has one more line:\n")
    print(f"    {json.dumps(listener, ensure_ascii=False)}\n")
    print("For Python, google-genai's Live included:\n")
    print(f"    export SSL_CERT_FILE={_quoted(files['bundle'])}")
    print(f"    export GOOGLE_GEMINI_BASE_URL={address}\n")
    print("For Node, which keeps its own authorities beside it:\n")
    print(f"    export NODE_EXTRA_CA_CERTS={_quoted(files['ca'])}")
    return 0


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _checked(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if len(name) > 253 or _NAME.fullmatch(name) is None or re.fullmatch(r"[0-9.]+", name):
        raise Refused(f"{name[:80]!r} is neither a host's name nor an address")
    return name.lower()


def _listener(port: int, key: Path, certificate: Path, further: Sequence[str]) -> str:
    """Return the description of the endpoint: on loopback, unless the certificate has names of other machines, too."""
    from twisted.internet.endpoints import quoteStringArgument

    where = "" if further else ":interface=127.0.0.1"
    return (
        f"ssl:{port}{where}:privateKey={quoteStringArgument(str(key))}:certKey={quoteStringArgument(str(certificate))}"
    )


def platform_roots(environ: Mapping[str, str]) -> list[bytes]:
    """
    The certificates of the authorities that this system trusts, as PEM text with a line end each; none if not found.

    ``SSL_CERT_FILE`` may name a bundle that this very command has made: its own authorities are left out.
    """
    known = ssl.get_default_verify_paths()
    places = [environ.get("SSL_CERT_FILE"), known.openssl_cafile, *_ROOTS, _certifis()]
    for place in places:
        try:
            content = Path(place).read_bytes() if place else b""
        except OSError:
            continue
        found = [block + b"\n" for block in _CERTIFICATE.findall(content) if not _is_ours(block)]
        if found:
            return found
    return []


def _certifis() -> str | None:
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()


def _is_ours(pem: bytes) -> bool:
    """Whether a certificate is of an authority that this command has made: its name stands in it as it is."""
    encoded = b"".join(pem.splitlines()[1:-1])
    return _CA_NAME.encode("ascii") in base64.b64decode(encoded, validate=False)


def make(names: Sequence[str], days: int, now: datetime.datetime) -> Made:
    """
    Make an authority for these names alone, and a certificate for them that it signs; its key is forgotten here.

    :param names: of hosts, ``*.`` before one included, and addresses.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    addresses, hosts = [], []
    for name in names:
        try:
            addresses.append(ipaddress.ip_address(name))
        except ValueError:
            hosts.append(name)
    permitted: list[x509.GeneralName] = [x509.DNSName(host.removeprefix("*.")) for host in hosts]
    permitted += [x509.IPAddress(ipaddress.ip_network(address)) for address in addresses]
    begins, ends = now - datetime.timedelta(hours=1), now + datetime.timedelta(days=days)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _CA_NAME)])

    def usage(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            **dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False),
            encipher_only=False,
            decipher_only=False,
        )

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    authority = (
        begun(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    alternatives += [x509.IPAddress(address) for address in addresses]
    certificate = (
        begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agm gateway")]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Made(
        authority.public_bytes(pem),
        certificate.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        ends,
    )
