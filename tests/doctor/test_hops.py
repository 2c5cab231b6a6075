"""Each hop of docs/hops in its failing form is named, and no other; with the line nothing is lost."""

import ast
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

import grafter_propagation
from grafter.doctor import hops as table
from grafter.doctor.hops import HOPS
from grafter.doctor.model import Weight
from grafter_propagation import nats, telephony
from tests.doctor import hops
from tests.doctor.hops import IDS
from tests.doctor.services import Services, weighed
from tests.e2e.process import REPO

PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    "nats": hops.over_nats,
    "redis": hops.over_redis,
    "bullmq": hops.over_bullmq,
    "websocket": hops.over_websocket,
    "http": hops.over_http,
    "twilio": hops.over_twilio,
    "telnyx": hops.over_telnyx,
    "sip": hops.over_sip,
}


@pytest.mark.parametrize("hop", PROGRAMS)
async def test_the_failing_form_names_its_hop_and_no_other(hop: str, tmp_path: Path) -> None:
    """Over the real thing; with the line of Python that mends it, and a page that is there."""
    app = Services()
    await PROGRAMS[hop](app, tmp_path, broken=True)
    (finding,) = weighed(app.call(), Weight.FAULT, Weight.DOUBT)
    assert (finding.code, finding.hop, finding.weight) == ("parted", hop, Weight.FAULT)
    assert {line.language for line in finding.lines} == {"python"}
    assert {each.trace_id for each in finding.evidence} <= {span.trace_id.hex() for span in app.read()}


@pytest.mark.parametrize("hop", PROGRAMS)
async def test_with_the_line_nothing_is_lost(hop: str, tmp_path: Path) -> None:
    """And nothing is doubted."""
    app = Services()
    await PROGRAMS[hop](app, tmp_path, broken=False)
    assert [finding.sentence for finding in weighed(app.call(), *Weight)] == []


JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rq": ({}, {"messaging.system": "rq"}),
    "dramatiq": ({}, {"messaging.system": "dramatiq"}),
    "taskiq": ({}, {"messaging.system": "taskiq"}),
    "arq": ({}, {"messaging.system": "arq"}),
    "saq": ({}, {"messaging.system": "saq"}),
    "bull": ({}, {"messaging.system": "bull"}),
    # As the instrumentation writes them in a sender's process, and in a worker's that has lost the headers.
    "celery": (
        {"celery.action": "apply_async", "messaging.destination": "celery"},
        {"celery.action": "run", "messaging.destination": "celery"},
    ),
    "queue": ({}, {"messaging.system": "rabbitmq", "messaging.destination.name": "orders"}),
}


@pytest.mark.parametrize("hop", JOBS)
def test_a_job_queue_is_known_by_its_worker(hop: str) -> None:
    """By the conventions' attributes on the span that a worker begins with."""
    app = Services()
    sent, received = JOBS[hop]
    gateway = app.tracer("gateway")
    with gateway.start_as_current_span("callsphere.call", attributes=IDS):
        if sent:
            with gateway.start_as_current_span("apply_async/look_up", kind=SpanKind.PRODUCER, attributes=sent):
                pass
    attributes = {**IDS, **received}
    with app.tracer("worker").start_as_current_span("process", kind=SpanKind.CONSUMER, attributes=attributes):
        pass
    (finding,) = weighed(app.call(), Weight.FAULT, Weight.DOUBT)
    assert (finding.code, finding.hop) == ("parted", hop)
    assert len(finding.evidence) == len(sent and [1]) + 1


def test_two_traces_of_which_nothing_tells_the_hop_are_said_to_be_so() -> None:
    """The fact is stated, and the line holds for whoever knows the call."""
    app = Services()
    for name in ("sip.invite", "media"):
        with app.tracer("gateway").start_as_current_span(name, attributes=IDS):
            pass
    (finding,) = weighed(app.call(), *Weight)
    assert (finding.code, finding.hop) == ("parted", "call")
    assert "their spans do not tell at which hop" in finding.sentence
    assert "call_context" in finding.lines[0].code


def test_every_row_has_a_page_and_lines_that_can_be_typed() -> None:
    """Python's parse and name what the helpers have; JavaScript's name what its package exports."""
    known = {*grafter_propagation.__all__, *vars(nats), *vars(telephony)}
    exports = re.findall(r"^export \{(.+?)\}", (REPO / "propagation/js/index.mjs").read_text("utf-8"), re.M | re.S)
    exported = set(re.findall(r"\w+", " ".join(exports)))
    rows = [*HOPS.values(), table.Hop("", "", table.INSTRUMENT, {}), table.Hop("", "", table.TAP, table.FLUSH)]
    for row in rows:
        file, _, anchor = row.page.partition("#")
        if file:
            headings = re.findall(r"^#+ (.+)$", (REPO / file).read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, row.page
        for side in (row.sends, row.receives):
            if code := side.get("python"):
                whole = f"{code}\n    pass" if code.startswith("with ") else code
                whole = f"{{{whole}\n}}" if code.startswith('"') else whole
                compile(whole, "line", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                imported = re.search(r"# from (grafter_propagation\S*) import (.+)", code)
                assert imported is None or set(imported[2].split(", ")) <= known, code
            if (code := side.get("js")) and "// from 'grafter-propagation" in code:
                assert exported & set(re.findall(r"\b[A-Za-z]\w+", code.rpartition("  //")[0])), code


def test_the_lines_of_javascript_can_be_read(tmp_path: Path) -> None:
    """By node, in a function that may wait."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    lines = [row.get("js") for hop in HOPS.values() for row in (hop.sends, hop.receives)]
    lines += [each["js"] for each in (table.INSTRUMENT, table.TAP, table.FLUSH)]
    text = ""
    for line in lines:
        if line:
            # A member of an object is read as one.
            text += f"({{ {line}\n}});\n" if re.match(r"\w+: ", line) else f"{{ {line}\n}}\n"
    file = tmp_path / "lines.mjs"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
