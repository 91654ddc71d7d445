"""``agm cert``: what is made, that clients take it, and that it is good for nothing else."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from agm.cli import main
from agm.cli.cert import make, platform_roots

reactor: Any = _reactor


def made(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    assert main(["cert", "--folder", str(folder), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


class Greeter(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"hello")  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


def greeted(port: int, bundle: str, host: str) -> bytes:
    context = ssl.create_default_context(cafile=bundle)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python has it from 3.13 on
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        wrapped.sendall(b"?")
        return wrapped.recv(10)


@pytest_twisted.ensureDeferred
async def test_a_listener_with_it_is_trusted_by_whoever_has_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Strictly verified, by each of its names and by no other; a colon and a space in the path are no obstacle."""
    document = made(tmp_path / "a folder: mine", capsys, "gateway.example.com")
    listener = document["listen"].replace("ssl:8443", "ssl:0:interface=127.0.0.1")
    port = await serverFromString(reactor, listener).listen(Factory.forProtocol(Greeter))
    number = port.getHost().port
    bundle = document["environment"]["SSL_CERT_FILE"]
    try:
        for host in ("localhost", "127.0.0.1", "::1", "gateway.example.com"):
            assert await deferToThread(greeted, number, bundle, host) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await deferToThread(greeted, number, bundle, "example.com")
    finally:
        await port.stopListening()


def test_the_files_hold_no_key_of_the_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: Path(path) for name, path in made(tmp_path, capsys)["files"].items()}
    assert stat.S_IMODE(files["key"].stat().st_mode) == 0o600
    authority = x509.load_pem_x509_certificate(files["ca"].read_bytes())
    leaf = x509.load_pem_x509_certificate(files["cert"].read_bytes())
    assert files["key"].read_bytes().count(b"PRIVATE KEY") == 2
    assert authority.public_key() != leaf.public_key()
    assert sum(path.read_bytes().count(b"PRIVATE KEY") for path in tmp_path.iterdir()) == 2
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    permitted = {str(name.value) for name in constraints.value.permitted_subtrees or ()}
    assert permitted == {"localhost", "127.0.0.1/32", "::1/128"}
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_the_bundle_holds_the_systems_authorities_and_ours_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where SSL_CERT_FILE names the bundle of before."""
    roots = platform_roots({})
    assert len(roots) > 20
    first = Path(made(tmp_path, capsys)["files"]["bundle"])
    assert first.read_bytes().count(b"BEGIN CERT") == len(roots) + 1
    monkeypatch.setenv("SSL_CERT_FILE", str(first))
    again = Path(made(tmp_path, capsys, "--renew")["files"]["bundle"])
    assert again.read_bytes().count(b"BEGIN CERT") == len(roots) + 1


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, capsys)
    before = (tmp_path / "cert.pem").read_bytes()
    assert main(["cert", "--folder", str(tmp_path)]) == 1
    assert "--renew replaces it" in capsys.readouterr().err
    assert (tmp_path / "cert.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["not a host"], "neither a host's name nor an address"),
        (["1.2.3"], "neither a host's name nor an address"),
        (["--days", "0"], "not between 1 and 3650"),
        (["--port", "70000"], "not between 1 and 65535"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    assert main(["cert", "--folder", str(tmp_path), *options]) == 1
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_lines_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cert", "--folder", str(tmp_path), "--port", "9443"]) == 0
    out = capsys.readouterr().out
    assert f'"ssl:9443:interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"' in out
    assert (
        f"export SSL_CERT_FILE={tmp_path}/bundle.pem\n    export GOOGLE_GEMINI_BASE_URL=https://localhost:9443\n" in out
    )
    assert f"export NODE_EXTRA_CA_CERTS={tmp_path}/ca.pem" in out


def test_each_is_another_and_holds_as_long_as_asked() -> None:
    now = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)
    first, second = make(["localhost"], 30, now), make(["*.example.com", "::1"], 30, now)
    assert first.ends == now + datetime.timedelta(days=30)
    assert first.authority != second.authority
    leaf = x509.load_pem_x509_certificate(second.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.example.com"]
