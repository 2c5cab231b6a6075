"""One HTTP request to a door of grafter's, and what its answer asks for."""

from __future__ import annotations

import email.utils
import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

LONGEST_ASKED: Final = 300.0
"""Seconds: no answer makes a sender wait longer than that."""
_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(frozen=True)
class Answer:
    """What became of a post."""

    text: str
    """A status or an error, for a log line."""
    stored: bool = False
    again: bool = False
    """The same post may be taken later. Neither ``stored`` nor ``again``: it will never be."""
    after: float = 0.0
    """Seconds that the door asks to wait."""


class Door:
    """A connection that is kept alive between posts. Used by one thread at a time."""

    def __init__(self, endpoint: str, path: str, token: str | None, headers: Mapping[str, str] | None = None) -> None:
        """``endpoint``: the door's URL, or an address without a path, which then gets ``path``. ``headers``: others
        than the token's. Raises ValueError for what is no address, and for a value that no header can carry."""
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http or https address: {endpoint}")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path if parts.path not in {"", "/"} else path
        if parts.query:
            self._path = f"{self._path}?{parts.query}"
        self._headers = {"Content-Type": "application/json", "User-Agent": "grafter-propagation", **(headers or {})}
        if token:
            self._headers["Authorization"] = bearer(token)
        for name, value in self._headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"the value of {name} is no header value")
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
        """Send it and read the answer. ``headers``: of this request alone. Raises nothing."""
        for kept in (self._connection is not None, False):
            try:
                return self._once(body, timeout, {**self._headers, **(headers or {})})
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                # A connection that was kept may have been closed by the other end: that says nothing about the door.
                if not kept or isinstance(error, TimeoutError):
                    return Answer(f"{type(error).__name__}: {error}", again=True)
        raise AssertionError("the second try returns")

    def close(self) -> None:
        """End the connection; the next post makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forget(self) -> None:
        """Leave the connection to the process that this one was forked from."""
        self._connection = None

    def _once(self, body: bytes, timeout: float, headers: Mapping[str, str]) -> Answer:
        connection = self._connection
        if connection is None:
            make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = self._connection = make(self._host, self._port, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("POST", self._path, body, dict(headers))
        response = connection.getresponse()
        response.read(64 * 1024)
        if response.will_close or not response.isclosed():
            self.close()
        text = f"HTTP {response.status}"
        if 200 <= response.status < 300:
            return Answer(text, stored=True)
        again = response.status >= 500 or response.status in _AGAIN
        return Answer(text, again=again, after=_seconds(response.headers.get("Retry-After")))


def bearer(token: str) -> str:
    """The value of an Authorization header. Raises ValueError for a token that no header can carry."""
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token is no header value")
    return f"Bearer {token}"


def _seconds(asked: str | None) -> float:
    """Of a Retry-After header, which is a number of seconds or a date."""
    if asked is None:
        return 0.0
    try:
        wait = float(asked)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(asked).timestamp() - time.time_ns() / 1e9
        except (ValueError, TypeError):
            return 0.0
    return min(max(wait, 0.0), LONGEST_ASKED) if wait == wait else 0.0
