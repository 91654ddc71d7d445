"""
``[upstream]``: how upstreams are reached, by which proxy and with whose certificates; an account may say otherwise.
"""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from agm.config.files import read_path, why_unreadable
from agm.config.reading import Place, Reading, RefusedError, setting
from agm.config.words import sort_of
from agm.core.network import Authorities, EnvironmentProxies, Network, Proxy, ProxySetting


def read_proxy(value: object, place: Place) -> ProxySetting:
    """``env``, ``none``, or a proxy by its URL, which may hold a password and is never shown."""
    if not isinstance(value, str):
        raise RefusedError(f"expected a string, not {sort_of(value)}")
    if value in ("env", "none"):
        return "env" if value == "env" else "none"
    try:
        proxy = Proxy.parse(value)
    except ValueError as error:
        raise RefusedError(f'the value {error}; or write "env" or "none"') from None
    if proxy.authorization is not None:
        place.reading.literal_secrets = True
    return proxy


_CA_FILE_LIMIT = 4 * 2**20


def read_authorities(value: object, place: Place) -> Authorities:
    """Return the certificates in a PEM file."""
    return authorities_in(read_path(value, place), place)


def authorities_in(path: Path, place: Place) -> Authorities:
    """Read the certificates of a PEM file.  :raises RefusedError: if it has none that can be used."""
    from agm.net.trust import certificates_in  # OpenSSL takes its time, and few have authorities of their own

    place.reading.look_at(path)
    try:
        with path.open("rb") as file:
            held = file.read(_CA_FILE_LIMIT + 1)
    except (OSError, ValueError) as failure:
        raise RefusedError(f"{str(path)!r} cannot be read: {why_unreadable(failure)}") from None
    if len(held) > _CA_FILE_LIMIT:
        raise RefusedError(f"{str(path)!r} is larger than any bundle of certificates")
    if b"PRIVATE KEY-----" in held:
        raise RefusedError(f"{str(path)!r} holds a private key, too; name a file with nothing but certificates")
    try:
        certificates_in(held)
    except ValueError as error:
        raise RefusedError(
            f"{str(path)!r} {error}; openssl x509 -inform der -in FILE -out FILE.pem converts one in DER form"
        ) from None
    return Authorities(str(path), held)


@attrs.frozen(kw_only=True)
class UpstreamConfig:
    """
    How upstreams and token endpoints are reached, where an account does not say otherwise.

    ``proxy`` is a :class:`Proxy`, ``"env"`` or ``"none"``; ``ca_file`` holds the file's certificates.
    """

    proxy: ProxySetting = setting(read_proxy, "env")
    ca_file: Authorities | None = setting(read_authorities)

    @property
    def network(self) -> Network:
        """The same, for the client."""
        return Network(self.proxy, self.ca_file)


def check_environment(of: Mapping[str, Any], reading: Reading) -> None:
    """Warn of a proxy in the environment that cannot be used, where one would be: its upstreams cannot be reached."""
    upstream = of.get("upstream", UpstreamConfig())
    settings = [upstream.proxy if account.proxy is None else account.proxy for account in of.get("accounts", ())]
    if "env" in (settings or [upstream.proxy]):
        try:
            EnvironmentProxies.of(reading.environ).proxy_of("https")
        except ValueError as error:
            (Place(reading) / "upstream" / "proxy").warn(f'{error}; set the variable right, or write "none" here')
