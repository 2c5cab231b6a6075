"""Attribute values that must not be read behind grafter: replaced by something comparable, or taken out."""

import hmac
import json

from grafter.core.model import AttributeValue
from grafter.core.policy import Redact, RedactAction


def redact(value: AttributeValue, redact: Redact) -> AttributeValue | None:
    """What stands in for the value of an attribute that ``redact.keys`` names; None: the attribute goes.

    HMAC: 32 hex digits, the first 16 bytes of HMAC-SHA256 over the value's text, so that equal values stay equal
    under one secret. The text of a string is itself, of any other value its JSON, so that the number 5 and the
    string "5" are one value, as they are to somebody who looks for it.
    """
    if redact.action is RedactAction.DROP:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return digest(text, redact.secret)


def digest(text: str, secret: bytes) -> str:
    """What stands in for a text: 32 hex digits."""
    # A lone surrogate is legal in a str; it must not cost the span.
    return hmac.digest(secret, text.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()
