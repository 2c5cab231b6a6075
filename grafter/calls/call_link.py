"""Links to the page of one call, which open it without a token until they expire. Pure.

Whoever has such a link may look at that call and at nothing else: the link holds the call's key, when it expires, and a
signature under the store's secret, which all grafters of one store share. It holds no number.
"""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from grafter.core.policy import SECOND

LINKS_PATH = "/links"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Link:
    address: str
    expires: int
    """Unix nanoseconds."""


@dataclass(frozen=True, slots=True)
class CallLinks:
    """Makes links, and reads what they hold."""

    secret: bytes = field(repr=False)
    expire: int
    """Nanoseconds after which a link opens nothing."""
    address: Callable[[], str]
    """Where the page is, without a slash at its end."""

    def link(self, key: str, now: int) -> Link:
        until = (now + self.expire) // SECOND
        return Link(f"{self.address()}{LINKS_PATH}/{self.token(key, until)}", until * SECOND)

    def token(self, key: str, until: int) -> str:
        """What stands at the end of a link that holds until this Unix second."""
        return f"{key}.{until}.{self._sign(key, until)}"

    def read(self, token: str, now: int) -> tuple[str, int] | None:
        """The key that a link holds and its last second; None for one that is not signed or has expired."""
        key, _, rest = token.partition(".")
        digits, _, signature = rest.partition(".")
        if _KEY.fullmatch(key) is None or not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
            return None
        until = int(digits)
        right = hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(key, until).encode())
        return (key, until) if right and now < until * SECOND else None

    def _sign(self, key: str, until: int) -> str:
        # Under a key of its own: under the store's an attribute that ``redact`` hashes might come out as a signature.
        own = hmac.digest(self.secret, b"key of links to calls", "sha256")
        return hmac.new(own, f"{key}\0{until}".encode(), sha256).hexdigest()[:40]
