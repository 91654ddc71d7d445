"""
Asking the gateway that runs on this machine, over HTTP, for commands that look into it.

Where it listens is read from the configuration, or told with ``--url``.  It is asked for what it knows, and
changes nothing of how it serves requests.  No Twisted in here: a question takes a moment, and the command ends with it.
"""

import argparse
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from agm.cli import files
from agm.cli.files import Refused
from agm.config import GatewayConfig, find, parse
from agm.core.listening import Description, is_loopback

__all__ = ["Running", "add_options", "address_of", "client_key", "find_running", "is_meant", "json_text", "printable"]

#: Seconds to connect, and to wait for an answer: plugins may take their time with an explanation.
CONNECT, ANSWER = 5.0, 60.0
#: No answer to a question is longer, in bytes.
MAX_ANSWER = 64 * 2**20


def add_options(parser: argparse.ArgumentParser, *, offline: bool = True, as_json: bool = True) -> None:
    """
    Add the options of every command that asks a running gateway.

    :param offline: whether the command has something to say without one.
    :param as_json: whether it can say it as JSON.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
    )
    parser.add_argument(
        "--url", metavar="URL", help="where the gateway runs, http://HOST:PORT or unix:PATH; else as configured"
    )
    parser.add_argument(
        "--client-key-env", metavar="VAR", help="the environment variable that holds a client key, if one is asked for"
    )
    if offline:
        parser.add_argument(
            "--offline", action="store_true", help="ask no running gateway; the configuration alone counts"
        )
    else:
        parser.set_defaults(offline=False)
    if as_json:
        parser.add_argument("--json", action="store_true", help="as JSON")


def find_running(args: argparse.Namespace, otherwise: str | None) -> "Running | None":
    """
    Return the gateway that runs; None where none does, or where ``--offline`` says not to ask.

    :param otherwise: what that means for the command; a line on standard error says it.  Nothing is said if it is None.
    :raises Refused: if ``--url`` names a place where nothing can be reached.
    :raises agm.config.ConfigError: if the configuration, which says where it listens, cannot be used.
    """
    if args.offline:
        _say(f"offline: {otherwise}", otherwise)
        return None
    key = client_key(args.client_key_env)
    address = args.url if args.url is not None else address_of(_listeners(args.config))
    if address is None:
        _say(
            f"no listener of the configuration is on loopback; add one for the tools, or write --url: {otherwise}",
            otherwise,
        )
        return None
    running = Running.at(address, key)
    try:
        running.connection().close()
    except OSError as failure:
        if args.url is not None:
            raise Refused(f"--url: cannot connect: {_why(failure)}") from None
        _say(f"no gateway runs at {address}: {otherwise}", otherwise)
        return None
    return running


def is_meant(document: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """
    Return whether the gateway that answered is the one that the arguments mean.

    At an address that the configuration names, or that nobody named, another may run.

    :param document: its answer, with the path of its configuration as ``config``.
    """
    path = find(args.config, os.environ)
    if args.url is not None or path is None or document.get("config") == str(path):
        return True
    return args.config is None and "AGM_CONFIG" not in os.environ and document.get("config") is None


def client_key(variable: str | None) -> str | None:
    """Return the client key that an environment variable holds.  :raises Refused: if it holds none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Refused("--client-key-env: there is no such variable, or nothing in it")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise Refused("--client-key-env: the variable holds a character that cannot be in a client key")
    return key


def _say(line: str, otherwise: str | None) -> None:
    if otherwise is not None:
        print(line, file=sys.stderr)


def _listeners(named: str | None) -> tuple[str, ...]:
    path = find(named, os.environ)
    if path is None:
        return GatewayConfig().listen
    return parse(files.read(path), path=path, environ=os.environ).gateway.listen


def address_of(listen: Iterable[str]) -> str | None:
    """
    Return where this machine reaches a gateway with these Twisted server endpoints: ``http://127.0.0.1:8045``,
    ``https://127.0.0.1:8443``, ``unix:/run/agm.sock``, or None.  They are taken in this order.
    """
    secure: list[str] = []
    sockets: list[str] = []
    for description in listen:
        parsed = Description.parse(description)
        if parsed.kind in ("tcp", "tcp6", "ssl"):
            port = parsed.argument("port", 0) or ""
            anywhere = "::" if parsed.kind == "tcp6" else "0.0.0.0"  # noqa: S104  # compared, not bound
            host = _loopback(parsed.argument("interface", 4 if parsed.kind == "ssl" else 1) or anywhere)
            if host is not None and port.isdecimal() and int(port) > 0:
                if parsed.kind != "ssl":
                    return f"http://{host}:{int(port)}"
                secure.append(f"https://{host}:{int(port)}")
        elif parsed.kind == "unix" and (address := parsed.argument("address", 0)):
            sockets.append(f"unix:{address}")
    return next(iter([*secure, *sockets]), None)


def _loopback(interface: str) -> str | None:
    """Return the loopback address that an interface includes, as a URL has it, or None."""
    if interface == "localhost":
        return interface
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        return None
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    if not address.is_loopback:
        return None
    return str(address) if address.version == 4 else f"[{address}]"


@attrs.frozen
class Running:
    """A gateway that can be asked; `address` is how a person reads where it is."""

    address: str
    _host: str
    _port: int | None
    _prefix: str
    _scheme: str
    _key: str | None = attrs.field(repr=False)

    @classmethod
    def at(cls, address: str, key: str | None) -> "Running":
        """
        Return the one at ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:PATH``.

        :param key: the client key to show.
        :raises Refused: if it is none of these.  The address is not repeated: it may hold a secret.
        """
        if address.startswith("unix:"):
            return cls(address, address.removeprefix("unix:"), None, "", "unix", key)
        try:
            split = urlsplit(address)
            host, port = split.hostname, split.port
        except ValueError:
            host, port = None, None
        if not host or split.scheme not in ("http", "https") or split.query or split.fragment or "@" in split.netloc:
            raise Refused("--url: write http://HOST:PORT, https://HOST:PORT or unix:PATH, and nothing more")
        return cls(address, host, port, split.path.rstrip("/"), split.scheme, key)

    def connection(self) -> http.client.HTTPConnection:
        """Return a new connection, which is connected.  :raises OSError: if it cannot be."""
        client: http.client.HTTPConnection
        if self._scheme == "unix":
            client = _UnixConnection(self._host)
        elif self._scheme == "https":
            client = http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT, context=self._context())
        else:
            client = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT)
        client.connect()
        client.sock.settimeout(ANSWER)
        return client

    def _context(self) -> ssl.SSLContext:
        """
        Return how TLS is checked: as everywhere, but for loopback, where no certificate of a name holds.

        There nobody can come between, and plain HTTP is believed as well.
        """
        context = ssl.create_default_context()
        if is_loopback(self._host):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def ask(self, target: str, question: bytes | None = None) -> Any:
        """
        Return the document that the gateway answers with.

        :param target: path and query.
        :param question: the JSON to POST; None for a GET.
        :raises Refused: if it answers anything else, in its own words.
        """
        try:
            client = self.connection()
            try:
                answer = self._sent(client, target, question)
                body = answer.read(MAX_ANSWER)
            finally:
                client.close()
        except (OSError, http.client.HTTPException, ValueError) as failure:
            raise Refused(f"{self.address}: no answer: {_why(failure)}") from None
        return self._document(answer, body)

    def status_of(self, target: str) -> int | None:
        """
        Return the status that the gateway answers a GET with; None if what answers there is no gateway.

        :raises OSError: or ``http.client.HTTPException``, if nothing answers.
        """
        client = self.connection()
        try:
            answer = self._sent(client, target, None)
            return None if answer.getheader("x-agm-request-id") is None else answer.status
        finally:
            client.close()

    def follow(self, target: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """
        Return the answer that comes piece by piece, and its connection, which is to be closed.

        :raises Refused: if the answer is not 200, in its own words.
        :raises OSError: or ``http.client.HTTPException``, if there is none.
        """
        client = self.connection()
        try:
            answer = self._sent(client, target, None)
            if answer.status != 200:
                self._document(answer, answer.read(MAX_ANSWER))
                raise Refused(f"{self.address}: unexpected answer")
        except BaseException:
            client.close()
            raise
        return client, answer

    def _sent(
        self, client: http.client.HTTPConnection, target: str, question: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        if question is not None:
            headers["Content-Type"] = "application/json"
        client.request("GET" if question is None else "POST", self._prefix + target, question, headers)
        return client.getresponse()

    def _document(self, answer: http.client.HTTPResponse, body: bytes) -> Any:
        try:
            document = json.loads(body)
            ours = answer.getheader("x-agm-request-id") is not None and isinstance(document, dict)
        except (ValueError, RecursionError):
            ours = False
        if not ours:
            raise Refused(f"{self.address}: the server there is not agm; --url names another address")
        if answer.status != 200:
            raise Refused(f"{self.address}: {_refusal(document)}{self._hint(answer.status)}")
        return document

    def _hint(self, status: int) -> str:
        if status != 401:
            return ""
        return "  --client-key-env VAR names the variable that holds a key." if self._key is None else ""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def _refusal(document: dict[str, Any]) -> str:
    error = document.get("error")
    return printable(str(error.get("message"))) if isinstance(error, dict) else "unexpected answer"


def _why(failure: Exception) -> str:
    return printable(getattr(failure, "strerror", None) or str(failure) or type(failure).__name__)


def printable(text: str) -> str:
    """Return a line without what a terminal would take for more than text."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def json_text(document: object, *, indent: int | None = 2) -> str:
    """Return a document as JSON in which what a terminal would take for more than text is escaped."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
