"""What can be found in a grafter and its store; ``INSTANCE_FINDINGS`` is the place to add a finding."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from grafter.doctor.hops import ENDPOINT, FLUSH, HOPS, INSTRUMENT, spoken
from grafter.doctor.model import Finding, Instance, Line, Weight, count, ranked

_JUMP_SECONDS = 2.0
_NEARLY_FULL = 0.9
_OWN_REASONS = {
    "dead_letters_dropped": "dropped from the dead-letter box by command",
    "dead_letters_full": "pushed out of the dead-letter box, which was full",
    "unreadable": "lost, for they could not be read back",
}
_AT_START = spoken("an Agents SDK app, at its start", INSTRUMENT)
_KEY = Line("in the config", "yaml", 'receivers: {openai: {projects: {default: {api_key: "${env:OPENAI_API_KEY}"}}}}')


def endpoints(instance: Instance) -> Iterator[Finding]:
    """Addresses at which nobody listens."""
    for address, key in instance.closed:
        yield Finding(
            "door_closed",
            Weight.FAULT,
            f"nobody listens at {address}, which is {key}",
            remedy="is grafter running, and with this config?",
            lines=(Line("on its machine", "shell", "grafter run --config config.yaml"),),
            page="docs/configuration.md",
        )


def silence(instance: Instance) -> Iterator[Finding]:
    """Receivers that got nothing since the start, where that is one half of something."""
    if not instance.alone:
        return
    app = instance.sum("grafter_receiver_accepted_spans", receiver="otlp")
    openai = instance.sum("grafter_guest_items")
    if openai and not app:
        yield Finding(
            "app_silent",
            Weight.FAULT,
            f"of OpenAI's side {count(openai, 'item')} came since the start, of the app no span",
            remedy="send the app's own spans to grafter",
            lines=spoken("in the app's environment", ENDPOINT),
            page="docs/quickstart.md",
        )
    elif app and not openai:
        yield Finding(
            "openai_silent",
            Weight.DOUBT,
            f"of the app {count(app, 'span')} came since the start, of OpenAI's side nothing",
            "openai",
            remedy="show grafter the SDK's traces, or a Realtime session's events",
            lines=_AT_START,
            page=HOPS["openai"].page,
        )
    elif not app and not openai:
        yield Finding(
            "silent",
            Weight.NOTE,
            "nothing has come since the start",
            remedy="send the app's own spans to grafter",
            lines=spoken("in the app's environment", ENDPOINT),
            page="docs/quickstart.md",
        )


def refusals(instance: Instance) -> Iterator[Finding]:
    """What the doors refused, by why. What may be taken later is the sender's to keep, and no fault yet."""
    for reason, number in instance.sums("grafter_receiver_refused_spans", "reason").items():
        later = reason in _LATER
        kept = ", for their senders to send again" if later else ""
        yield Finding(
            "spans_refused",
            Weight.DOUBT if later else Weight.FAULT,
            f"{count(number, 'span')} refused at the doors{kept}: {reason.replace('_', ' ')}",
            remedy="the log says why, once a minute for each kind",
            page="docs/operations.md",
        )
    for outcome, (words, remedy, page) in _REQUESTS.items():
        for transport, number in instance.sums("grafter_receiver_requests", "transport", outcome=outcome).items():
            yield Finding(
                f"requests_{outcome}",
                Weight.DOUBT,
                f"{count(number, 'request')} at the door {transport} {words}; strangers try that too",
                remedy=remedy,
                page=page,
            )


_LATER = {
    "disk_full",
    "in_flight",
    "memory",
    "memory_limit",
    "slow",
    "slow_body",
    "stopping",
    "store_down",
    "store_full",
    "tasks_full",
    "unavailable",
}
"""Reasons of UnavailableError, and of memory that was not to be had."""
_REQUESTS: Mapping[str, tuple[str, str, str]] = {
    "unauthenticated": (
        "showed no token that opens it",
        "give the sender one of the door's tokens",
        "docs/configuration.md",
    ),
    "unsigned": (
        "were signed with no secret that grafter has",
        "put the endpoint's own secret, as OpenAI shows it, into its project's webhook_secrets",
        "docs/webhooks.md",
    ),
}


def joining(instance: Instance) -> Iterator[Finding]:
    """OpenAI's traces that named none of the app's, and those that were expected and never came."""
    reasons = instance.sums("grafter_unlinked_guests", "reason")
    if reasons:
        total, malformed = round(sum(reasons.values())), round(reasons.get("malformed", 0))
        form = f", {malformed:,} of them in a form that cannot be read" if malformed else ""
        yield Finding(
            "openai_unlinked",
            Weight.FAULT,
            f"{count(total, 'trace')} of OpenAI's joined with nothing since the start: the metadata names no trace"
            f"{form}",
            "openai",
            remedy="put the ids of your span into the metadata, when the trace or session begins",
            lines=(*_AT_START, *spoken("where the session begins", HOPS["openai"].sends)),
            page=HOPS["openai"].page,
        )
    never = instance.sum("grafter_expected_guests", outcome="never")
    if never:
        yield Finding(
            "openai_never_came",
            Weight.FAULT,
            f"{count(never, 'trace')} of the app opened a session with OpenAI of which nothing came",
            "openai",
            remedy="show grafter the SDK's traces, or a Realtime session's events",
            lines=_AT_START,
            page=HOPS["openai"].page,
        )


def endings(instance: Instance) -> Iterator[Finding]:
    """Traces that were begun, and of which nothing came to an end."""
    reasons = instance.sums("grafter_released_traces", "reason")
    begun = round(sum(reasons.get(reason, 0) for reason in ("idle", "max")))
    if begun:
        none = not reasons.get("complete") and not reasons.get("guest_timeout")
        yield Finding(
            "never_ended",
            Weight.FAULT if none else Weight.DOUBT,
            f"{count(begun, 'trace')} begun and {'none' if none else 'not'} ended: the root, or the end of OpenAI's "
            "part, did not come within wait.idle or wait.max",
            remedy="end the root also where a call breaks off, flush before the process ends, close the tap",
            lines=spoken("before the process ends", FLUSH),
            page="docs/operations.md",
        )


def sdk_silence(instance: Instance) -> Iterator[Finding]:
    """The Agents SDK says that a trace began at once, and of a span only when it has ended."""
    traces = instance.sum("grafter_guest_items", source="sdk", kind="trace")
    if instance.alone and traces and not instance.sum("grafter_guest_items", source="sdk", kind="span"):
        yield Finding(
            "sdk_never_ended",
            Weight.DOUBT,
            f"of the Agents SDK {count(traces, 'trace')} begun since the start and no span ended: all still run, or "
            "their process ends before it sends",
            "openai",
            remedy="flush before the process ends, and check for a worker that outlives its exporter's thread",
            lines=(
                Line("before the process ends", "python", "agents.get_trace_provider().force_flush()"),
                Line("before the process ends", "js", "await getGlobalTraceProvider().forceFlush();"),
            ),
            page="docs/agents-sdk.md",
        )


def exporters(instance: Instance) -> Iterator[Finding]:
    """Backends that are away, or that refuse."""
    for labels, up in instance.counted.get("grafter_exporter_up", ()):
        name = labels.get("exporter", "")
        if not up:
            yield Finding(
                "exporter_down",
                Weight.FAULT,
                f"the backend of {name} takes nothing; what it is to have is held",
                remedy="/readyz says since when and why",
                page="docs/operations.md",
            )
    for metric, words in (
        ("grafter_exporter_rejected_spans", "thrown away by the backend of"),
        ("grafter_dead_letter_spans", "in the dead-letter box for"),
    ):
        for name, number in instance.sums(metric, "exporter").items():
            yield Finding(
                "spans_rejected" if "rejected" in metric else "dead_letters",
                Weight.FAULT,
                f"{count(number, 'span')} {words} {name}",
                remedy="check at them, send them again, or drop them",
                lines=(Line("on its machine", "shell", "grafter dead list"),),
                page="docs/operations.md#dead-letters",
            )


def losses(instance: Instance) -> Iterator[Finding]:
    """What grafter itself dropped, each with its reason."""
    for reason, number in instance.sums("grafter_dropped_spans", "reason").items():
        words = _OWN_REASONS.get(reason, f"dropped: {reason.replace('_', ' ')}")
        yield Finding(
            "spans_dropped",
            Weight.FAULT,
            f"{count(number, 'span')} {words}",
            page="docs/operations.md",
        )
    for reason, number in instance.sums("grafter_calls_dropped", "reason").items():
        yield Finding(
            "calls_dropped",
            Weight.FAULT,
            f"{count(number, 'record')} of calls never came into the database: {reason.replace('_', ' ')}",
            page="docs/calls.md",
        )


def sessions(instance: Instance) -> Iterator[Finding]:
    """Hosted sessions and calls that could not be read for want of a key."""
    polls = instance.sums("grafter_session_looks", "outcome")
    for outcome, words in (
        ("no_key", "could not be read: their project has no api_key"),
        ("unauthorized", "could not be read: OpenAI does not take the api_key"),
    ):
        if polls.get(outcome):
            yield Finding(
                f"sessions_{outcome}",
                Weight.FAULT,
                f"hosted sessions {words}",
                "openai",
                remedy="give the project its key",
                lines=(_KEY,),
                page="docs/sessions.md",
            )
    missed = instance.sum("grafter_webhook_events", kind="not_recorded")
    if missed:
        yield Finding(
            "not_recorded",
            Weight.FAULT,
            f"{count(missed, 'call')} announced and not recorded",
            "openai",
            remedy="give their project its key",
            lines=(_KEY,),
            page="docs/realtime-recorder.md",
        )


def store(instance: Instance) -> Iterator[Finding]:
    """The store's room, and what it cannot read."""
    if any(not value for _, value in instance.counted.get("grafter_store_up", ())):
        yield Finding(
            "store_down", Weight.FAULT, "the store takes nothing; senders are refused", page="docs/operations.md"
        )
    if instance.limit_bytes and instance.held_bytes > _NEARLY_FULL * instance.limit_bytes:
        share = instance.held_bytes / instance.limit_bytes
        yield Finding(
            "store_full",
            Weight.FAULT,
            f"the store is {share:.0%} full; past that senders are refused",
            remedy="check at the exporters first: what they do not take stays",
            page="docs/operations.md",
        )
    if instance.unreadable:
        yield Finding(
            "unreadable",
            Weight.FAULT,
            f"{count(instance.unreadable, 'trace')} waiting for the newer grafter that stored them",
            page="docs/redis.md",
        )


def clock(instance: Instance) -> Iterator[Finding]:
    """This machine's clock, beside the one that waits run on."""
    ahead = max(
        (value for _, value in instance.counted.get("grafter_wall_clock_ahead_seconds", ())), key=abs, default=0.0
    )
    if abs(ahead) > _JUMP_SECONDS:
        yield Finding(
            "clock_jumped",
            Weight.NOTE,
            f"this machine's clock is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} the time that waits "
            "run on: it was set while grafter ran, or before its last start",
            remedy="have it set by NTP; waits go on undisturbed",
            page="docs/operations.md",
        )


INSTANCE_FINDINGS: Sequence[Callable[[Instance], Iterable[Finding]]] = (
    endpoints,
    silence,
    refusals,
    joining,
    endings,
    sdk_silence,
    exporters,
    losses,
    sessions,
    store,
    clock,
)
"""All of them."""


def examine_instance(instance: Instance) -> list[Finding]:
    return ranked(finding for check in INSTANCE_FINDINGS for finding in check(instance))
