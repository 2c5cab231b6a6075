"""Each hop of docs/hops in its failing form is named, and no other; with the line nothing is lost."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from inspect import signature
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
    "kafka": ({}, {"messaging.system": "kafka", "messaging.destination.name": "orders"}),
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


ROWS = [
    *HOPS.values(),
    table.Hop("", "", table.INSTRUMENT, table.CALL_IDS),
    table.Hop("", "", table.TAP, table.FLUSH),
    table.Hop("", "", table.TWILIO_ENDED, table.ENDED),
]


def test_every_row_has_a_page() -> None:
    """And where it names a place on the page, it is there."""
    for file, _, anchor in (row.page.partition("#") for row in ROWS if row.page):
        headings = re.findall(r"^#+ (.+)$", (REPO / file).read_text("utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, (file, anchor)


ELSEWHERE = {"CeleryInstrumentor", "OpenTelemetryMiddleware", "TracerProvider", "get_current_job"}
"""Of the libraries that their pages name."""
OWN = {"grafter_propagation": grafter_propagation, "nats": nats, "telephony": telephony}


def in_python() -> list[str]:
    """Every line of Python that can be printed."""
    rows = [row.get("python") for hop in ROWS for row in (hop.sends, hop.receives)]
    return [*filter(None, rows)]


@pytest.mark.parametrize("line", in_python())
def test_a_line_of_python_is_a_call_that_the_helpers_take(line: str) -> None:
    """It parses, says where each name comes from, and each helper takes the arguments that it is given."""
    whole = f"{line}\n    pass" if line.startswith("with ") else line
    whole = f"{{{whole}\n}}" if line.startswith('"') else whole
    named = re.search(r"# from (\S+) import (.+)", line)
    imported = set() if named is None else set(named[2].split(", "))
    for each in ast.walk(compile(whole, "line", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
        if not isinstance(each, ast.Call):
            continue
        match each.func:
            case ast.Name(name) if name not in ELSEWHERE:
                assert named is not None
                assert name in imported
                helper = getattr(OWN[named[1].rpartition(".")[2]], name)
            case ast.Attribute(ast.Name("grafter_propagation"), name):
                helper = getattr(grafter_propagation, name)
            case _:
                continue
        given = [word for word in each.keywords if word.arg]
        signature(helper).bind(*each.args, **{str(word.arg): word.value for word in given})


def test_a_line_of_javascript_is_a_call_that_the_helpers_take(tmp_path: Path) -> None:
    """Run in node with the package's exports: each line does its work, and names nothing that is not there."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    lines = [row.get("js") for hop in ROWS for row in (hop.sends, hop.receives)]
    program = Path(__file__).parent / "lines.mjs"
    package = (REPO / "propagation/js/index.mjs").as_uri()
    ran = subprocess.run(
        ["node", str(program), package],
        input=json.dumps([*filter(None, lines)]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # No provider is registered here, which those that end a call say.
    odd = [line for line in ran.stderr.splitlines() if "register a TracerProvider" not in line]
    assert (ran.returncode, odd) == (0, [])
    assert json.loads(ran.stdout) == []
