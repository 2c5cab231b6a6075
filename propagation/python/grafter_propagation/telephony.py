"""What telephone carriers let through: Twilio's webhooks and TwiML, SIP headers, Telnyx' client_state.

A traceparent is all that is sent: 55 characters, which fit everywhere. Baggage and tracestate would go to strangers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from grafter_propagation.calls import ROOT, call_context, continue_call, end_call
from grafter_propagation.context import TraceContext, extract

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

LONGEST_SIP_HEADERS: Final = 1024
"""Characters of a SIP URI after its question mark. Source: Twilio's error 13253."""
ENDED: Final = {"completed": None, "canceled": None, "busy": "busy", "no-answer": "no answer", "failed": "failed"}
"""Twilio's final statuses, and what went wrong in each."""


def twilio_call(form: Mapping[str, Any]) -> TraceContext:
    """The root of the call that a Twilio webhook is about: of the parent call for a leg that ``<Dial>`` made.

    Raises ValueError for a form without ``CallSid``. Look at its signature first: anyone may post a form.
    """
    return call_context(str(form.get("ParentCallSid") or form.get("CallSid") or ""))


def twilio_webhook(
    form: Mapping[str, Any], name: str = "sip.invite", *, tracer: Tracer | None = None
) -> AbstractContextManager[Span | None]:
    """A span, current in the block, for answering a Twilio webhook: a child of the call's root, whoever answers it.

    It carries ``call.id`` and ``sip_call_id``, and no phone number.
    """
    attributes = {"call.id": str(form.get("CallSid") or "")}
    if form.get("SipCallId"):
        attributes["sip_call_id"] = str(form["SipCallId"])
    return continue_call(twilio_call(form), name, kind="server", attributes=attributes, tracer=tracer)


def twilio_ended(
    form: Mapping[str, Any],
    name: str = ROOT,
    *,
    attributes: Mapping[str, Any] | None = None,
    tracer: Tracer | None = None,
) -> bool:
    """Write the call's root from Twilio's status callback; False for a call that goes on, and for a leg of another.

    From ``Timestamp`` back by ``CallDuration``, in whole seconds as Twilio counts them. See ``end_call``.
    """
    status = str(form.get("CallStatus") or "")
    if status not in ENDED or form.get("ParentCallSid"):
        return False
    end = _unix_seconds(form.get("Timestamp"))
    try:
        seconds = max(0, int(form.get("CallDuration") or 0))
    except (TypeError, ValueError):
        seconds = 0
    return end_call(
        str(form.get("CallSid") or ""),
        start=(end - seconds) * 1_000_000_000,
        end=end * 1_000_000_000,
        name=name,
        attributes={"call.status": status, **(attributes or {})},
        error=ENDED[status],
        tracer=tracer,
    )


def _unix_seconds(timestamp: object) -> int:
    """Of an RFC 2822 date; now, where it is none."""
    try:
        return int(parsedate_to_datetime(str(timestamp)).timestamp())
    except (TypeError, ValueError):
        return int(datetime.now(timezone.utc).timestamp())


def twiml_parameters(context: TraceContext | None = None) -> dict[str, str]:
    """Names and values for ``<Parameter>`` in ``<Stream>`` and ``<ConversationRelay>``, whose URL may have no query.

    They come back as ``start.customParameters`` (ConversationRelay: ``setup.customParameters``), which
    ``continue_call`` takes as it is.
    """
    context = context or TraceContext.current()
    return {"traceparent": context.traceparent} if context is not None else {}


def sip_uri(uri: str, context: TraceContext | None = None) -> str:
    """A SIP URI that makes the INVITE carry ``X-Traceparent``: for ``<Dial><Sip>``, and as a transfer's target.

    OpenAI hands it on in its webhook's ``sip_headers``, and Twilio as ``SipHeader_X-Traceparent``. As it was where the
    headers would grow too long for Twilio. An Elastic SIP *trunk* has one URI for all calls and cannot carry it.
    """
    context = context or TraceContext.current()
    if context is None:
        return uri
    address, _, headers = uri.partition("?")
    others = [each for each in headers.split("&") if each and not each.lower().startswith("x-traceparent=")]
    whole = "&".join([*others, f"X-Traceparent={context.traceparent}"])
    return f"{address}?{whole}" if len(whole) < LONGEST_SIP_HEADERS else uri


def sip_headers(context: TraceContext | None = None) -> dict[str, str]:
    """Headers for an INVITE that the app itself sends."""
    context = context or TraceContext.current()
    return {"X-Traceparent": context.traceparent} if context is not None else {}


def client_state(state: str = "", context: TraceContext | None = None) -> str:
    """Telnyx' ``client_state``: Base64, sent back in every webhook of the call. ``state``: the app's own."""
    context = context or TraceContext.current()
    written: dict[str, str] = {"state": state} if state else {}
    if context is not None:
        written["traceparent"] = context.traceparent
    return base64.b64encode(json.dumps(written).encode()).decode()


def read_client_state(text: str | None) -> tuple[TraceContext | None, str]:
    """The place and the app's own state that ``client_state`` wrote. What another wrote is the app's own, decoded."""
    try:
        decoded = base64.b64decode(text or "", validate=True).decode()
    except ValueError:
        return None, ""
    try:
        read = json.loads(decoded)
    except ValueError:
        return None, decoded
    if not isinstance(read, dict) or not read.keys() <= {"state", "traceparent"}:
        return None, decoded
    return extract(read), str(read.get("state", ""))
