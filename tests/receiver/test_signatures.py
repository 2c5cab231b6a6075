"""Signatures by secret, project and time; the peers are the signer of Standard Webhooks and OpenAI's own verifier."""

from typing import Any
from unittest.mock import patch

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from grafter.core.policy import SECOND
from grafter.errors import RejectedError
from grafter.receiver.signatures import Signatures
from tests.webhooks import OTHER, ROTATED, SECRET, delivery

NOW = 1_800_000_000
BODY = b'{"type": "x"}'
CLIENT = openai.OpenAI(api_key="none")


def verified(
    signatures: Signatures, body: bytes, headers: dict[str, str], now_ns: int = NOW * SECOND, sent: bytes | None = None
) -> str:
    """The project, or the reason of the refusal."""
    try:
        signed = signatures.read(CIMultiDictProxy(CIMultiDict(headers)), now_ns)
        return signatures.project(signed, body if sent is None else sent)
    except RejectedError as refused:
        return refused.reason


def signatures(tolerance: int = 300, **secrets: list[str]) -> Signatures:
    return Signatures(secrets or {"default": [SECRET]}, tolerance * SECOND)


@pytest.mark.parametrize(
    ("tolerance", "age", "found"),
    [
        (300, 300, "default"),
        (300, 301, "too_old"),
        (300, -300, "default"),
        (300, -301, "too_new"),
        (1, 1, "default"),
        (1, 2, "too_old"),
        (86_400, 86_400, "default"),
        (86_400, -86_401, "too_new"),
        (1 << 40, NOW, "default"),
        (1 << 40, NOW - 10**12 + 1, "too_new"),
    ],
)
def test_the_tolerance_holds_both_ways(tolerance: int, age: int, found: str) -> None:
    """By the config, to the second; also where it is longer than the library's own."""
    body, headers = delivery(BODY, at=NOW)
    if found != "default":
        headers["webhook-timestamp"] = str(NOW - age)
        assert verified(signatures(tolerance), body, headers) == found
        return
    body, headers = delivery(BODY, at=NOW - age)
    assert verified(signatures(tolerance), body, headers, NOW * SECOND + SECOND - 1) == "default"


def test_the_first_project_whose_secret_it_is() -> None:
    """Each with several, in the order of the config."""
    some = signatures(default=[SECRET, ROTATED], eu=[OTHER], us=[SECRET])
    for secret, project in ((SECRET, "default"), (ROTATED, "default"), (OTHER, "eu")):
        assert verified(some, *delivery(BODY, secret=secret, at=NOW)) == project
    assert verified(signatures(eu=[OTHER]), *delivery(BODY, at=NOW)) == "bad_signature"


@pytest.mark.parametrize("empty", ["", "  ", "whsec_", " whsec_ ", "whsec_=="])
def test_an_empty_secret_is_none(empty: str) -> None:
    """Its key would be known to everybody."""
    assert not signatures(default=[empty])
    assert verified(signatures(default=[empty, SECRET]), *delivery(BODY, at=NOW)) == "default"


def test_a_secret_with_space_around_it_or_without_padding_is_the_same() -> None:
    """As it comes out of a file, or of somebody's clipboard."""
    assert SECRET.endswith("=")
    for secret in (SECRET + "\n", f" {SECRET}", SECRET.rstrip("=")):
        assert verified(signatures(default=[secret]), *delivery(BODY, at=NOW)) == "default"


def test_a_secret_that_is_no_base64_is_said_without_it() -> None:
    with pytest.raises(ValueError, match="whsec_ and base64") as refused:
        signatures(default=["whsec_a"])
    assert "whsec_a" not in str(refused.value)


@given(
    body=st.binary(max_size=40).map(lambda tail: b'"' + tail),
    identity=st.text(max_size=12) | st.just("wh_1"),
    moment=st.integers(NOW - 400, NOW + 400).map(str) | st.text(max_size=12),
    signature=st.text(max_size=60) | st.just("right"),
    tail=st.binary(max_size=2),
)
def test_any_headers_and_body(body: bytes, identity: str, moment: str, signature: str, tail: bytes) -> None:
    """Nothing but a reason comes of them; and what is accepted, OpenAI's own client accepts too."""
    data, headers = delivery(body, at=NOW)
    headers |= {"webhook-id": identity, "webhook-timestamp": moment}
    if signature != "right":
        headers["webhook-signature"] = signature
    elif identity and identity.isascii() and moment.isdecimal() and moment.isascii():
        headers["webhook-signature"] = delivery(body, id=identity, at=int(moment))[1]["webhook-signature"]
    sent = data + tail
    found = verified(signatures(), data, headers, sent=sent)
    if found == "default":
        with patch("time.time", lambda: float(NOW)):
            CLIENT.webhooks.verify_signature(sent, headers, secret=SECRET)


@pytest.mark.parametrize("more", [" ", "  v1,", " v2,x", " v1a,x", " x"])
def test_what_stands_beside_a_right_signature_does_not_matter(more: str) -> None:
    body, headers = delivery(BODY, at=NOW)
    for signature in (headers["webhook-signature"] + more, more.strip() + " " + headers["webhook-signature"]):
        assert verified(signatures(), body, {**headers, "webhook-signature": signature}) == "default"


def test_every_header_is_there_once() -> None:
    """Two of a kind could be read as either."""
    body, headers = delivery(BODY, at=NOW)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        twice: Any = CIMultiDict(headers)
        twice.add(name.title(), headers[name])
        assert verified(signatures(), body, twice) == name
