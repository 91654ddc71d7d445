"""
Sealed values: what a client carries for the gateway, and can neither read nor change.

Authenticated encryption (ChaCha20-Poly1305) under a key of the gateway's own: whoever has the key, after a restart
or in another process, opens what it has sealed.  Where the key comes from is not known here.
"""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES = 32
NONCE_BYTES = 12


class Seal:
    """
    Seals and opens values.

    :param key: 32 random bytes.
    :param purpose: what the values are for; what is sealed for one purpose is not opened for another.
    """

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._purpose = purpose

    def seal(self, value: bytes, nonce: bytes) -> str:
        """
        Seal a value, in letters that may stand in a URL.

        :param nonce: 12 random bytes, never the same twice.
        """
        sealed = nonce + self._cipher.encrypt(nonce, value, self._purpose)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def open(self, sealed: str) -> bytes | None:
        """Open a value; None for what was not sealed with this key, or was changed since."""
        try:
            raw = base64.b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._purpose)
        except (ValueError, InvalidTag):
            return None
