"""Secrets: written in the file, in another file or in the environment; none of them is shown."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agm.config.files import open_to_others, why_unreadable
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
        """The value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def read_secret(value: object, place: Place) -> Secret:
    """A secret written in the file itself."""
    if not isinstance(value, str):
        raise RefusedError("expected a string")
    place.reading.literal_secrets = True
    return _checked_secret(value)


def _checked_secret(text: str) -> Secret:
    """A key or token that can stand in a header, without the white space that copying leaves around it."""
    text = text.strip()
    if not text:
        raise RefusedError("is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise RefusedError("holds a space, a control character or one outside ASCII, which no key has")
    return Secret(text)


def read_variable(value: object, place: Place) -> str:
    """The name of an environment variable.  People paste the key here, so what is no name is not shown."""
    if not isinstance(value, str):
        raise RefusedError("expected a string: the name of an environment variable")
    known = value in place.reading.environ
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or (_looks_secret(value) and not known):
        raise RefusedError("expected the name of an environment variable, like GEMINI_API_KEY, not the key itself")
    return value


def _looks_secret(name: str) -> bool:
    """Whether a name that a variable could have is more likely a key, as those of Google often are one."""
    mixed = all(re.search(letters, name) for letters in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(name) > 100 or (len(name) >= 20 and mixed) or re.fullmatch("[0-9a-fA-F]{32,}", name) is not None


def read_digest(value: object, place: Place) -> str:
    """A SHA-256 in hexadecimal.  People paste the key here, so what is no digest is not shown."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value.strip()):
        raise RefusedError("expected the SHA-256 of a key: 64 hexadecimal digits")
    return value.strip().lower()


def _digest_of(secret: Secret) -> str:
    return hashlib.sha256(secret.reveal().encode("ascii")).hexdigest()


_KEY_FILE_LIMIT = 64 * 1024


def secret_from_file(path: object, place: Place) -> Secret:
    """The one key that a file holds; ``path`` is a :class:`Path`."""
    assert isinstance(path, Path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(_KEY_FILE_LIMIT + 1)
    except (OSError, ValueError) as failure:
        raise RefusedError(f"{str(path)!r} cannot be read: {why_unreadable(failure)}") from None
    text = held.decode("utf-8-sig", "replace").strip()
    if len(held) > _KEY_FILE_LIMIT or text.startswith("{"):
        raise RefusedError(f"{str(path)!r} holds more than an API key; a google-auth file belongs in credentials")
    try:
        secret = _checked_secret(text)
    except RefusedError as refusal:
        raise RefusedError(f"the content of {str(path)!r} {refusal}") from None
    if warning := open_to_others(path, mode):
        place.warn(warning)
    return secret


def secret_from_environment(name: object, place: Place) -> Secret:
    """The key that an environment variable holds; ``name`` is its name."""
    value = place.reading.environ.get(str(name))
    if value is None or not value.strip():
        state = "is not set" if value is None else "is empty"
        raise RefusedError(f"the environment variable {name} {state}; write export {name}=… before the start")
    try:
        return _checked_secret(value)
    except RefusedError as refusal:
        raise RefusedError(f"the environment variable {name} {refusal}") from None


def check_one_source(
    place: Place, table: Mapping[str, object], what: str, names: Sequence[str], note: str = ""
) -> None:
    """Exactly one of the keys ``names`` must have been written, well or badly."""
    given = [name for name in names if name in table]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        verb = "is" if len(given) < 2 else "are"
        place.problem(f"{what} needs exactly one of {', '.join(names)}; {found} {verb} given{note}")


def one_digest(place: Place, table: Mapping[str, object], what: str, name: str, written: object) -> str | None:
    """
    The digest of a secret that ``table`` must give in one of three ways: itself as ``name``, in the variable
    ``name_env``, or as its digest ``name_sha256``.  ``written`` has what the readers made of the three.
    """
    names = (name, f"{name}_env", f"{name}_sha256")
    check_one_source(place, table, what, names)
    secret: Secret | None = getattr(written, name)
    variable: str | None = getattr(written, f"{name}_env")
    digest: str | None = getattr(written, f"{name}_sha256")
    if secret is not None:
        return _digest_of(secret)
    if variable is not None:
        for found in (place / f"{name}_env").take(secret_from_environment, variable):
            return _digest_of(found)
    return digest
