"""
The tests see nothing of who runs them: no configuration, state or credentials, no key, proxy or other wish of the
environment, and no gateway at agm's own port, where everybody's runs.

conftest.py calls :func:`isolate`.  What has to get something from elsewhere (pip, npm) is run in :func:`outside`.
"""

from __future__ import annotations

import atexit
import errno
import http.client
import json
import os
import re
import shutil
import tempfile

#: Where a gateway listens that nobody has told otherwise.
PORT = 8045
#: How the network is reached, and whom it is believed.
_WAY = r"(ALL|FTP|HTTP|HTTPS|NO)_PROXY$|SSL_CERT_|REQUESTS_CA_BUNDLE$|CURL_CA_BUNDLE$|NODE_EXTRA_CA_CERTS$"
#: What agm, Google's SDKs, OpenTelemetry, the service manager and Python are told by the environment.
_WISHES = re.compile(
    r"AGM_(?!TEST_)|GEMINI_|GOOGLE_|CLOUDSDK_|GCE_|OTEL_|NOTIFY_SOCKET$|WATCHDOG_|LISTEN_(FDS|PID|FDNAMES)"
    rf"|PYTHON(IOENCODING|UTF8|WARNINGS|OPTIMIZE)$|(NO|FORCE|CLICOLOR_FORCE)_?COLOR$|FAKETIME|{_WAY}",
    re.IGNORECASE,
)
#: What those need who get something from elsewhere: the way, and their cache.
_OUTSIDE = re.compile(rf"HOME$|XDG_CACHE_HOME$|{_WAY}", re.IGNORECASE)
#: Holds that, and says that this process was started by one that is isolated, as a worker of pytest-xdist is.
_KEPT = "AGM_TEST_OUTSIDE"


def isolate() -> None:
    """Leave behind what the tests must not see."""
    if _KEPT not in os.environ:
        kept = {name: value for name, value in os.environ.items() if _OUTSIDE.match(name)}
        for name in [name for name in os.environ if _WISHES.match(name)]:
            del os.environ[name]
        home = tempfile.mkdtemp(prefix="agm-tests-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ.update(
            {
                _KEPT: json.dumps(kept),
                "HOME": home,
                "XDG_CONFIG_HOME": f"{home}/.config",
                "XDG_STATE_HOME": f"{home}/.local/state",
                "XDG_DATA_HOME": f"{home}/.local/share",
                "XDG_CACHE_HOME": f"{home}/.cache",
            }
        )
    connect = http.client.HTTPConnection.connect

    def unless_it_is_theirs(self: http.client.HTTPConnection) -> None:
        if self.port == PORT:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connect(self)

    http.client.HTTPConnection.connect = unless_it_is_theirs  # type: ignore[method-assign]  # in this process


def outside() -> dict[str, str]:
    """Return the environment of who runs the tests, for what has to get something from elsewhere (pip, npm)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "AGM_"))}
    return {**inherited, **json.loads(os.environ[_KEPT])}
