"""Which number a text names, and what is kept of it."""

import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.calls import CALLER_HEADERS, Phone, certain_hashes, number_hashes, phone_in, phone_in_headers
from grafter.core.policy import Redact
from grafter.core.redact import redact

SECRET = b"s" * 32
CALLER = "+15550100123"


def phone(text: str) -> Phone:
    """What is to be kept of a text: worked out here by hand."""
    shown = text[-4:] if len(text.removeprefix("+")) >= 8 else ""
    return Phone(hmac.digest(SECRET, text.encode(), "sha256")[:16].hex(), shown)


@pytest.mark.parametrize(
    "value",
    [
        "+15550100123",
        "+1 (555) 010-0123",
        " +1.555.010.0123 ",
        "sip:+15550100123@example.com",
        "SIP:+15550100123@example.com;transport=tcp;tag=1",
        "sips:+15550100123@[2001:db8::1]:5061",
        "<sip:+15550100123@example.com>",
        "<sip:+15550100123@example.com;user=phone>;tag=a,b",
        "<sip:+15550100123;phone-context=example.com:password@example.com>",
        "sip:%2B15550100123@example.com",
        "tel:+1-555-010-0123",
        "<tel:+15550100123;ext=7>",
        'Ada Lovelace <sip:+15550100123@example.com>;tag="<sip:+19@x>"',
        '"Lovelace, Ada" <sip:+15550100123@example.com>',
        '"+19995550000" <sip:+15550100123@example.com>',
        '"a \\" <sip:+19995550000@x>" <sip:+15550100123@example.com>',
        '"Ада \u202e\x00😀" <sip:+15550100123@example.com>',
        "<sip:+15550100123@example.com>, <sip:+19995550000@example.com>",
        "sip:+15550100123@example.com, sip:+19995550000@example.com",
    ],
)
def test_an_international_number_is_one_however_it_is_written(value: str) -> None:
    """The first address counts, and of it the number alone: not what the caller calls himself."""
    assert phone_in(value, SECRET) == phone(CALLER)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("+44 (0)20 7946 0123", "+442079460123"),
        ("5550100123", "5550100123"),
        ("0049 30 1234567", "0049301234567"),
        ("sip:15550100123@example.com", "15550100123"),
        ("+99912345678", "99912345678"),
        ("<sip:100@pbx.example.com>", "100"),
        ("+1234567890123456789", "1234567890123456789"),
        ("9" * 32, "9" * 32),
    ],
)
def test_without_a_country_nothing_is_guessed(value: str, text: str) -> None:
    """National numbers, extensions, a country that there is not: the digits are what is hashed."""
    assert phone_in(value, SECRET) == phone(text)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "+",
        "anonymous",
        "sip:anonymous@anonymous.invalid",
        '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1',
        "sip:ada@example.com",
        "sip:10.0.0.1",
        "<sip:192.0.2.1:5060>",
        "sip:@example.com",
        "mailto:+15550100123@example.com",
        "http://5550100123@example.com",
        "urn:service:sos",
        '"+15550100123"',
        '"+15550100123" sip:+15550100123@example.com',
        "<sip:+15550100123@example.com",
        "sip:+15550100123a@example.com",
        "sip:*67#@example.com",
        "++15550100123",
        "٠١٢٣٤٥٦٧٨",
        "＋１５５５０１００１２３",
        "sip:%FF%00@example.com",
        "9" * 33,
        '"' + "x" * 2_000 + '" <sip:+15550100123@example.com>',
        "\ud800",
    ],
)
def test_what_is_no_number_is_none(value: str) -> None:
    """A withheld number, a name, a machine, another scheme, digits of another script, what no telephone writes."""
    assert phone_in(value, SECRET) is None


def test_a_redacted_attribute_can_be_compared_with_it() -> None:
    """The same number under the same secret has the same hash, on a span and here."""
    found = phone_in(CALLER, SECRET)
    assert found is not None
    assert found.hash == redact(CALLER, Redact(secret=SECRET))


def test_without_a_secret_there_is_no_number() -> None:
    """What is hashed under no key can be guessed: there are not that many numbers."""
    assert phone_in(CALLER, b"") is None


def test_a_short_number_shows_none_of_its_digits() -> None:
    """Of eight digits the last four; of fewer none, for they would be most of it."""
    shown = [phone_in("1" * count, SECRET) for count in (1, 4, 7, 8)]
    assert [each and each.last_four for each in shown] == ["", "", "", "1111"]
    # Eight digits are written, seven are the number: a trunk prefix is none of it.
    assert phone_in("+49 (0)50060", SECRET) == phone("+4950060")


def test_the_first_header_with_a_number_is_the_one() -> None:
    """Its name in any case, and short too; of repeated ones, whatever else the caller sends."""
    headers = [("Fro", "sip:+19995550000@x"), ("FROM ", "sip:anonymous@x"), ("f", f"sip:{CALLER}@x"), ("From", "+19")]
    assert phone_in_headers(headers, CALLER_HEADERS, SECRET) == phone(CALLER)
    assert phone_in_headers(headers[:2], CALLER_HEADERS, SECRET) is None


def test_what_is_kept_comes_back_from_its_text() -> None:
    for text in (CALLER, "100"):
        assert Phone.decode(phone(text).encode()) == phone(text)


@given(st.text() | st.text(alphabet='<>"\\;,:@+%0123456789() -.sipstel', max_size=80))
def test_any_text_is_a_number_or_none(text: str) -> None:
    """It raises nothing, and never keeps more than a hash and four digits."""
    found = phone_in(text, SECRET)
    if found is not None:
        assert set(found.encode()) <= set(string.hexdigits.lower())
        assert len(found.last_four) in (0, 4)


@pytest.mark.parametrize("typed", ["(555) 010-4037", "555 010 4037", "1 555 010 4037", "+1 555-010-4037"])
def test_a_number_of_the_region_is_asked_for_whether_anybody_has_it_or_not(typed: str) -> None:
    """As people type it there, of a range that nobody is known to have: it is found where a source wrote it whole."""
    kept = phone_in("+15550104037", SECRET)
    assert kept is not None
    assert number_hashes(typed, SECRET, "US")[0] == kept.hash
    assert kept.hash not in number_hashes("555 010 4037", SECRET, "DE")


@pytest.mark.parametrize(
    ("typed", "region", "meant"),
    [
        ("+1 500 555 0006", "DE", "+15005550006"),
        ("15005550006", "DE", None),
        ("015005550006", "DE", "+4915005550006"),
        ("001 500 555 0006", "DE", "+15005550006"),
        ("030/1234567", "DE", "+49301234567"),
        ("49 30 1234567", "DE", "+49301234567"),
        ("442079460456", "DE", None),
        ("442079460456", "GB", "+442079460456"),
        ("(458) 234-5678", "US", "+14582345678"),
        ("1 458 234 5678", "US", "+14582345678"),
        ("4582345678", "DK", "+4582345678"),
        ("4582345678", "DE", None),
        ("4582345678", "", None),
        ("98765 43210", "IN", "+919876543210"),
        ("(555) 010-4037", "US", None),
    ],
)
def test_what_is_certain_is_one_number(typed: str, region: str, meant: str | None) -> None:
    """Where nothing may be guessed: of all numbers with their countries only the one that is meant, and none where it
    may be two; what is kept as the digits that were typed in any case."""
    digits = phone_in("".join(filter(str.isdigit, typed)), SECRET)
    assert digits is not None
    certain = set(certain_hashes(typed, SECRET, region))
    assert digits.hash in certain
    whole = {"+15005550006", "+4915005550006", "+49301234567", "+442079460456", "+49442079460456", "+14582345678"}
    whole |= {"+4582345678", "+494582345678", "+919876543210", "+5550104037", "+15550104037"}
    assert [each for each in whole if phone(each).hash in certain] == ([] if meant is None else [meant])
    assert certain_hashes("anna", SECRET, region) == certain_hashes(typed, b"", region) == ()
