"""``grafter doctor`` as a developer uses it: a real process, a broken call and a healthy one, the real command."""

import json
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grafter.commands.doctor import doctor
from grafter.components import load
from tests.doctor.hops import over_nats
from tests.doctor.services import SID, Services
from tests.e2e.process import Grafter
from tests.e2e.sink import Sink
from tests.e2e.test_calls import ask, call, command, grafter, running, send, until_known

OTHER = f"CA{'7' * 32}"


class Sending(Services):
    """Services that send to a grafter."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def provider(self, service: str) -> Any:
        """By OTLP over HTTP, each span when it ends."""
        new = service not in self.providers
        made = super().provider(service)
        if new:
            made.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{self._url}/v1/traces")))
        return made

    def close(self) -> None:
        for provider in self.providers.values():
            provider.shutdown()


async def asked(made: Grafter, call_id: str = "") -> tuple[int, dict[str, Any]]:
    """What the command says for programs, and its exit code."""
    out, err = StringIO(), StringIO()
    code = await doctor(call_id, load([str(made.config)]), as_json=True, out=out, err=err)
    assert err.getvalue() == ""
    return code, json.loads(out.getvalue())


async def both_halves(made: Grafter, _session: object) -> bool:
    """They have left, and are known as one call."""
    calls = (await ask(made, "/admin/lookup", text=SID))["calls"]
    return len(calls) == 1 and len(calls[0]["traces"]) == 2


async def test_a_call_that_broke_in_two_and_one_that_did_not(tmp_path: Path, sink: Sink) -> None:
    """The hop, its line and its page, in words and for programs; and the same when grafter has stopped."""
    made = grafter(tmp_path, sink)
    async with running(made):
        app = Sending(made.otlp_http)
        await over_nats(app, tmp_path, broken=True)
        app.close()
        await send(made, call(7, call_id=OTHER)[1])
        await until_known(made, OTHER)
        await made.until(partial(both_halves, made), "known as one call of two traces")
        text = await command(made, "doctor", "--call", SID, code=1)
        assert "LOST   the context is lost at NATS: desk's look up 7 begins a trace of its own" in text
        assert "with received(message):  # from grafter_propagation.nats import received" in text
        assert "docs/hops/nats.md" in text
        code, lost = await asked(made, SID)
        assert (code, [(one["code"], one["hop"]) for one in lost["findings"]]) == (1, [("parted", "nats")])
        code, whole = await asked(made, OTHER)
        assert (code, whole["lost"], whole["findings"]) == (0, False, [])
        assert whole["lines"][0].startswith(f"{OTHER}: nothing lost (1 trace of the app, 1 span")
        code, unknown = await asked(made, "CA" + "0" * 32)
        assert (code, unknown["known"]) == (1, False)
        code, house = await asked(made)
        assert (code, [(one["code"], one["weight"]) for one in house["findings"]]) == (0, [("openai_silent", "doubt")])
        # A line to type has the address of this config.
        typed = house["findings"][0]["lines"][0]["code"]
        assert typed == f'grafter_propagation.instrument("{made.admin.removesuffix("/admin/pull")}")'
    assert await asked(made, SID) == (1, lost)
    code, closed = await asked(made)
    assert (code, [one["code"] for one in closed["findings"]]) == (1, ["door_closed"] * 5)
