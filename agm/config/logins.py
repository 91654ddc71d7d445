"""The google-auth file that an account names, or that application default credentials are read from."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import attrs

from agm.config.files import cure_unreadable, open_to_others
from agm.config.reading import Place
from agm.config.secret import UnusableError
from agm.core import logins


@attrs.frozen
class AdcFile:
    """Where application default credentials are looked for: a file, and whether a variable names it."""

    path: Path
    named: bool

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "AdcFile":
        """Return the file, in Google's order: the one that a variable names, else gcloud's."""
        if named := environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return cls(Path(named).absolute(), True)
        folder = environ.get("CLOUDSDK_CONFIG")
        if folder:
            return cls(Path(folder).absolute() / _ADC, False)
        home = environ.get("HOME")
        return cls((Path(home) if home else Path.home()) / ".config" / "gcloud" / _ADC, False)


_ADC = "application_default_credentials.json"
_NO_OBJECT = "is not a JSON object, as google-auth files are; sign in again, or name another file"


def read_login(credentials: str, place: Place) -> str | None:
    """
    Return the digest of the credential that an account names; None where only its use can tell, as on a machine that
    Google's metadata server gives one.

    :raises UnusableError: if the file is not there, or nothing can be made of it.
    """
    path, what = Path(credentials), "{file}"
    if credentials == "adc":
        try:
            adc = AdcFile.of(place.reading.environ)
        except RuntimeError:  # nobody knows where home is
            return None
        path = adc.path
        if not adc.named and not os.path.isfile(path):
            place.reading.look_at(path)  # gcloud may put it there
            return None
        what = "{file}, which GOOGLE_APPLICATION_CREDENTIALS names," if adc.named else "{file} of gcloud"
    place.reading.look_at(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):  # what comes through a pipe comes once, and is for who uses it
                return None
            content = file.read(logins.MAX_FILE + 1)
    except (OSError, ValueError) as failure:
        raise _unusable(what, path, f"cannot be read: {cure_unreadable(failure, 'the login')}") from None
    login = logins.login_in(content)
    why = logins.why_unusable(login) if login is not None else _NO_OBJECT
    if why is not None:
        raise _unusable(what, path, why)
    if warning := open_to_others(path, mode):
        place.warn(warning)
    return logins.digest_of(content)


def _unusable(what: str, path: Path, why: str) -> UnusableError:
    brief = what.format(file=f"the credentials file {path.name!r}")
    return UnusableError(f"{what.format(file=repr(str(path)))} {why}", f"{brief} {why}")
