"""What clients may have against a listener's certificate, as ``agm config check`` and ``agm doctor`` tell it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agm.core.listening import Description
from agm.web.certificate_checks import Doubt, doubts, facts
from agm.web.certificates import CertificateFiles, ServerCertificate
from tests.upstream.certificates import TestAuthority

ROOT = TestAuthority("root")
BETWEEN = TestAuthority("between", by=ROOT)
OTHER = TestAuthority("other")
#: A little later than the certificates are made.
NOW = datetime.now(UTC) + timedelta(hours=1)


def certificate(
    folder: Path, name: str = "ai.example.net", chain: bytes = BETWEEN.pem, *, by: TestAuthority = BETWEEN,
    until: int = 60, since: int = -1, self_signed: bool = False,
) -> ServerCertificate:  # fmt: skip
    pem, key = by.server_pem(name, since=since, until=until, self_signed=self_signed)
    (folder / "cert.pem").write_bytes(pem + chain)
    (folder / "key.pem").write_bytes(key)
    description = f"ssl:8443:privateKey={folder}/key.pem:certKey={folder}/cert.pem"
    return ServerCertificate(CertificateFiles.of(Description.parse(description)))


def found(
    given: ServerCertificate, hosts: Sequence[str] = ("ai.example.net",), roots: Sequence[bytes] = (ROOT.pem,)
) -> list[Doubt]:
    return list(doubts(given, hosts, roots, NOW))


def test_a_certificate_with_its_chain_and_its_name_is_in_no_doubt(tmp_path: Path) -> None:
    given = certificate(tmp_path)
    assert found(given) == []
    assert facts(given, NOW) == f"{tmp_path}/cert.pem: for ai.example.net, 59 days left, 1 certificate of its chain"


@pytest.mark.parametrize(
    ("days", "words", "certain"),
    [(13, "ends in 12 days", False), (2, "ends in 1 day", False), (0, "ended on ", True)],
)
def test_one_that_ends_soon_is_doubtful_and_one_that_has_ended_is_refused(
    tmp_path: Path, days: int, words: str, certain: bool
) -> None:
    (doubt,) = found(certificate(tmp_path, until=days))
    assert (words in doubt.found, doubt.certain) == (True, certain)


def test_one_whose_time_has_not_come_is_refused(tmp_path: Path) -> None:
    (doubt,) = found(certificate(tmp_path, since=2))
    assert ("holds from " in doubt.found, doubt.certain) == (True, True)


def test_a_chain_that_does_not_reach_an_authority_names_the_one_that_is_missing(tmp_path: Path) -> None:
    (doubt,) = found(certificate(tmp_path, chain=b""))
    assert "ends at a certificate of 'between', whom this system does not know" in doubt.found
    assert "fullchain.pem" in doubt.cure


def test_whether_a_chain_is_whole_is_not_said_where_no_authorities_are_known(tmp_path: Path) -> None:
    assert found(certificate(tmp_path, chain=b""), roots=()) == []


def test_the_authority_beside_the_certificate_is_as_good_as_the_systems(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(OTHER.pem)
    assert found(certificate(tmp_path, chain=b"", by=OTHER)) == []


def test_a_chain_in_the_wrong_order_is_said_to_be(tmp_path: Path) -> None:
    (doubt,) = found(certificate(tmp_path, chain=OTHER.pem + BETWEEN.pem))
    assert "certificate 1 is not signed by the one after it" in doubt.found


def test_one_that_is_signed_by_itself_is_doubtful(tmp_path: Path) -> None:
    (doubt,) = found(certificate(tmp_path, chain=b"", self_signed=True))
    assert "signed by itself" in doubt.found


def test_names_are_compared_with_those_by_which_clients_come(tmp_path: Path) -> None:
    lacking, refused = found(certificate(tmp_path, "old.example.net"))
    assert "is not for ai.example.net" in lacking.found
    assert "is for old.example.net, by which the gateway refuses requests" in refused.found
    assert found(certificate(tmp_path, "*.example.net")) == []
    assert found(certificate(tmp_path, "localhost"), hosts=()) == []
    assert found(certificate(tmp_path, "192.0.2.7"), hosts=()) == []
    assert len(found(certificate(tmp_path, "*.example.net"), hosts=["a.b.example.net"])) == 2
