"""What a span is to a reader: the app, OpenAI, a tool, a queue, telephony or media. Pure.

Three hues say whose it is (the app's, OpenAI's, the line's), the pattern and the letter say what it is, so that nobody
needs to see colours. A span is known by its attributes first (OpenTelemetry's messaging and GenAI conventions), then by
its name.
"""

from enum import StrEnum

from grafter.core import semconv
from grafter.web.tree import Node

_PRODUCER, _CONSUMER = 4, 5
_QUEUES = ("queue", "nats", "bullmq", "bull.", "celery", "kafka", "amqp", "rabbitmq", "job.")
_LINES = ("sip", "twilio", "telnyx", "telephony", "carrier", "dial", "ivr", "pstn", "call.")
_MEDIA = ("webrtc", "ice", "stun", "turn.", "turn_", "rtp", "media", "dtls", "srtp", "peer_connection")
_OWN_OPERATIONS = ("create_agent", "invoke_agent", "invoke_workflow")
_SPOKEN = ("user_speech", "assistant_speech", "user_speaking", "agent_speaking")


class Kind(StrEnum):
    """What a span is; the value names its pattern."""

    APP = "app"
    OPENAI = "openai"
    TOOL = "tool"
    QUEUE = "queue"
    TELEPHONY = "telephony"
    MEDIA = "media"

    @property
    def letter(self) -> str:
        """One letter that no other kind has."""
        return _LETTERS[self]

    @property
    def word(self) -> str:
        return _WORDS[self]


_LETTERS = {
    Kind.APP: "A",
    Kind.OPENAI: "O",
    Kind.TOOL: "T",
    Kind.QUEUE: "Q",
    Kind.TELEPHONY: "P",
    Kind.MEDIA: "M",
}
_WORDS = {
    Kind.APP: "app",
    Kind.OPENAI: "OpenAI",
    Kind.TOOL: "tool",
    Kind.QUEUE: "queue",
    Kind.TELEPHONY: "phone line",
    Kind.MEDIA: "media",
}

PARTS = {
    "endpointing": ("E", "voice detector"),
    "model": ("O", "model"),
    "tool": ("T", "tool"),
    "relay": ("R", "relay in your app"),
    "playout": ("P", "playout"),
    "unknown": ("?", "unknown"),
    "queue": ("Q", "queue"),
    "network": ("N", "network"),
    "service": ("A", "service"),
    "dispatch": ("D", "dispatch"),
    "connect": ("C", "connect"),
    "accept": ("K", "accept"),
    "greeting": ("G", "greeting"),
}
"""Letter and words of the parts of a wait."""


def kind(node: Node) -> Kind:
    """What a span is. What stands under a tool and is nothing else is the tool's."""
    if node.kind is None:
        node.kind = _kind(node)
    return Kind(node.kind)


def _kind(node: Node) -> Kind:
    own = _own(node)
    return Kind.TOOL if own is Kind.APP and in_tool(node) else own


def in_tool(node: Node) -> bool:
    """Whether it is a tool, or is the app's and hangs under one."""
    path: list[Node] = []
    at: Node | None = node
    while at is not None and at.in_tool is None:
        path.append(at)
        at = at.parent
    found = at is not None and bool(at.in_tool)
    for each in reversed(path):
        found = is_tool(each) or (found and not each.span.guest)
        each.in_tool = found
    return found


def _own(node: Node) -> Kind:
    step = node.step
    name = step.name.lower()
    if is_tool(node):
        return Kind.TOOL
    if name.startswith(_SPOKEN):
        return Kind.MEDIA
    if node.span.guest or name.startswith("gen_ai.") or _calls_openai(node):
        return Kind.OPENAI
    if step.kind in (_PRODUCER, _CONSUMER) or "messaging.system" in step.attributes or name.startswith(_QUEUES):
        return Kind.QUEUE
    if name.startswith(_MEDIA) or any(key.startswith(("webrtc.", "ice.")) for key in step.attributes):
        return Kind.MEDIA
    if name.startswith(_LINES) or (node.parent is None and _is_call(node)):
        return Kind.TELEPHONY
    return Kind.APP


def _calls_openai(node: Node) -> bool:
    """Whether a span of the app's is a request to OpenAI. Frameworks say of their own sessions and agents too which
    operation of GenAI those are, and name who else they ask."""
    attributes = node.step.attributes
    operation = attributes.get(semconv.GEN_AI_OPERATION_NAME)
    if operation is None or operation in _OWN_OPERATIONS:
        return False
    provider = str(attributes.get(semconv.GEN_AI_PROVIDER_NAME, "openai")).lower()
    return "openai" in provider


def is_tool(node: Node) -> bool:
    step = node.step
    return (
        step.name.startswith(("execute_tool", "gen_ai.tool"))
        or semconv.GEN_AI_TOOL_NAME in step.attributes
        or step.name == "function_tool"
    )


def tool_name(node: Node) -> str:
    named = node.step.attributes.get(semconv.GEN_AI_TOOL_NAME) or node.step.attributes.get("lk.function_tool.name")
    return str(named or node.step.name.removeprefix("execute_tool").strip() or node.step.name)


def _is_call(node: Node) -> bool:
    return "call.id" in node.step.attributes or "call" in node.step.name.lower()
