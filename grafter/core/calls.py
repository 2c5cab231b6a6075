"""What is remembered of a phone call: who called whom, without their numbers.

A number is a person's. It is kept as a keyed hash, by which the calls of one number can be found again by whoever has
the number and the store, and as its last four digits, by which people tell two calls apart. Where a number stands in
is hostile text: whoever calls writes the From of the INVITE. So what cannot be read as a number is none, and no error.

Source of the forms: RFC 3261, sections 20.20 and 25.1 (name-addr, addr-spec, compact header names); RFC 3966 (tel,
visual separators).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from phonenumbers import (
    NumberParseException,
    PhoneNumber,
    PhoneNumberFormat,
    format_number,
    is_possible_number,
    is_valid_number,
    parse,
)

from grafter.core.model import UnixNano
from grafter.core.redact import digest

CALLER_HEADERS = ("from", "f")
CALLEE_HEADERS = ("to", "t")
"""Names of SIP headers, in lower case; the second is the compact one."""

# A display name has some words. What is longer than this was not written by a telephone.
_LONGEST_ADDRESS = 1_000
# E.164 has 15; the dial strings of networks of one's own are longer.
_MOST_DIGITS = 32
_LONGEST_NUMBER = 64
_DIGITS = frozenset("0123456789")
_SEPARATORS = str.maketrans("", "", "-.() ")
# What people write, and what a copied number brings along: slashes, dashes and blanks of print, marks of direction.
_TYPED = {
    ord(sign): plain
    for plain, signs in (
        (" ", "/\u00a0\u2007\u2009\u202f\t"),
        ("-", "\u2010\u2011\u2012\u2013\u2014\u2212"),
        ("", "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff"),
    )
    for sign in signs
}
_SHOWN = 4
# As many again are to stay hidden: of an extension's four digits the last four are all.
_FEWEST_TO_SHOW = 2 * _SHOWN
_HASH_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Phone:
    hash: str
    """32 hex digits, as ``redact`` makes them of the same text under the same secret. Of a number that is known to be
    international the text is its E.164 form, of any other its digits."""
    last_four: str
    """Digits; empty for a number of fewer than eight."""

    def encode(self) -> str:
        return self.hash + self.last_four

    @classmethod
    def decode(cls, text: str) -> "Phone":
        return cls(text[:_HASH_CHARACTERS], text[_HASH_CHARACTERS:])


@dataclass(slots=True)  # not frozen: see NamedLink, of each of which one is made
class CallNote:
    """What is known of a call, by webhook or by the app."""

    call_id: str
    """An id of OpenAI's; up to 256 printable ASCII characters. The guest of the call has the same."""
    at: UnixNano
    """When it was heard of first."""
    caller: Phone | None = None
    """None: no number came, or none that can be read."""
    callee: Phone | None = None
    traceparent: str | None = None
    """Of its SIP headers; the caller wrote it, so it is only a hint."""
    link: str | None = None
    """The host that a span of the app, or a post, named for it: ``link.as_text``. Sessions, traces and responses that
    somebody named have a note too, which holds nothing else; and so has what else only the first may say, under a name
    of grafter's own (``processor.guest_keys``)."""


def phone_in_headers(headers: Iterable[tuple[str, str]], names: Sequence[str], secret: bytes) -> Phone | None:
    """The first number that headers of these names hold."""
    for name, value in headers:
        if name.strip().lower() in names:
            phone = phone_in(value, secret)
            if phone is not None:
                return phone
    return None


def phone_in(text: str, secret: bytes, region: str = "") -> Phone | None:
    """The number that a text names: a bare number, or the value of a From or To header, of which the first address is
    read.

    A number is digits, with or without ``+`` and visual separators; a name, an address of the network, digits of
    another script and more than 32 digits are none. Without a secret there is none either: what is hashed under no key
    can be guessed. ``region`` (ISO 3166, two letters) is the country whose numbers may come as they are dialled there.
    Never raises.
    """
    whole = whole_number(text, region)
    if whole is None or not secret:
        return None
    # Of what is kept: a trunk prefix that was written along is no digit of the number.
    shown = whole[-_SHOWN:] if len(whole.removeprefix("+")) >= _FEWEST_TO_SHOW else ""
    return Phone(digest(whole, secret), shown)


def whole_number(text: str, region: str = "") -> str | None:
    """The same number in clear: E.164 where it is known to be international, else its digits."""
    number, digits = _digits(text)
    if not digits:
        return None
    known = _international(number, region)
    return digits if known is None else format_number(known, PhoneNumberFormat.E164)


def number_hashes(text: str, secret: bytes, region: str = "") -> tuple[str, ...]:
    """Under which hashes a number may have been kept, of a number as people type it: sources write one number with and
    without its country and its ``+``. Empty for what is no number.

    What is asked for without its country is taken for one of the region's also where nobody is known to have it: ranges
    of numbers are given out anew, and those of films and tests never are. To ask for one more does no harm; where it
    does, ``certain_hashes``.
    """
    number, digits = _digits(text.translate(_TYPED).strip())
    known = _international(number, region) or _international(f"+{digits}", "")
    if known is None or not (number.startswith("+") or is_valid_number(known)):
        known = _possible(number, region)
    return _hashes(digits, known, secret)


def certain_hashes(text: str, secret: bytes, region: str = "") -> tuple[str, ...]:
    """The same where one more does harm: of a number with ``+``, and of one of the region as it is dialled there. Of
    what may be another country's too, its ``+`` left out, only the hash of its digits: neither number is meant for
    sure."""
    number, digits = _digits(text.translate(_TYPED).strip())
    known = _international(number, region)
    other = None if number.startswith("+") else _international(f"+{digits}", "")
    if known is not None and other is not None and known != other and is_valid_number(other):
        # Where a prefix is dialled before an area code, as in Germany, digits without it may be either's; where none
        # is, as in the USA, this is how a number is written.
        known = known if digits == _national_digits(known) else None
    return _hashes(digits, known, secret)


def _hashes(digits: str, known: PhoneNumber | None, secret: bytes) -> tuple[str, ...]:
    """Of a number's digits, and of each way to write it where it is known."""
    if not digits or not secret:
        return ()
    forms = [digits]
    if known is not None:
        whole = format_number(known, PhoneNumberFormat.E164)
        forms = [whole, whole[1:], digits, _national_digits(known)]
    return tuple(dict.fromkeys(digest(form, secret) for form in forms))


def _national_digits(number: PhoneNumber) -> str:
    """As it is dialled in its country."""
    return "".join(each for each in format_number(number, PhoneNumberFormat.NATIONAL) if each in _DIGITS)


def _digits(text: str) -> tuple[str, str]:
    """The number as it is written, and its digits; empty where there is none."""
    number = _number(text) if len(text) <= _LONGEST_ADDRESS else None
    if number is None:
        return "", ""
    digits = number.removeprefix("+").translate(_SEPARATORS)
    if not 0 < len(digits) <= _MOST_DIGITS or not _DIGITS.issuperset(digits):
        return "", ""
    return number, digits


def _international(number: str, region: str) -> PhoneNumber | None:
    """A number that begins with ``+``, and with a country that there is, or that is one in the region."""
    known = _parsed(number, region)
    return known if known is not None and (number.startswith("+") or is_valid_number(known)) else None


def _possible(number: str, region: str) -> PhoneNumber | None:
    """A number of as many digits as the region's have."""
    known = _parsed(number, region) if region else None
    return known if known is not None and is_possible_number(known) else None


def _parsed(number: str, region: str) -> PhoneNumber | None:
    if len(number) > _LONGEST_NUMBER or not (region or number.startswith("+")):
        return None
    try:
        return parse(number, region or None)
    except NumberParseException:
        return None


def _number(text: str) -> str | None:
    """What stands where an address has its number."""
    address = _address(text)
    if address is None:
        return None
    scheme, colon, rest = address.partition(":")
    if not colon:
        return address.strip()
    match scheme.strip().lower():
        case "tel":
            return rest.partition(";")[0].strip()
        case "sip" | "sips":
            user, at, _ = rest.partition("@")
            # Without a user it is the address of a machine, whose digits and dots are no number.
            return unquote(user.partition(";")[0].partition(":")[0]).strip() if at else None
    return None


def _address(text: str) -> str | None:
    """The first address of a text, without the display name and the header's parameters."""
    opening = _opening(text)
    if opening >= 0:
        address, closing, _ = text[opening + 1 :].partition(">")
        return address if closing else None
    if '"' in text:
        return None
    return text.partition(";")[0].partition(",")[0]


def _opening(text: str) -> int:
    """Where ``<`` first stands outside of quotes, else -1: what a caller puts into a display name is no address."""
    quoted = escaped = False
    for position, each in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and each == "\\":
            escaped = True
        elif each == '"':
            quoted = not quoted
        elif each == "<" and not quoted:
            return position
    return -1
