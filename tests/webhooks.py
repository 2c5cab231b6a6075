"""Signed deliveries, as OpenAI sends them; the signer is the one that Standard Webhooks ships."""

import base64
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"the first secret of a project").decode()
ROTATED = "whsec_" + base64.b64encode(b"the secret that takes its place").decode()
OTHER = "whsec_" + base64.b64encode(b"the secret of another project").decode()


def delivery(
    body: Any, *, secret: str = SECRET, id: str = "wh_1", at: float | None = None, **changed: str | None
) -> tuple[bytes, dict[str, str]]:
    """Body and headers; ``at`` in Unix seconds, now unless given. ``changed`` headers (``_`` for ``-``) are not signed,
    one that is None is left out."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    moment = int(time.time_ns() // 10**9 if at is None else at)
    signature = Webhook(secret).sign(id, datetime.fromtimestamp(moment, UTC), data.decode("utf-8", "replace"))
    headers: dict[str, str | None] = {
        "content-type": "application/json",
        "user-agent": "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)",
        "webhook-id": id,
        "webhook-timestamp": str(moment),
        "webhook-signature": signature,
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    return data, {name: value for name, value in headers.items() if value is not None}


def envelope(kind: str, data: Any, **more: Any) -> dict[str, Any]:
    """An event."""
    return {"object": "event", "id": "evt_1", "type": kind, "created_at": 1_800_000_000, "data": data, **more}


def trace_object(trace_id: str = "trace_" + "a" * 32, **more: Any) -> dict[str, Any]:
    return {"object": "trace", "id": trace_id, "workflow_name": "call", "group_id": None, "metadata": None, **more}


def span(number: int, parent: int | None = None, trace_id: str = "trace_" + "a" * 32, **more: Any) -> dict[str, Any]:
    return {
        "object": "trace.span",
        "id": f"span_{number}",
        "trace_id": trace_id,
        "parent_id": None if parent is None else f"span_{parent}",
        "started_at": f"2026-11-22T21:26:{number % 50:02}.000000+00:00",
        "ended_at": f"2026-11-22T21:26:{number % 50 + 1:02}.000000+00:00",
        "span_data": {"type": "custom", "name": f"step {number}", "data": {}},
        "error": None,
        **more,
    }


def incoming(call_id: str, *headers: tuple[str, str], kind: str = "realtime.call.incoming") -> dict[str, Any]:
    """An incoming call, with the SIP headers that a carrier sends beside these."""
    sip = [("From", "sip:+15550100@example.com"), ("To", "sip:+15550199@example.com"), ("Call-ID", "c1"), *headers]
    name = "call_id" if kind.startswith("realtime") else "session_id"
    return envelope(kind, {name: call_id, "sip_headers": [{"name": n, "value": v} for n, v in sip]})
