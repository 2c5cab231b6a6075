"""The main job: a real run of the Agents SDK, joined into the app's own trace of the same call."""

import asyncio
from pathlib import Path

import aiohttp
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.apps import javascript_app, python_app
from tests.e2e.conftest import Start
from tests.e2e.reference_call import Services, play, reference_call
from tests.e2e.sink import Sink
from tests.e2e.tree import outline, spans_in

TREES = Path(__file__).parent / "trees"
PYTHON_TREE = (TREES / "python.txt").read_text("utf-8")
JAVASCRIPT_TREE = (TREES / "javascript.txt").read_text("utf-8")
"""Whole trees: every span of both halves with kind, service, status, events, links, and every attribute but those
that differ from run to run (tree.ALWAYS_DIFFERENT)."""


# Each guest becomes whole; how long its SDK takes to get there on a busy machine is not to part it from its host.
PATIENT = {"for_guest": "120s"}


async def test_a_python_run_hangs_under_the_session(start: Start, sink: Sink, model: str) -> None:
    """openai-agents in Python: guardrail, parallel tools, handoff, failing tool and a dead model are one tree with
    the app's spans, whichever half arrives first. What grafter counts as accepted is in the end what it counts as sent
    and what the backend has; nothing is held any more."""
    grafter = await start(wait=PATIENT)
    calls = set()
    for first in ("host", "guest"):
        trace_id = await python_app(grafter, model, first)
        await sink.until_spans(trace_id, spans_in(PYTHON_TREE))
        assert sink.tree(trace_id).text() == outline(PYTHON_TREE), first
        calls.add(trace_id)
        assert sink.trace_ids() == calls

    async def balanced(session: aiohttp.ClientSession) -> bool:
        # The backend has the spans a moment before grafter has its answer.
        count = await grafter.counters(session)
        accepted, sent = count["grafter_receiver_accepted_spans_total"], count["grafter_exporter_sent_spans_total"]
        return accepted == sent == len(sink.spans()) and count["grafter_held_spans"] == 0

    await grafter.until(balanced, "balanced")


async def test_a_javascript_run_hangs_under_the_session(start: Start, sink: Sink, model: str) -> None:
    """@openai/agents in JavaScript, with nothing but the trace id in its metadata, hangs there as well."""
    grafter = await start(wait=PATIENT)
    calls = set()
    for first in ("host", "guest"):
        services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
        with reference_call(services) as call:
            play(call)
        if first == "host":
            await asyncio.to_thread(services.flush)
        await javascript_app(grafter, model, call.trace_id)
        if first == "guest":
            await asyncio.to_thread(services.flush)
        services.shutdown()
        await sink.until_spans(call.trace_id, spans_in(JAVASCRIPT_TREE))
        assert sink.tree(call.trace_id).text() == outline(JAVASCRIPT_TREE), first
        calls.add(call.trace_id)
        assert sink.trace_ids() == calls
