"""Deliveries to the webhook door and what becomes of each: the table that docs/webhooks.md shows.

The door of the table has two projects, the first of which has two secrets.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.webhooks import OTHER, ROTATED, SECRET, delivery, envelope, incoming, span, trace_object

SECRETS = {"default": ["", SECRET, ROTATED], "eu": [OTHER], "none": []}
TRACE = trace_object()
EXPORT = envelope("trace.exported", {**TRACE, "spans": [span(1), span(2, 1)]})
LIMIT = 100_000


@dataclass(frozen=True)
class Row:
    """One delivery."""

    what: str
    status: int
    said: str
    """``status`` of the answer, or the ``code`` of its error."""
    body: Any = field(default_factory=lambda: EXPORT)
    signed: dict[str, Any] = field(default_factory=dict)
    """How it is signed, and the headers that are changed after that; see ``tests.webhooks.delivery``."""
    more: tuple[tuple[str, str], ...] = ()
    """Headers that are added."""
    age: int = 0
    """Seconds before now at which it was signed."""
    sent: Callable[[bytes], bytes] = lambda body: body
    """What becomes of the body after it was signed."""

    def delivery(self, now: float) -> tuple[bytes, list[tuple[str, str]]]:
        body, headers = delivery(
            self.body, **{"id": "wh_" + self.what.replace(" ", "_"), "at": now - self.age, **self.signed}
        )
        return self.sent(body), [*headers.items(), *self.more]


def signature(**signed: Any) -> str:
    return delivery(EXPORT, **signed)[1]["webhook-signature"]


WRONG = "v1," + base64.b64encode(bytes(32)).decode()

ACCEPTED = [
    Row("a trace with its spans", 200, "accepted"),
    Row(
        "a trace with its spans, its trace object and a line cut off, as NDJSON",
        200,
        "accepted",
        b"\n".join([orjson.dumps(TRACE), orjson.dumps(EXPORT), b'{"da']),
    ),
    Row("a hosted session's turn has ended", 200, "accepted", envelope("agent.session.idle", {"id": "sess_1"})),
    Row("a call comes in", 200, "accepted", incoming("rtc_1", ("X-Traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))),
    Row("an event that asks nothing of grafter", 200, "accepted", envelope("response.completed", {"id": "resp_1"})),
    Row("JSON that is no event", 200, "accepted", b"17"),
    Row("signed by the second secret of a project", 200, "accepted", signed={"secret": ROTATED}),
    Row("signed by another project's secret", 200, "accepted", signed={"secret": OTHER}),
    Row("just within the tolerance", 200, "accepted", age=290),
    Row("from a clock that is ahead, within the tolerance", 200, "accepted", age=-290),
]
REFUSED = [
    Row("changed on its way", 400, "bad_signature", sent=lambda body: body.replace(b"call", b"cell")),
    Row(
        "signed by nobody's secret",
        400,
        "bad_signature",
        signed={"secret": "whsec_" + base64.b64encode(b"x" * 24).decode()},
    ),
    Row("under another id than was signed", 400, "bad_signature", signed={"webhook_id": "wh_2"}),
    Row("a signature that is wrong", 400, "bad_signature", signed={"webhook_signature": WRONG}),
    Row("a signature that is no base64", 400, "bad_signature", signed={"webhook_signature": "v1,###"}),
    Row("signatures joined by a comma", 400, "bad_signature", signed={"webhook_signature": f"{WRONG},{WRONG}"}),
    Row("older than the tolerance", 400, "too_old", age=310),
    Row("further ahead than the tolerance", 400, "too_new", age=-310),
    Row("a moment that is no whole number", 400, "webhook-timestamp", signed={"webhook_timestamp": "1800000000.5"}),
    Row("a moment in digits of another script", 400, "webhook-timestamp", signed={"webhook_timestamp": "१८००००००००"}),
    Row("a moment with a zero before it", 400, "webhook-timestamp", signed={"webhook_timestamp": "01800000000"}),
    Row("a moment past every calendar", 400, "too_new", signed={"webhook_timestamp": "999999999999"}),
    Row("no webhook-timestamp", 400, "webhook-timestamp", signed={"webhook_timestamp": None}),
    Row("no webhook-id", 400, "webhook-id", signed={"webhook_id": None}),
    Row("an empty webhook-id", 400, "webhook-id", signed={"webhook_id": ""}),
    Row("a webhook-id of many words", 400, "webhook-id", signed={"webhook_id": "a b"}),
    Row("a webhook-id that is not ASCII", 400, "webhook-id", signed={"webhook_id": "wh_é"}),
    Row("a webhook-id past 256 characters", 400, "webhook-id", signed={"webhook_id": "w" * 257}),
    Row("two headers webhook-id", 400, "webhook-id", more=(("webhook-id", "wh_2"),)),
    Row("no webhook-signature", 400, "webhook-signature", signed={"webhook_signature": None}),
    Row("an empty webhook-signature", 400, "webhook-signature", signed={"webhook_signature": ""}),
    Row("a signature without a version", 400, "webhook-signature", signed={"webhook_signature": WRONG[3:]}),
    Row("signatures of other versions only", 400, "webhook-signature", signed={"webhook_signature": "v1a,x= v2,y="}),
    Row("a signature that is not ASCII", 400, "webhook-signature", signed={"webhook_signature": "v1,é"}),
    Row("hundreds of signatures", 400, "webhook-signature", signed={"webhook_signature": " ".join([WRONG] * 100)}),
    Row("nothing, signed", 400, "json", b""),
    Row("neither JSON nor NDJSON, signed", 400, "json", b"{]"),
    Row("lines whose first is no object, signed", 400, "json", b'[1]\n{"type": "x"}'),
    Row("more than 1,000 lines that are no event, signed", 400, "junk", b'{"type": "x"}' + b"\n{]" * 1_001),
    Row("not UTF-8", 400, "bad_signature", b'"\xff"'),
    Row("compressed", 415, "unsupported_encoding", more=(("content-encoding", "gzip"),)),
    Row("larger than the limit", 413, "too_large", b'"' + b"x" * LIMIT + b'"'),
]
ROWS = [*ACCEPTED, *REFUSED]


def table() -> str:
    """As docs/webhooks.md shows it."""
    return "\n".join(
        ["| delivery | answer | says |", "|---|---|---|", *(f"| {r.what} | {r.status} | `{r.said}` |" for r in ROWS)]
    )
