"""Figures and moments as a reader sees them. Pure; moments are Unix nanoseconds in UTC, lengths nanoseconds."""

import re
import unicodedata
from datetime import UTC, datetime

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:ms|s|min|h)\b)")
MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_LATEST = 253_402_300_799 * SECOND
"""The end of the year 9999: what a span claims beyond it is no time."""


def length(ns: int | float) -> str:
    """``480 ms``, ``2.93 s``, ``2 min 05 s``, ``1 h 04 min``: no more digits than anybody could hear."""
    ns = round(ns)
    if ns < 0:
        return f"−{length(-ns)}"
    if ns < MS:
        return "0 ms" if ns == 0 else f"{ns / MS:.2g} ms"
    if ns < SECOND:
        shown = round(ns / MS)
        return f"{shown} ms" if shown < 1000 else "1.00 s"
    if ns < 9_995 * MS:
        return f"{ns / SECOND:.2f} s"
    if ns < MINUTE:
        return f"{ns / SECOND:.1f} s" if ns < 59_950 * MS else "1 min 00 s"
    if ns < HOUR:
        seconds = round(ns / SECOND)
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = round(ns / MINUTE)
    return f"{minutes // 60} h {minutes % 60:02} min"


def unbroken(text: str) -> str:
    """The text, with each figure kept on one line with its unit."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def error(ns: int | float) -> str:
    """``± 20 ms``; nothing where there is no error."""
    return f"± {length(ns)}" if ns >= MS / 2 else ""


def stated(ns: int | float | None, error_ns: int | float = 0) -> str:
    """A length with its error; one whose error is larger than itself is not known, and says so."""
    if ns is None or (error_ns and error_ns > ns):
        return "unknown"
    return f"{length(ns)} {error(error_ns)}".rstrip()


def offset(ns: int) -> str:
    """Since the call began: ``+4.93 s``, ``+12:04.930`` from a minute on."""
    sign, ns = ("−", -ns) if ns < 0 else ("+", ns)
    if ns < MINUTE:
        return f"{sign}{ns / SECOND:.3f} s"
    minutes, rest = divmod(ns, MINUTE)
    return f"{sign}{minutes}:{rest / SECOND:06.3f}"


def clock(ns: int) -> str:
    """``14:02:11``."""
    return f"{_moment(ns):%H:%M:%S}"


def day(ns: int) -> str:
    """``Sat 28 Nov 2026``."""
    return f"{_moment(ns):%a %-d %b %Y}"


def stamp(ns: int) -> str:
    """For a ``datetime`` attribute."""
    return _moment(ns).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(min(max(ns, 0), _LATEST) / SECOND, UTC)


def plain(text: str, longest: int = 120) -> str:
    """A stranger's text on one line: what has no shape of its own (control signs, marks that turn the direction of
    writing, line breaks) is shown as a sign that has, and what is longer than ``longest`` is cut in the middle."""
    if len(text) <= longest and text.isascii() and text.isprintable():
        return text
    shown = "".join(_visible(each) for each in text[: 4 * longest])
    if len(shown) <= longest and len(text) <= 4 * longest:
        return shown
    keep = longest - 1
    tail = "".join(_visible(each) for each in text[-(keep // 3) :])
    return f"{shown[: keep - keep // 3]}…{tail[-(keep // 3) :]}"


def _visible(sign: str) -> str:
    if sign.isascii():
        return sign if sign.isprintable() else "␣" if sign in "\t\n\r" else "\ufffd"
    return "\ufffd" if unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else sign


def count(number: int, one: str, many: str = "") -> str:
    """``1 span``, ``1,204 spans``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
