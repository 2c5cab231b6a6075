"""What a call's trace lacks, why, and how to have it the next time; and why the trace was kept or is gone. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafter.calls.model import CallRow
from grafter.core import semconv
from grafter.core.call_latency import CallLatency
from grafter.web.kinds import Kind, is_tool, kind, tool_name
from grafter.web.tree import Tree
from grafter.web.words import count, plain

_METADATA = """\
context = span.get_span_context()
tracing = {"metadata": {
    "trace_id": format(context.trace_id, "032x"),
    "span_id": format(context.span_id, "016x"),
}}"""
_LIST = 6
_PIPECAT = "conversation.type"
_FRAMEWORKS = {
    "LiveKit": "RealtimeTap of grafter_propagation, attached to its RealtimeModel, brings every wait and turn.",
    "Pipecat": "Posting its session's events to /v1/realtime/events brings every wait and turn.",
}
_SEMANTIC = "semantic_vad"
NEVER_ANSWERED = {"busy", "no-answer", "canceled"}


@dataclass(frozen=True, slots=True)
class Missing:
    sentence: str
    remedy: str = ""
    """How to have it the next time."""
    code: str = ""
    """A line that does it."""


def missing(row: CallRow, tree: Tree, latency: CallLatency) -> list[Missing]:
    """What is missing of a call, the most important first."""
    guests = any(node.span.guest for node in tree.nodes)
    hosts = any(not node.span.guest for node in tree.nodes)
    if row.outcome in NEVER_ANSWERED and not guests:
        # Nobody spoke with anybody, so nothing of OpenAI's can be missing.
        return [] if tree.nodes else [_no_spans(row)]
    framework = "" if guests else _framework(tree)
    found = [Missing(as_sentence(each), *_remedy(each, hosts and not guests, framework)) for each in row.unjoined]
    if not tree.nodes:
        return [*found, _no_spans(row)]
    if not guests and not any(each.code for each in found):
        sentence = "No OpenAI spans: metadata.trace_id was never set, or OpenAI's side sent nothing."
        found.append(Missing(sentence, *_remedy("metadata", True, framework)))
    if not hosts and not found:
        remedy = "Send the app's OTLP to grafter, and put its trace id into OpenAI's metadata."
        found.append(Missing("No spans of the app: only OpenAI's side of the call came.", remedy, _METADATA))
    found += _holes(tree, guests, hosts)
    if guests and not latency.caller_turns:
        why, remedy = _no_wait(tree)
        found.append(Missing(f"How long the caller waited is not known: {why}.", remedy))
    return found


def _no_wait(tree: Tree) -> tuple[str, str]:
    """Why there is no wait, and what brings one: its beginning may be unknown though the speech was seen to end."""
    ends = [node.step.attributes for node in tree.nodes if semconv.SPEECH_STOPPED_TIME in node.step.attributes]
    if any(semconv.SPEECH_END_TIME in each for each in ends) or not ends:
        remedy = "Record the Realtime session (receivers.openai.realtime.record), or post its events."
        return "no end of speech with an answer after it was seen", remedy
    detectors = {node.step.attributes.get(semconv.REALTIME_TURN_DETECTION) for node in tree.nodes}
    if _SEMANTIC in detectors:
        return f"{_SEMANTIC} does not say for how long it listened to silence", "server_vad says it."
    remedy = "Begin to record or post before session.created; session.updated with a turn_detection does as well."
    return "how long a silence the voice detector waits for was never told", remedy


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = plain(text, 300).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def _framework(tree: Tree) -> str:
    """Which one's spans these are, where one's are that traces its model itself."""
    keys = {key for node in tree.nodes for key in node.step.attributes}
    return "LiveKit" if any(key.startswith("lk.") for key in keys) else "Pipecat" if _PIPECAT in keys else ""


def _remedy(sentence: str, no_guests: bool, framework: str) -> tuple[str, str]:
    if no_guests and framework and "OpenAI" in sentence:
        return f"What {framework}'s own spans measured is all there is of the model. {_FRAMEWORKS[framework]}", ""
    if "trace_id" in sentence or "metadata" in sentence or (no_guests and "OpenAI" in sentence):
        remedy = "Was metadata.trace_id set? Put the app's ids into the metadata when the OpenAI session or run begins:"
        return remedy, _METADATA
    return "", ""


def _no_spans(row: CallRow) -> Missing:
    if not row.kept:
        sentence = f"The spans were sampled away by the policy {plain(row.policy, 60) or 'of tail_sampling'}."
        return Missing(sentence, "What is shown below is what the call map remembers of it.")
    if row.outcome == "running":
        return Missing("No spans yet: the trace is held until the call has ended.", "They come a little after its end.")
    remedy = "The figures below are what the call map remembers. The backend may still have the trace."
    return Missing("The spans are kept no longer here.", remedy)


def _holes(tree: Tree, guests: bool, hosts: bool) -> Iterator[Missing]:
    unanchored = sum(semconv.GRAFTER_ANCHOR in node.step.attributes for node in tree.nodes)
    if unanchored and hosts:
        remedy = "The span that the metadata names did not come; is it sent to grafter, and does it end?"
        yield Missing(f"OpenAI's part hangs under no span of the app ({count(unanchored, 'span')}).", remedy)
    torn = sum(semconv.GRAFTER_PARENT_MISSING in node.step.attributes for node in tree.nodes)
    if torn:
        remedy = "Their sender stopped before it sent everything: flush its exporter when the call ends."
        yield Missing(f"Of {count(torn, 'span')} the parent never came.", remedy)
    orphans = [node for node in tree.roots if node.step.parent]
    if orphans and hosts:
        sentence = f"The parents that {count(len(orphans), 'span')} of it name are not in this trace."
        yield Missing(sentence, "A service between them does not send its spans here, or drops the trace's context.")
    silent = [
        node
        for node in tree.nodes
        if is_tool(node) and not node.children and not (node.parent is not None and is_tool(node.parent))
    ]
    if silent and guests:
        names = list(dict.fromkeys(tool_name(node) for node in silent))
        some = ", ".join(plain(name, 40) for name in names[:_LIST]) + (" …" if len(names) > _LIST else "")
        sentence = f"Nothing from inside {'the tool' if len(names) == 1 else 'the tools'} {some}."
        remedy = "Inject traceparent into the tool's request, and send the spans of its service here."
        yield Missing(sentence, remedy)
    if not any(kind(node) is Kind.MEDIA and not node.span.guest for node in tree.nodes) and guests:
        remedy = "grafter's browser file, or a span webrtc.peer_connection with events, shows ICE and TURN."
        yield Missing("Nothing of the media path: whether it came up late cannot be told.", remedy)


def sampling(row: CallRow, tree: Tree) -> str:
    """Why the trace was kept, or is gone; empty where nothing of it has left yet."""
    policy = plain(row.policy or next(_stated(tree, semconv.GRAFTER_POLICY), ""), 60)
    words = _POLICIES.get(policy, f"by the policy {policy}") if policy else ""
    if row.kept:
        if not (words or row.spans or tree.nodes):
            return ""
        return f"Kept {words}." if words else "Kept: all traces are, for no sampling is set up."
    return f"Sampled away {words}." if words else "Sampled away."


_POLICIES = {
    "error": "by the policy error: a span of it failed",
    "first_token": "by the policy first_token: an answer was over the threshold",
    "latency": "by the policy latency: it took longer than the threshold",
    "barge_in": "by the policy barge_in: the caller interrupted",
    "probabilistic": "by the policy probabilistic: by chance, one of so many",
    "incomplete": "by the policy incomplete: something expected had not come, and what is missing may have been slow",
    "always": "by the policy always: whatever no policy before it decides about is kept",
    "drop": "by the policy drop: no policy before it wanted it",
}


def rates(tree: Tree) -> Sequence[str]:
    """The sample rates that stand on its spans."""
    return sorted(set(_stated(tree, "SampleRate")))


def _stated(tree: Tree, key: str) -> Iterator[str]:
    """What the spans say under this key, each that has it."""
    return (str(node.step.attributes[key]) for node in tree.nodes if key in node.step.attributes)
