"""Secrets: written in the file, in another file or in the environment; none of them is shown."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agm.config.files import cure_unreadable, open_to_others
from agm.config.reading import Place, RefusedError


class Secret:
    """
    A value that must not be shown: an API key or an access token.

    ``repr``, ``str`` and formatting give ``Secret(…)``; :meth:`reveal` gives the value.  Not a subclass
    of ``str`` and not an attrs class, so neither joining, JSON nor ``attrs.asdict`` can spill it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))


class UnusableError(RefusedError):
    """
    A secret is missing or unusable; the message says why, and what helps.

    ``brief`` says the same to those who need not know in which folder a file is.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief or message


def read_secret(value: object, place: Place) -> Secret:
    """Return a secret written in the file itself, which has to be one that can be used."""
    secret = read_written_secret(value, place)
    if why := _why_unfit(secret.reveal()):
        raise RefusedError(why)
    return secret


def read_written_secret(value: object, place: Place) -> Secret:
    """Return a secret written in the file itself, whether or not it can be used."""
    if not isinstance(value, str):
        raise RefusedError("expected a string")
    place.reading.literal_secrets = True
    return Secret(value.strip())  # white space is what copying leaves around it


def _why_unfit(text: str) -> str | None:
    """Explain why a text cannot be a key or token in a header; None if it can."""
    if not text:
        return "is empty"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "holds a space, a control character or one outside ASCII, which no key has; write the key alone"
    return None


_NOT_ONE_KEY = "holds more than an API key; a google-auth file belongs in credentials"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
#: The beginning of an assignment: what is in capitals is a variable's name, and so is what is named like a secret.
_ASSIGNED = re.compile(r"(export\s+)?([A-Z_][A-Z0-9_]+|(?i:[a-z0-9_-]*(key|token|secret)[a-z0-9_-]*))\s*=\s*[^\s=]")


def why_unusable(text: str) -> str | None:
    """
    Explain why a stripped text is no key or token of Google's, with the fix; None if it can be one.

    ``docker --env-file`` takes quotes for a part of the value, and people copy whole lines.
    """
    if text.startswith("{"):
        return _NOT_ONE_KEY
    if text and (text[0] in _QUOTES or text[-1] in _QUOTES):
        return "has quotes around the key; write the key without them"
    if _ASSIGNED.match(text):
        return "begins with a name and '=', as a line of an .env file does; write the key alone"
    if re.fullmatch(r"\$(\w+|\{.*\})", text):
        return "names a variable in the place of the key, and nothing has put in its value; write the key itself"
    return _why_unfit(text)


def read_variable(value: object, place: Place) -> str:
    """Return the name of an environment variable.  People paste the key here, so what is no name is not shown."""
    if not isinstance(value, str):
        raise RefusedError("expected a string: the name of an environment variable")
    known = value in place.reading.environ
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or (_looks_secret(value) and not known):
        raise RefusedError("expected the name of an environment variable, like GEMINI_API_KEY, not the key itself")
    return value


def _looks_secret(name: str) -> bool:
    """Return whether a name that a variable could have is more likely a key of Google's."""
    mixed = all(re.search(letters, name) for letters in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(name) > 100 or (len(name) >= 20 and mixed) or re.fullmatch("[0-9a-fA-F]{32,}", name) is not None


def read_digest(value: object, place: Place) -> str:
    """Return a SHA-256 in hexadecimal.  People paste the key here, so what is no digest is not shown."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value.strip()):
        raise RefusedError("expected the SHA-256 of a key: 64 hexadecimal digits")
    return value.strip().lower()


def digest_of(secret: Secret) -> str:
    return hashlib.sha256(secret.reveal().encode("ascii")).hexdigest()


_KEY_FILE_LIMIT = 64 * 1024


def secret_from_file(path: object, place: Place, what: str = "the key") -> Secret:
    """The one key, or `what` else, that a file holds; ``path`` is a :class:`Path`.  Raises :class:`UnusableError`."""
    assert isinstance(path, Path)
    place.reading.look_at(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(_KEY_FILE_LIMIT + 1)
    except (OSError, ValueError) as failure:
        raise _file_unusable("{file}", path, f"cannot be read: {cure_unreadable(failure, what)}") from None
    text = held.decode("utf-8-sig", "replace").strip()
    if why := _NOT_ONE_KEY if len(held) > _KEY_FILE_LIMIT else why_unusable(text):
        cure = "" if text else f"; put {what} there"
        raise _file_unusable("the content of {file}", path, why + cure)
    if warning := open_to_others(path, mode):
        place.warn(warning)
    return Secret(text)


def _file_unusable(what: str, path: Path, why: str) -> UnusableError:
    brief = what.format(file=f"the key file {path.name!r}")
    return UnusableError(f"{what.format(file=repr(str(path)))} {why}", f"{brief} {why}")


def secret_from_environment(name: object, place: Place) -> Secret:
    """Return the key that an environment variable holds; ``name`` is its name.  Raises :class:`UnusableError`."""
    value = place.reading.environ.get(str(name))
    if value is None or not value.strip():
        state = "is not set" if value is None else "is empty"
        raise UnusableError(f"the environment variable {name} {state}; write export {name}=… before the start")
    if why := why_unusable(value.strip()):
        raise UnusableError(f"the environment variable {name} {why}")
    return Secret(value.strip())


def check_one_source(
    place: Place, table: Mapping[str, object], what: str, names: Sequence[str], note: str = ""
) -> None:
    """Exactly one of the keys ``names`` must have been written, well or badly."""
    given = [name for name in names if name in table]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        verb = "is" if len(given) < 2 else "are"
        place.problem(f"{what} needs exactly one of {', '.join(names)}; {found} {verb} given{note}")


#: What no secret has for a digest.
NO_DIGEST = ""


def one_digest(place: Place, table: Mapping[str, object], what: str, name: str, written: object) -> str | None:
    """
    Return the digest of a secret that ``table`` must give in one of three ways: itself as ``name``, in the variable
    ``name_env``, or as its digest ``name_sha256``.  ``written`` has what the readers made of the three.

    It is :data:`NO_DIGEST` where the variable is missing or unusable: nobody is let in by it.
    """
    names = (name, f"{name}_env", f"{name}_sha256")
    check_one_source(place, table, what, names)
    secret: Secret | None = getattr(written, name)
    variable: str | None = getattr(written, f"{name}_env")
    digest: str | None = getattr(written, f"{name}_sha256")
    if secret is not None:
        return digest_of(secret)
    if variable is not None:
        try:
            return digest_of(secret_from_environment(variable, place / f"{name}_env"))
        except UnusableError as lacking:
            (place / f"{name}_env").lack(f"{lacking}; until then {what} lets nobody in")
            return NO_DIGEST
    return digest
