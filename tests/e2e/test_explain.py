"""``grafter explain`` and ``grafter status``: asked of a grafter that runs, and of its store when it has stopped."""

import json
from functools import partial
from typing import Any

import aiohttp
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.commands import command, typed
from tests.e2e.conftest import Start
from tests.e2e.process import Grafter
from tests.e2e.reference_call import Services, play, reference_call
from tests.e2e.sink import Sink


async def settled(grafter: Grafter, session: aiohttp.ClientSession) -> bool:
    return (await grafter.counters(session))["grafter_held_spans"] == 0


async def asked(grafter: Grafter, *arguments: str) -> Any:
    code, out, err = await command(grafter, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_trace_that_left_is_explained(start: Start, sink: Sink, stopped: bool) -> None:
    """Why it left and with what, also by whoever opens the store of a grafter that runs no more."""
    grafter = await start()
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as call:
        play(call)
    services.shutdown()
    await sink.until_spans(call.trace_id, 1)
    await grafter.until(partial(settled, grafter), "what was sent to be settled")
    if stopped:
        await grafter.terminate()
    answer = await asked(grafter, "explain", call.trace_id)
    assert answer["left"]["host_spans"] > 1
    assert answer["left"]["guests"] == []
    assert (await asked(grafter, "status"))["held"]["traces"] == 0
    code, out, _ = await typed(grafter, "explain", "rtc_nobody")
    assert code == 1
    assert out.startswith("nothing is held or remembered under rtc_nobody")
