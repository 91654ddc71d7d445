"""
Checks of this machine: packages, the configuration, the modes of files, the environment of a person's tools, the port.

They read and ask; nothing is written, and nothing but the gateway's own addresses is connected to.
"""

from __future__ import annotations

import errno
import http.client
import importlib.metadata
import importlib.util
import os
import re
import shlex
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from packaging.requirements import Requirement

from agm import __version__
from agm.cli import files
from agm.cli.cert import platform_roots
from agm.cli.config import cannot_start, names_of
from agm.cli.files import Refused
from agm.cli.running import Running, address_of
from agm.config import Config, ConfigError, default, default_path, find, load
from agm.core.client_keys import digest
from agm.core.listening import Description, ListenerRefused
from agm.core.network import EnvironmentProxies
from agm.core.words import counted
from agm.diagnose.doctor import Finding

__all__ = ["Setup", "certificates", "environment", "live", "modes", "packages", "port", "public", "setup"]

#: The distribution that the package ``agm`` is in; PyPI's ``agm`` is another project's.
DISTRIBUTION = "agm-gateway"
_INSTALL = "pip install . in agm's checkout"


# -- Packages ----------------------------------------------------------------------------------------


def packages(
    required: Callable[[str], list[str] | None] = importlib.metadata.requires,
    installed: Callable[[str], str] = importlib.metadata.version,
) -> Iterator[Finding]:
    """Check that Python and every package that agm needs are installed, and new enough."""
    try:
        requirements = [Requirement(line) for line in required(DISTRIBUTION) or ()]
    except importlib.metadata.PackageNotFoundError:
        requirements = []
        yield Finding("packages", "warning", "agm runs from its sources and is not installed", _INSTALL)
    wrong = 0
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in needed:
        cure = f"pip install {shlex.quote(str(each.name) + str(each.specifier))}"
        try:
            version = installed(each.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield Finding("packages", "error", f"{each.name} is not installed", cure)
            continue
        if not each.specifier.contains(version, prereleases=True):
            wrong += 1
            yield Finding("packages", "error", f"{each.name} {version} is not {each.specifier}", cure)
    if importlib.util.find_spec("twisted.plugins.agm_plugin") is None:
        wrong += 1
        yield Finding("packages", "error", "twistd has no command agm in this environment", _INSTALL)
    if not wrong:
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding("packages", "ok", f"agm {__version__}, Python {python}, {len(needed)} packages as agm needs them")


# -- The configuration -------------------------------------------------------------------------------


@attrs.frozen
class Setup:
    """The configuration; None where it cannot be used."""

    path: Path | None
    config: Config | None

    @property
    def listen(self) -> tuple[str, ...]:
        """The listeners that the file names, or the default ones."""
        return (self.config or default()).gateway.listen

    @property
    def address(self) -> str | None:
        """Where this machine reaches the gateway."""
        return address_of(self.listen)


def setup(named: str | None, environ: Mapping[str, str]) -> tuple[Setup, list[Finding]]:
    """Return the configuration that holds, and what is wrong with it."""
    check = "configuration"
    try:
        path = find(named, environ)
        if path is None:
            cure = "`agm account add NAME` begins one"
            found = f"{default_path()}: no such file; without one the defaults hold"
            return Setup(None, default()), [Finding(check, "warning", found, cure)]
        config = load(path, environ=environ)
    except ConfigError as error:
        cure = "correct the file; `agm config check` looks at it again"
        return Setup(None, None), [Finding(check, "error", str(problem), cure) for problem in error.problems]
    cure = "correct it; `agm config check` looks at it again"
    findings = [Finding(check, "error", str(problem), cure) for problem in cannot_start(config)]
    lacking = [str(problem) for problem in config.lacking]
    here = "set it here as well, if the gateway is started from another environment"
    mended = "once it is corrected, a running gateway picks it up by itself"
    findings += [
        Finding(check, "error", str(each), here if each.key.endswith("_env") else mended) for each in config.lacking
    ]
    findings += [
        Finding(check, "warning", warning, "see docs/configuration.md")
        for warning in config.warnings
        if warning not in lacking
    ]
    if not config.accounts and not config.plugins.load:
        findings.append(Finding(check, "warning", f"{path}: there is no account", "`agm account add NAME` adds one"))
    if not findings:
        found = f"{path}: {counted(len(config.accounts), 'account')}, {counted(len(config.auth.keys), 'client key')}"
        findings.append(Finding(check, "ok", found))
    return Setup(path, config), findings


# -- Modes of files ----------------------------------------------------------------------------------


def modes(path: Path | None, state: Path | None) -> Iterator[Finding]:
    """Check that only the owner can change the configuration and read the secrets."""
    if path is None:
        return
    held = [*_named_files(path), *([state] if state is not None and state.exists() else [])]
    folder = path.parent / "keys"
    if folder.is_dir():
        held += [folder, *sorted(folder.iterdir())]
    wrong = 0
    for file, secret in [(path, False), *((each, True) for each in held)]:
        try:
            found = file.stat()
        except OSError as failure:
            wrong += 1
            yield Finding("files", "error", f"{file}: {failure.strerror}", "create the file, or name another")
            continue
        if stat.S_IMODE(found.st_mode) & (0o077 if secret else 0o022):
            wrong += 1
            what = f"{file}: others than its owner can {'read or change' if secret else 'change'} it"
            mode = "go=" if secret else "go-w"
            yield Finding("files", "error", what, f"chmod {mode} {shlex.quote(str(file))}")
        elif found.st_uid not in (os.geteuid(), 0):
            wrong += 1
            yield Finding("files", "warning", f"{file}: belongs to another user", f"chown it to uid {os.geteuid()}")
    if not wrong:
        yield Finding("files", "ok", "the configuration and its secrets are their owner's alone")


def _named_files(path: Path) -> list[Path]:
    """Return the files with secrets that a configuration names."""
    found = []
    for table in files.tables(files.read(path), ("accounts",)):
        for key in ("api_key_file", "credentials"):
            name = table.get(key)
            if isinstance(name, str) and name != "adc" and table.get("enabled", True):
                found.append(path.parent / Path(name).expanduser())
    return list(dict.fromkeys(found))


# -- The environment of a person's tools -------------------------------------------------------------

_BASE, _KEYS = "GOOGLE_GEMINI_BASE_URL", ("GOOGLE_API_KEY", "GEMINI_API_KEY")


def environment(environ: Mapping[str, str], address: str | None, config: Config | None) -> Iterator[Finding]:
    """Check that tools in this environment reach the gateway at `address`, and have access."""
    if address is None or not address.startswith("http"):
        found = "the gateway listens on no TCP port of this machine, which Google's SDKs need"
        yield Finding("environment", "ok", found)
        return
    export = f"export {_BASE}={address}"
    here = urlsplit(address)
    base = environ.get(_BASE, "").strip()
    points_here = False
    if not base:
        found = f"{_BASE} is not set: a tool that is not told otherwise goes to Google, past the gateway"
        yield Finding("environment", "ok", found, f"{export}, for google-genai and gemini-cli")
    else:
        try:
            split = urlsplit(base)
            host, at = split.hostname or "", split.port or (443 if split.scheme == "https" else 80)
        except ValueError:
            split, host, at = urlsplit(""), "", 0
        points_here = host in (here.hostname, "localhost") and at == here.port
        if not points_here:
            shown = f"{split.scheme}://{host}:{at}" if host else "no address"
            yield Finding("environment", "warning", f"{_BASE} leads to {shown}, and not to the gateway", export)
        elif host != here.hostname:
            found = f"{_BASE} names localhost, which may mean ::1, where the gateway does not listen"
            yield Finding("environment", "warning", found, export)
        elif split.path.strip("/"):
            found = f"{_BASE} goes on after the port, but SDKs add the version themselves"
            yield Finding("environment", "warning", found, export)
        elif split.scheme != here.scheme:
            yield Finding("environment", "warning", f"{_BASE} says {split.scheme}, the gateway does not", export)
        else:
            yield Finding("environment", "ok", f"{_BASE} leads here")
    yield from _keys(environ, points_here, config)
    if environ.get("GOOGLE_GENAI_USE_VERTEXAI", "").lower() in ("1", "true"):
        found = "GOOGLE_GENAI_USE_VERTEXAI is set: google-genai goes to Vertex AI, past the gateway"
        yield Finding("environment", "warning", found, "unset GOOGLE_GENAI_USE_VERTEXAI")
    proxies = EnvironmentProxies.of(environ)
    variable, _ = proxies.variables.get(f"{here.scheme}_proxy") or proxies.variables.get("all_proxy") or ("", "")
    if variable and not proxies.no_proxy.covers(here.hostname or "", here.port or 0):
        found = f"{variable} is set and NO_PROXY does not except {here.hostname}: tools ask the proxy for the gateway"
        yield Finding("environment", "warning", found, f"export NO_PROXY={here.hostname},localhost")


def _keys(environ: Mapping[str, str], points_here: bool, config: Config | None) -> Iterator[Finding]:
    """Check the key that SDKs take from the environment, without showing it."""
    name = next((each for each in _KEYS if environ.get(each, "").strip()), None)
    asked = config is not None and config.auth.mode in ("strict", "all_except_health")
    if name is None:
        if points_here:
            found = "neither GEMINI_API_KEY nor GOOGLE_API_KEY is set, without which SDKs do not start"
            key = '"$(agm key create laptop)"' if asked else "any"
            yield Finding("environment", "warning", found, f"export GEMINI_API_KEY={key}")
        return
    known = {key.digest for key in config.auth.keys} if config is not None else set()
    if points_here and asked and digest(environ[name].strip()) not in known:
        found = f"{name} is no client key of the gateway, which asks for one"
        yield Finding("environment", "warning", found, f'export {name}="$(agm key create laptop)"')
    if all(environ.get(each, "").strip() for each in _KEYS):
        found = "GOOGLE_API_KEY and GEMINI_API_KEY are both set; google-genai takes the first"
        yield Finding("environment", "ok", found, "unset the one that is not meant")


# -- The port ----------------------------------------------------------------------------------------


def port(listen: tuple[str, ...], url: str | None, key: str | None) -> Iterator[Finding]:
    """Check whether the gateway's address is free, or which agm answers there."""
    address = url or address_of(listen)
    if address is None:
        yield Finding("port", "ok", "no listener of the configuration is on loopback; nothing was looked at")
        return
    try:
        running = Running.at(address, key)
    except Refused as refusal:
        yield Finding("port", "error", str(refusal), "write another --url")
        return
    try:
        running.connection().close()
    except OSError as failure:
        yield _free(address, failure)
        return
    try:
        yield Finding("port", "ok", f"agm {_version(running)} answers at {address}")
    except Refused as refusal:
        elsewhere = "stop what listens there, or give the gateway another port: [gateway] listen"
        yield Finding("port", "error", str(refusal), elsewhere)


def live(config: Config | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether Python's Live API can reach the gateway: it opens TLS, whatever the base URL says."""
    listen = (config or default()).gateway.listen
    if not any(each.startswith("ssl:") for each in listen):
        found = "no listener has TLS, which Python's Live API and nothing else insists on"
        yield Finding(
            "live", "ok", found, "if you want it: `agm cert` makes a certificate, and says what to write where"
        )
    elif not environ.get("SSL_CERT_FILE"):
        cure = "if it is of `agm cert`: export SSL_CERT_FILE, the bundle.pem that it wrote"
        yield Finding("live", "ok", "a listener has TLS; programs trust its certificate if the system does", cure)
    else:
        yield Finding("live", "ok", "a listener has TLS, and SSL_CERT_FILE says what programs started here trust")


def certificates(config: Config | None, environ: Mapping[str, str], now: datetime) -> Iterator[Finding]:
    """Check the certificate of each listener with TLS: key, time, chain and names."""
    descriptions = [Description.parse(each) for each in (config or default()).gateway.listen]
    descriptions = [each for each in descriptions if each.kind == "ssl"]
    if config is None or not descriptions:
        return
    from agm.web.certificate_checks import doubts, facts
    from agm.web.certificates import CertificateFiles, ServerCertificate

    roots = platform_roots(environ)
    for files_of in dict.fromkeys(CertificateFiles.of(each) for each in descriptions):
        try:
            certificate = ServerCertificate(files_of)
        except ListenerRefused as refused:
            yield Finding("certificate", "error", str(refused), "name the files that belong together: docs/team.md")
            continue
        found = list(doubts(certificate, names_of(config), roots, now))
        for doubt in found:
            yield Finding("certificate", "error" if doubt.certain else "warning", doubt.found, doubt.cure)
        if not found:
            yield Finding("certificate", "ok", facts(certificate, now))


def public(config: Config | None) -> Iterator[Finding]:
    """Check that the proxy of ``public_url`` identifies itself: else requests through it count as local."""
    if config is None or config.gateway.public_url is None:
        return
    url, trusted = config.gateway.public_url, config.gateway.trusted_proxies
    try:
        running = Running.at(url, None)
        health, status = running.status_of("/healthz"), running.status_of("/_agm/status")
    except (Refused, OSError, http.client.HTTPException) as failure:
        found = f"{url} cannot be asked from here: {getattr(failure, 'strerror', None) or type(failure).__name__}"
        yield Finding(
            "public", "warning", found, "see whether the proxy runs, and leads to the gateway: docs/deploy.md"
        )
        return
    if health is None or status is None:
        cure = "have the proxy lead there, without the path of public_url: docs/deploy.md"
        yield Finding("public", "warning", f"the server at {url} is not agm", cure)
    elif status == 200 and not trusted:
        found = f"requests to {url} count as local, and can read everything below /_agm"
        yield Finding(
            "public", "error", found, "have the proxy send X-Forwarded-For, or the public Host: docs/deploy.md"
        )
    else:
        known = ", and knows that there is a proxy" if status != 200 else ""
        yield Finding("public", "ok", f"agm answers at {url}{known}")


def _version(running: Running) -> str:
    """Return the version of the gateway that answers; in words where it does not tell."""
    running.ask("/healthz")
    try:
        document = running.ask("/_agm/status")
    except Refused:
        return "(which tells its version to nobody without a key)"
    version = document.get("gateway", {}).get("version")
    return version if isinstance(version, str) and re.fullmatch(r"[0-9A-Za-z.+-]{1,40}", version) else "of some version"


def _free(address: str, failure: OSError) -> Finding:
    """Nobody listens at an address; whether one could."""
    start = "`agm serve` starts the gateway"
    if address.startswith("unix:"):
        return Finding("port", "ok", f"no gateway runs at {address}", start)
    split = urlsplit(address)
    family = socket.AF_INET6 if ":" in (split.hostname or "") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((split.hostname, split.port or 80))
    except OSError as refused:
        cure = {
            errno.EACCES: "take a port above 1023, or let systemd bind it: docs/deploy.md",
            errno.EADDRINUSE: "stop what has bound it, or take another port: [gateway] listen",
        }.get(refused.errno or 0, "take another address: [gateway] listen")
        return Finding("port", "error", f"{address} cannot be bound: {refused.strerror}", cure)
    return Finding("port", "ok", f"no gateway runs at {address}, and the port is free", start)
