"""Values that a config writes as text and the program needs as numbers or parts: durations, sizes, addresses.

Each is a plain int or str that also knows how it is written, so that it can be used without unwrapping and is printed
as the user would write it. What they refuse, they refuse with a sentence that can follow the value found.
"""

import ipaddress
import re
from abc import ABC, abstractmethod
from decimal import Decimal
from typing import ClassVar, Self
from urllib.parse import SplitResult, urlsplit

from pydantic_core import CoreSchema, core_schema

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
# Go keeps a duration in 64 signed bits; so do the timers that these end up in.
_LONGEST = 2**63 - 1

_BYTES = {"B": 1, "": 1}
_BYTES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)}
_BYTES |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)} | {"KB": 1000}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|")


class _Written(ABC):
    """A value of its own type that a config writes as text, and that is printed as it was meant."""

    wrong: ClassVar[str]
    """What to say of anything else, after the value found."""
    kinds: ClassVar[tuple[str, ...]] = ("string",)
    """What may stand there, in the words of JSON Schema."""
    pattern: ClassVar[str | None] = None
    examples: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for text that means nothing here."""

    @classmethod
    def _of_number(cls, number: float) -> Self:
        """What a bare number means. Raises ValueError where it means nothing."""
        raise ValueError(cls.wrong)

    @classmethod
    def _read(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(str(value))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls._of_number(value)
        raise ValueError(cls.wrong)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        kinds: str | list[str] = cls.kinds[0] if len(cls.kinds) == 1 else list(cls.kinds)
        text: dict[str, object] = {"type": kinds, "examples": list(cls.examples)}
        if cls.pattern is not None:
            text["pattern"] = cls.pattern
        return core_schema.no_info_plain_validator_function(
            cls._read,
            serialization=core_schema.to_string_ser_schema(when_used="always"),
            metadata={"pydantic_js_functions": [lambda _schema, _handler: text]},
        )


class Duration(_Written, int):
    """A length of time in nanoseconds, never negative, written as Go writes it: ``500ms``, ``10s``, ``1h30m``."""

    wrong = "is not a duration such as 500ms, 10s or 1h30m"
    pattern = r"^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|^0$"
    examples = ("500ms", "10s", "1h30m")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for anything but one or more numbers with a unit each, or ``0``."""
        total, at = Decimal(0), 0
        while match := _DURATION.match(text, at):
            total += Decimal(match[1]) * _NANOSECONDS[match[2]]
            at = match.end()
        if (not at or at < len(text)) and text != "0":
            raise ValueError(cls.wrong)
        if total > _LONGEST:
            raise ValueError("is longer than a duration can be (292 years)")
        return cls(total)

    @classmethod
    def _of_number(cls, number: float) -> Self:
        if number:
            raise ValueError(f"has no unit: write {number}s, if seconds are meant")
        return cls(0)

    @property
    def seconds(self) -> float:
        return self / 1e9

    def __str__(self) -> str:
        if not self:
            return "0s"
        hours, rest = divmod(int(self), _NANOSECONDS["h"])
        minutes, rest = divmod(rest, _NANOSECONDS["m"])
        text = f"{hours}h" * bool(hours) + f"{minutes}m" * bool(minutes)
        for unit in ("s", "ms", "us", "ns"):
            count, rest = divmod(rest, _NANOSECONDS[unit])
            text += f"{count}{unit}" * bool(count)
        return text


class Size(_Written, int):
    """A number of bytes, written ``64MiB`` (also ``500MB``, or the bare number of bytes)."""

    wrong = "is not a size such as 512KiB, 64MiB or 4GiB"
    kinds = ("string", "integer")
    pattern = r"^[0-9]+(\.[0-9]+)? ?([KMGT]iB|[kKMGT]B|B)?$"
    examples = ("512KiB", "64MiB", "4GiB")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a unit that is not known, or a fraction of a byte."""
        match = _SIZE.fullmatch(text)
        if match is None or match[2] not in _BYTES:
            raise ValueError(cls.wrong)
        total = Decimal(match[1]) * _BYTES[match[2]]
        if total != total.to_integral_value():
            raise ValueError("is not a whole number of bytes")
        return cls(total)

    @classmethod
    def _of_number(cls, number: float) -> Self:
        if isinstance(number, int) and number >= 0:
            return cls(number)
        raise ValueError(cls.wrong)

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}B"


class MemoryLimit(_Written, str):
    """A share of the memory that the process may use (``80%``), or a size (``512MiB``)."""

    wrong = "is neither a percentage such as 80% nor a size such as 512MiB"
    kinds = ("string", "integer")
    examples = ("80%", "512MiB")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError unless it is a percentage over 0 and up to 100, or a size over 0."""
        if text.endswith("%"):
            if not re.fullmatch(r"\d+(\.\d+)?%", text, re.ASCII) or not 0 < float(text[:-1]) <= 100:
                raise ValueError("is not a percentage over 0% and up to 100%")
            return cls(text)
        try:
            size = Size.parse(text)
        except ValueError:
            raise ValueError(cls.wrong) from None
        if not size:
            raise ValueError("must be more than nothing")
        return cls(text)

    @classmethod
    def _of_number(cls, number: float) -> Self:
        if isinstance(number, int):
            return cls.parse(str(number))
        raise ValueError(cls.wrong)

    def of(self, total: int) -> int:
        """The limit in bytes, when the process may use ``total`` bytes."""
        return int(total * float(self[:-1]) / 100) if self.endswith("%") else Size.parse(self)


class Endpoint(_Written, str):
    """Where to listen: ``host:port``. An empty host (``:4317``) is every interface, port 0 any free port."""

    wrong = "is not an address such as localhost:4317"
    examples = ("localhost:4317", "0.0.0.0:4317", "[::1]:4317")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError unless there is a host (or none), a colon and a port."""
        if "://" in text:
            raise ValueError("is not host:port: an address to listen on has no scheme")
        split_host_port(text)
        return cls(text)

    @property
    def host(self) -> str:
        """Without brackets; empty for every interface."""
        return split_host_port(self)[0]

    @property
    def port(self) -> int:
        return split_host_port(self)[1]

    @property
    def url(self) -> str:
        """Where a client on this machine finds it by HTTP; what listens on every interface, on localhost."""
        host = "localhost" if self.host in ("", "0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def overlaps(self, other: "Endpoint") -> bool:
        """Whether one process cannot listen on both."""
        if self.port != other.port or not self.port:
            return False
        mine, theirs = _spread(self.host), _spread(other.host)
        return mine == theirs or "" in (mine, theirs)


class Url(_Written, str):
    """An ``http://`` or ``https://`` address to send to, without a user or a password."""

    wrong = "is not an address such as https://collector.example.com:4318"
    examples = ("https://collector.example.com:4318", "http://localhost:4318")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for another scheme, a missing host or a bad port."""
        _split_url(text)
        return cls(text)

    @property
    def host(self) -> str:
        return _split_url(self).hostname or ""

    @property
    def secure(self) -> bool:
        return self.startswith("https://")

    @property
    def port(self) -> int:
        return _split_url(self).port or (443 if self.secure else 80)


class Target(_Written, str):
    """A gRPC server to send to: ``host:port``, or with ``https://`` or ``http://`` before it."""

    wrong = "is not an address such as collector.example.com:4317"
    examples = ("collector.example.com:4317", "https://api.honeycomb.io:443", "http://localhost:4317")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for another scheme, a missing host or port (``https://`` alone has one: 443)."""
        target = cls(text)
        if "/" in text.partition("://")[2].rstrip("/") or ("://" not in text and "/" in text):
            raise ValueError("has a path: gRPC sends to a host and a port")
        if not target.host:
            raise ValueError("names no host to send to")
        return target

    @property
    def scheme(self) -> str:
        """``https``, ``http`` or empty."""
        return self.partition("://")[0] if "://" in self else ""

    @property
    def host(self) -> str:
        return _split_url(self).hostname or "" if self.scheme else split_host_port(self)[0]

    @property
    def port(self) -> int:
        if not self.scheme:
            return split_host_port(self)[1]
        return _split_url(self).port or (443 if self.scheme == "https" else 80)

    @property
    def address(self) -> str:
        """``host:port``, which is what gRPC dials."""
        host = self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    host = host.lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_host_port(text: str) -> tuple[str, int]:
    """Host without brackets, and port. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is not host:port, with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("has no IPv6 address between its brackets") from None
    elif ":" in host:
        raise ValueError("is not host:port: an IPv6 address stands in brackets, as in [::1]:4317")
    elif not _HOST.fullmatch(host):
        raise ValueError("is not host:port: the host has characters that no host name has")
    return host, int(port)


def _split_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        port_ok = url.port is None or url.port > 0
    except ValueError:
        port_ok = False
        url = SplitResult("http", "-", "", "", "")
    if not port_ok:
        raise ValueError("is not a URL: its host or port cannot be read")
    if url.scheme not in ("http", "https"):
        raise ValueError("is not a URL that begins with http:// or https://")
    if url.username is not None or url.password is not None:
        raise ValueError("holds a user or a password: they belong into headers")
    if not url.hostname or any(letter.isspace() for letter in text):
        raise ValueError("is not a URL: it has no host, or has spaces")
    return url


def _spread(host: str) -> str:
    """A host for comparison: empty for every interface, one word for loopback."""
    if host in ("", "0.0.0.0", "::"):
        return ""
    return "localhost" if is_loopback(host) else host.lower()
