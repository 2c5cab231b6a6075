"""The hops of a call, one row each: how it is called, the lines that carry the context over it, its page.

A row is all that a new hop needs; where no attribute of the conventions tells of it, ``receives`` learns by what it is
known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from grafter.core.call_latency import Scalar
from grafter.core.joined_steps import word
from grafter.doctor.model import Line, Spanned

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
SENT, RECEIVED = "where it is sent", "where it is received"


@dataclass(frozen=True, slots=True)
class Hop:
    """A row. ``sends`` and ``receives``: by language, the line of either side."""

    words: str
    page: str
    sends: Mapping[str, str] = field(default_factory=dict)
    receives: Mapping[str, str] = field(default_factory=dict)
    remedy: str = "the sender has to hand its context on, and the receiver to take it up"


_WEBHOOKS = "its webhooks carry no context; what all of them know is the call's id, and that gives the call's place"
_CONTINUE = 'with continue_call({}, "process jobs"):  # from grafter_propagation import continue_call'
_WORK = "continueCall({}, '{}', {{ kind: '{}' }}, work);  // from 'grafter-propagation'"
_META = "  # from grafter_propagation import inject"
_BULLMQ = "new {}, {{ connection, telemetry: new BullMQOtel('app') }});  // from 'bullmq-otel'"
_CELERY = "CeleryInstrumentor().instrument()  # from opentelemetry.instrumentation.celery import CeleryInstrumentor"
_JOBS = "docs/hops/jobs.md"

HOPS: Mapping[str, Hop] = {
    "nats": Hop(
        "NATS",
        "docs/hops/nats.md",
        {
            "python": "await publish(client, subject, payload)  # from grafter_propagation.nats import publish",
            "js": "connection.publish(subject, data, { headers: inject(headers()) });  // from 'grafter-propagation'",
        },
        {
            "python": "with received(message):  # from grafter_propagation.nats import received",
            "js": _WORK.format("message.headers", "process desk.orders", "consumer"),
        },
    ),
    "redis": Hop(
        "a Redis list or stream",
        "docs/hops/redis.md",
        {
            "python": "db.rpush(key, json.dumps(inject_job(job)))  # from grafter_propagation import inject_job",
            "js": "redis.rpush(key, JSON.stringify(injectJob(job)));  // from 'grafter-propagation'",
        },
        {"python": _CONTINUE.format("job"), "js": _WORK.format("job", "process jobs", "consumer")},
    ),
    "bullmq": Hop(
        "BullMQ",
        "docs/hops/bullmq.md",
        {
            "python": "await queue.add(name, data, bullmq_options())  # from grafter_propagation import bullmq_options",
            "js": _BULLMQ.format("Queue(name"),
        },
        {
            "python": "with bullmq_job(job):  # from grafter_propagation import bullmq_job",
            "js": _BULLMQ.format("Worker(name, processor"),
        },
    ),
    "bull": Hop(
        "Bull",
        f"{_JOBS}#in-classic-bull",
        {"js": "queue.add(injectJob(data));  // from 'grafter-propagation'"},
        {
            "python": _CONTINUE.format("data"),
            "js": "queue.process((job) => bullJob(job, () => work(job)));  // from 'grafter-propagation'",
        },
    ),
    "rq": Hop(
        "RQ",
        f"{_JOBS}#in-rq",
        {"python": f"queue.enqueue(function, meta=inject()){_META}"},
        {"python": _CONTINUE.format("get_current_job().meta")},
    ),
    "dramatiq": Hop(
        "Dramatiq",
        f"{_JOBS}#in-dramatiq",
        {"python": f"actor.send_with_options(args=args, otel=inject()){_META}"},
        {"python": _CONTINUE.format('CurrentMessage.get_current_message().options["otel"]')},
    ),
    "taskiq": Hop(
        "TaskIQ",
        f"{_JOBS}#in-taskiq",
        {"python": f"await task.kicker().with_labels(**inject()).kiq(){_META}"},
        {"python": _CONTINUE.format("context.message.labels")},
    ),
    "arq": Hop(
        "arq",
        f"{_JOBS}#in-arq",
        {"python": f'await pool.enqueue_job("job", _otel=inject()){_META}'},
        {"python": _CONTINUE.format("_otel")},
    ),
    "saq": Hop(
        "SAQ",
        f"{_JOBS}#in-saq",
        {"python": f'await queue.enqueue("job", _otel=inject()){_META}'},
        {"python": _CONTINUE.format("_otel")},
    ),
    "celery": Hop("Celery", f"{_JOBS}#in-celery", {"python": _CELERY}, {"python": _CELERY}),
    "kafka": Hop(
        "Kafka",
        "docs/hops/kafka.md",
        {
            "python": "headers = [(name, value.encode()) for name, value in inject().items()]"
            "  # from grafter_propagation import inject",
            "js": "producer.send({ topic, messages: [{ value, headers: inject() }] });  // from 'grafter-propagation'",
        },
        {
            "python": 'with continue_call(record.headers, "process orders"):'
            "  # from grafter_propagation import continue_call",
            "js": _WORK.format("message.headers", "process orders", "consumer"),
        },
    ),
    "queue": Hop(
        "a queue",
        "docs/hops/README.md#child-or-link",
        {"python": f"headers = inject(headers){_META}", "js": "inject(headers);  // from 'grafter-propagation'"},
        {"python": _CONTINUE.format("headers"), "js": _WORK.format("headers", "process jobs", "consumer")},
    ),
    "websocket": Hop(
        "a WebSocket",
        "docs/hops/websocket.md",
        {
            "python": "await socket.send_str(first_message())  # from grafter_propagation import first_message",
            "js": "socket.send(firstMessage());  // from 'grafter-propagation'",
        },
        {
            "python": 'with continue_call(read_first_message(first), "media", kind="server"):'
            "  # from grafter_propagation import continue_call, read_first_message",
            "js": _WORK.format("readFirstMessage(first)", "media", "server"),
        },
        "a browser's upgrade carries no context, so the first message has to",
    ),
    "twilio": Hop(
        "Twilio",
        "docs/hops/twilio.md",
        {},
        {
            "python": "with twilio_webhook(form):  # from grafter_propagation.telephony import twilio_webhook",
            "js": "twilioWebhook(form, work);  // from 'grafter-propagation'",
        },
        _WEBHOOKS,
    ),
    "telnyx": Hop(
        "Telnyx",
        "docs/hops/telnyx.md",
        {
            "python": 'command["client_state"] = client_state()'
            "  # from grafter_propagation.telephony import client_state",
            "js": "command.client_state = clientState();  // from 'grafter-propagation'",
        },
        {
            "python": 'place, state = read_client_state(payload["client_state"])'
            "  # from grafter_propagation.telephony import read_client_state",
            "js": _WORK.format("readClientState(payload.client_state).context", "webhook", "server"),
        },
        "its webhooks carry no context but what client_state brings back",
    ),
    "sip": Hop(
        "SIP",
        "docs/hops/sip.md",
        {
            "python": "dial.sip(sip_uri(address))  # from grafter_propagation.telephony import sip_uri",
            "js": "dial.sip(sipUri(address));  // from 'grafter-propagation'; of an INVITE of your own: sipHeaders()",
        },
        {
            "python": 'with continue_call(sip_headers, "accept", kind="server"):'
            "  # from grafter_propagation import continue_call",
            "js": _WORK.format("event.data.sip_headers", "accept", "server"),
        },
    ),
    "http": Hop(
        "HTTP",
        "docs/hops/http.md",
        {
            "python": f"client.post(url, headers=inject()){_META}",
            "js": "fetch(url, { headers: inject() });  // from 'grafter-propagation'",
        },
        {
            "python": "app = OpenTelemetryMiddleware(app)"
            "  # from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware",
            "js": _WORK.format("request.headers", "request", "server"),
        },
    ),
    "edge": Hop(
        "a worker at the edge",
        "docs/hops/edge.md",
        {
            "js": "fetch(url, { headers: inject(new Headers(request.headers), span) });  // from 'grafter-propagation'",
            "python": f"client.get(url, headers=inject()){_META}",
        },
        {"js": "const span = beginSpan('edge', request.headers, { kind: 'server' });  // from 'grafter-propagation'"},
    ),
    "webrtc": Hop(
        "WebRTC",
        "docs/hops/webrtc.md",
        {},
        {"js": "tracePeerConnection(pc, { endpoint, traceparent });  // from 'grafter-propagation/webrtc.mjs'"},
        "the page has to be given the call's traceparent, with its HTML or its token",
    ),
    "openai": Hop(
        "OpenAI",
        "docs/hops/openai.md",
        {
            "python": '"tracing": realtime_tracing("Desk", call=call),'
            "  # from grafter_propagation import realtime_tracing",
            "js": "tracing: realtimeTracing('Desk', { call }),  // from 'grafter-propagation'",
        },
    ),
    "call": Hop(
        "no hop that its spans tell of",
        "docs/hops/README.md#a-call-that-needs-no-carrier",
        {},
        {
            "python": 'with continue_call(call_context(call_id), "media"):'
            "  # from grafter_propagation import call_context, continue_call",
            "js": _WORK.format("callContext(callId)", "media", "server"),
        },
        "find the hop between them among the pages; where all of them know the call's id, that gives the call's place",
    ),
}

_SYSTEMS = {"nats", "redis", "bullmq", "bull", "rq", "dramatiq", "taskiq", "arq", "saq", "celery", "kafka"}
_PUSHES = {"RPUSH", "LPUSH", "XADD", "LMOVE", "RPOPLPUSH", "PUBLISH"}
_LANGUAGES = {"python": "python", "nodejs": "js", "webjs": "js"}


def language(span: Spanned) -> str:
    """Of the service that made it; empty where it does not say, or there is no line for it."""
    name = span.resource.get("telemetry.sdk.language")
    return _LANGUAGES.get(name, "") if isinstance(name, str) else ""


def lines(hop: str, senders: Iterable[Spanned], receivers: Iterable[Spanned]) -> tuple[Line, ...]:
    """The lines of each side in the languages of its services."""
    row = HOPS[hop]
    return (
        *spoken(SENT, row.sends, senders),
        *spoken(RECEIVED, row.receives, receivers),
    )


def spoken(where: str, by_language: Mapping[str, str], spans: Iterable[Spanned] = ()) -> tuple[Line, ...]:
    """The line in the languages of these services; where none of them says one that there is a line for, in all."""
    wanted = list(dict.fromkeys(language(span) for span in spans))
    chosen = [one for one in wanted if one in by_language] or list(by_language)
    return tuple(Line(where, one, by_language[one]) for one in chosen)


INSTRUMENT = {
    "python": 'grafter_propagation.instrument("http://localhost:4319")',
    "js": "instrument('http://localhost:4319');  // from 'grafter-propagation'",
}
"""An Agents SDK app shows its traces."""
TAP = {
    "python": 'tap = RealtimeTap("http://localhost:4319", call=call)  # from grafter_propagation import RealtimeTap',
    "js": "const tap = new RealtimeTap('http://localhost:4319', call);  // from 'grafter-propagation'",
}
"""A Realtime session's events are shown."""
FLUSH = {
    "python": "trace.get_tracer_provider().force_flush()",
    "js": "await provider.forceFlush();",
}
TWILIO_ENDED = {
    "python": "twilio_ended(form)  # from grafter_propagation.telephony import twilio_ended",
    "js": "twilioEnded(form);  // from 'grafter-propagation'",
}
ENDED = {
    "python": "end_call(call_id, start=start, end=end)  # from grafter_propagation import end_call",
    "js": "endCall(callId, { start, end });  // from 'grafter-propagation'",
}
"""The root of a call is written, by a provider with CALL_IDS."""
CALL_IDS = {
    "python": "provider = TracerProvider(id_generator=CallIds())  # from grafter_propagation import CallIds",
    "js": "const provider = new NodeTracerProvider({ idGenerator: new CallIds() });  // from 'grafter-propagation'",
}
ENDPOINT = {"shell": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://localhost:4317"}
"""An app's own spans come here."""


def messaging(span: Spanned) -> str:
    """The hop of a span that sends or takes a message; empty for another span."""
    attributes: Mapping[str, Scalar] = span.step.attributes
    system = word(span.step, "messaging.system").lower()
    if system in _SYSTEMS:
        return system
    if any(key.startswith("bullmq.") for key in attributes):
        return "bullmq"
    if any(key.startswith("celery.") for key in attributes):
        return "celery"
    return "queue" if system or span.step.kind in (PRODUCER, CONSUMER) else ""


def destination(span: Spanned) -> str:
    """The subject, queue or topic; empty where it does not say."""
    return word(span.step, "messaging.destination.name", "messaging.destination", "messaging.nats.subject")


def sends(span: Spanned) -> str:
    """The hop over which it sends a message; empty where it sends none."""
    if span.step.kind == PRODUCER or (span.step.kind == CLIENT and word(span.step, "messaging.system")):
        return messaging(span)
    if word(span.step, "db.system.name", "db.system").lower() == "redis":
        command = word(span.step, "db.operation.name", "db.operation") or span.step.name
        return "redis" if command.split(" ")[0].upper() in _PUSHES else ""
    return ""


def receives(span: Spanned) -> str:
    """The hop by which it was asked to begin, as far as it says itself; empty where it does not."""
    step = span.step
    agent = word(step, "user_agent.original", "http.user_agent").lower()
    keys = step.attributes.keys()
    if step.name == "webrtc.peer_connection":
        return "webrtc"
    if step.kind == SERVER and agent.startswith("twilio"):
        return "twilio"
    if "telnyx" in agent or any(key.startswith("telnyx.") for key in keys):
        return "telnyx"
    if step.kind == SERVER and agent.startswith("openai/"):
        return "sip"
    if _at_the_edge(span):
        return "edge"
    if found := messaging(span):
        return found
    if step.kind == SERVER and word(step, "url.scheme", "http.scheme").lower() in ("ws", "wss"):
        return "websocket"
    return ""


def _at_the_edge(span: Spanned) -> bool:
    place = f"{span.resource.get('cloud.platform', '')} {span.resource.get('cloud.provider', '')}".lower()
    own = span.scope == "grafter-propagation" and "telemetry.sdk.language" not in span.resource
    return "cloudflare" in place or "otel-cf-workers" in span.scope or (own and span.step.kind == SERVER)
