"""What receivers that call OpenAI need to know of a peer: the way to it, and how long it asks to wait."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time_ns
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_of(endpoint: str) -> str | None:
    """The proxy that the environment names for the endpoint; OpenAI's own clients would use it as well.

    Not left to aiohttp (``trust_env``), which would take credentials from a .netrc file too and then refuse to send,
    because the request has an Authorization already.
    """
    parts = urlsplit(endpoint)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the peer asks to wait, 0 when it does not say."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            seconds = _seconds_until(value) if name == "retry-after" else -1.0
        if seconds >= 0 and isfinite(seconds):
            return seconds
    return 0.0


def _seconds_until(http_date: str) -> float:
    try:
        return max(parsedate_to_datetime(http_date).timestamp() - time_ns() / 1e9, 0.0)
    except (ValueError, OverflowError):
        return -1.0
