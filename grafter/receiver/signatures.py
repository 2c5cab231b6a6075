"""Who sent a webhook: Standard Webhooks signatures, by project and with several secrets each.

Every header that cannot be right is refused with a reason and nothing else happens. The body is signed as the bytes
that came, without a copy: the library makes four of them, for whoever posts anything. What is accepted here, OpenAI's
own clients accept too; the tests sign with the library.

Source: the Standard Webhooks specification; openai-python 3.54.0, ``resources/webhooks``.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from multidict import CIMultiDictProxy

from grafter.core.policy import SECOND
from grafter.errors import RejectedError
from grafter.guests.json_values import plain_id
from grafter.receiver.outcomes import UnsignedError

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

_PREFIX = "whsec_"
# The last second that a datetime can hold.
_LAST_SECOND = 253_402_300_799
_MAX_DIGITS = 12
# During a rotation there are two. Each costs a comparison.
_MAX_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Signed:
    """What the headers of a delivery say."""

    id: str
    at: datetime
    signatures: tuple[str, ...]
    """Those of version 1, base64."""


class Signatures:
    """The secrets of all projects; without any of them nothing is accepted."""

    def __init__(self, secrets: Mapping[str, Sequence[str]], tolerance_ns: int) -> None:
        """``secrets`` by project, as OpenAI shows them (``whsec_`` and base64), or any text as it is; empty ones are
        dropped. ``tolerance_ns``: how far a delivery's moment may be from the clock, either way.

        Raises ValueError, without the secret, for a ``whsec_`` that is not base64.
        """
        self.tolerance_ns = tolerance_ns
        self._tolerance = tolerance_ns // SECOND
        self._keys = [
            (project, key)
            for project, some in secrets.items()
            for secret in some
            if (key := signing_key(secret)) is not None
        ]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def read(self, headers: CIMultiDictProxy[str], now_ns: int) -> Signed:
        """What the headers say, before the body is read. Raises RejectedError for what can be no fresh delivery."""
        identity, moment, signature = (_header(headers, name) for name in (ID, TIMESTAMP, SIGNATURE))
        if plain_id(identity) is None:
            raise RejectedError(f"{ID} is not 1 to 256 printable ASCII characters without a blank", reason=ID)
        # int() would take signs, underscores and digits of every script.
        # Signed is the text, so that it has to be the one way to write the number.
        if not (moment.isascii() and moment.isdecimal() and len(moment) <= _MAX_DIGITS and moment == str(int(moment))):
            raise RejectedError(f"{TIMESTAMP} is not a whole number of Unix seconds", reason=TIMESTAMP)
        seconds = int(moment)
        if now_ns // SECOND - seconds > self._tolerance:
            raise RejectedError(f"{TIMESTAMP} is older than the tolerance of {self._tolerance} s", reason="too_old")
        if seconds - now_ns // SECOND > self._tolerance or seconds > _LAST_SECOND:
            raise RejectedError(f"{TIMESTAMP} is further ahead than {self._tolerance} s", reason="too_new")
        if not signature.isascii():
            raise RejectedError(f"{SIGNATURE} is not ASCII", reason=SIGNATURE)
        versions = [part.partition(",") for part in signature.split(" ") if part]
        usable = tuple(value for version, _, value in versions if version == "v1" and value)
        if not 0 < len(usable) <= _MAX_SIGNATURES:
            expected = f"1 to {_MAX_SIGNATURES} of the form v1,<base64>, separated by blanks"
            raise RejectedError(
                f"{SIGNATURE} has {len(usable)} usable signatures, expected {expected}", reason=SIGNATURE
            )
        return Signed(identity, datetime.fromtimestamp(seconds, UTC), usable)

    def project(self, signed: Signed, body: bytes) -> str:
        """The project whose secret signed the body. Raises RejectedError where none did."""
        for project, key in self._keys:
            # The parts one after the other: a body that nobody signed is not copied for it.
            signing = hmac.new(key, f"{signed.id}.{int(signed.at.timestamp())}.".encode(), sha256)
            signing.update(body)
            expected = b64encode(signing.digest())
            # All of them, so that the time tells nothing of which one was nearly right.
            if max([hmac.compare_digest(expected, given.encode()) for given in signed.signatures]):
                return project
        raise UnsignedError("no signature of this body by a webhook secret of any project")


def _header(headers: CIMultiDictProxy[str], name: str) -> str:
    values = headers.getall(name, ())
    if len(values) != 1:
        count = "is missing" if not values else "is there more than once"
        raise RejectedError(f"header {name} {count}", reason=name)
    value = values[0].strip()
    if not value:
        raise RejectedError(f"header {name} is empty", reason=name)
    return value


def signing_key(secret: str) -> bytes | None:
    """The key that a secret stands for; None for one that says nothing. Raises ValueError, without the secret."""
    secret = secret.strip()
    try:
        # Without the prefix OpenAI's clients take the text itself for the key.
        key = b64decode(secret.removeprefix(_PREFIX) + "==") if secret.startswith(_PREFIX) else secret.encode()
    except ValueError:
        raise ValueError("a webhook secret is not whsec_ and base64") from None
    return key or None
