"""What a release says of a call, from real spans through the real processor and store into a real database."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from grafter.calls.config import CallsExtension
from grafter.calls.ids import CALLEE_KEYS, CALLER_KEYS, ID_KEYS, OUTCOME_KEYS, RECORDING_KEYS
from grafter.calls.model import NEVER_CAME, NO_GUEST, CallRow, Search
from grafter.calls.sql_map import SqlCallMap
from grafter.core.policy import SECOND, GraftPolicy, Mode
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.policies import SamplingPolicy
from grafter.otlp.split import Splitter
from grafter.processor.assembling import Assembler
from grafter.processor.call_records import CallKeys, CallRecords, CallSink, Entry
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.redis import opening
from grafter.store.redis.store import RedisStore
from grafter.telemetry import Metrics
from tests.rig import CALL, START, Peer, Rig, recorded_call, recorded_guest

KEYS = CallKeys(ID_KEYS, CALLER_KEYS, CALLEE_KEYS, OUTCOME_KEYS, RECORDING_KEYS)
SECRET = b"a key of these tests"
NUMBER = "+49 30 1234567"


@dataclass
class CallRig:
    rig: Rig
    calls: SqlCallMap

    async def known(self, text: str = "") -> Sequence[CallRow]:
        await self.calls.backlog.drain_all()
        return (await self.calls.search(Search(text=text))).calls


@asynccontextmanager
async def call_rig(
    home: Path,
    policy: GraftPolicy | None = None,
    sampling: SamplingPolicy | None = None,
    sink: Callable[[SqlCallMap], CallSink] = lambda calls: calls.backlog,
    keys: CallKeys = KEYS,
    redis: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> AsyncIterator[CallRig]:
    policy = policy or GraftPolicy()
    now, metrics = [START], Metrics()
    limits: dict[str, Any] = {
        "waits": policy.waits, "max_bytes": 1 << 30, "max_trace_bytes": 1 << 26, "lease_ns": 10 * SECOND,
        "guests_apart": policy.mode is Mode.STREAM,
    }  # fmt: skip
    opened: AbstractAsyncContextManager[EmbeddedStore | RedisStore]
    if redis is None:
        opened = embedded.opened(directory, fsync="interval", fsync_interval=1.0, **limits)
    else:
        opened = opening.opened(pool_size=3, letter_bytes=1 << 20, **redis, **limits)
    async with opened as store:
        if isinstance(store, EmbeddedStore):
            await store.recovered()
        extension = CallsExtension(url=f"sqlite:///{home}/calls.db", lookups_per_minute=1000)
        async with extension.open(store, SECRET, metrics, lambda: now[0], serve=False) as calls:
            records = CallRecords(sink(calls), keys, calls.read_number, lambda: now[0])
            assembler = Assembler(policy, "test", sampling)
            processor = Processor(store, [Peer()], policy, assembler, metrics, lambda: now[0], Limits(), records)
            splitter = Splitter(policy.anchors, policy.guest_id_keys, policy.rules)
            yield CallRig(Rig(store, processor, policy, metrics, now, splitter=splitter), calls)


def request(number: int, name: str = "call", parent: int = 0, error: bool = False, **attributes: str) -> bytes:
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add(
        trace_id=number.to_bytes(16, "big"), span_id=(number * 100 + parent + 1).to_bytes(8, "big"), name=name,
        parent_span_id=(number * 100 + parent).to_bytes(8, "big") if parent else b"",
        start_time_unix_nano=START, end_time_unix_nano=START + SECOND,
    )  # fmt: skip
    if error:
        span.status.code = 2
    span.attributes.extend(
        KeyValue(key=key.replace("_", "."), value=AnyValue(string_value=value)) for key, value in attributes.items()
    )
    return made.SerializeToString()


async def test_a_call_that_is_the_apps_alone_is_found_among_plain_traces(tmp_path: Path) -> None:
    """Of a batch that leaves undecoded only those with a call's key become calls."""
    async with call_rig(tmp_path) as made:
        for number in range(1, 30):
            await made.rig.host(request(number, url_path="call.id"))
        await made.rig.host(request(99, call_id="call-of-anna", call_from=NUMBER, call_outcome="booked"))
        await made.rig.pass_time(15)
        (found,) = await made.known()
        assert found.traces == ((99).to_bytes(16, "big"),)
        assert found.outcome == "booked"
        assert found.caller is not None
        assert found.caller.last_four == "4567"
        assert found.unjoined == (NO_GUEST,)
        assert len(await made.known(NUMBER)) == 1
        assert [len(ExportTraceServiceRequest.FromString(one).resource_spans) for one in
                await made.calls.spans(found.key)] == [1]  # fmt: skip


async def test_a_joined_call_has_its_guests_and_tools(tmp_path: Path) -> None:
    """The recorded reference call with a recorded run of the Agents SDK: one row, joined, its spans kept."""
    async with call_rig(tmp_path) as made:
        await made.rig.host(recorded_call())
        for items in recorded_guest():
            await made.rig.guest(items)
        await made.rig.pass_time(30)
        (found,) = await made.known(CALL.hex())
        assert found.traces == (CALL,)
        assert len(found.guests) == 1
        assert found.unjoined == ()
        assert found.tools
        assert (await made.known(found.guests[0])) == (found,)
        (document,) = await made.calls.spans(found.key)
        spans = [
            span
            for resource in ExportTraceServiceRequest.FromString(document).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        assert len(spans) == found.spans


async def test_an_expected_guest_that_comes_late_completes_the_row(tmp_path: Path) -> None:
    """First it is said to be missing; when it came and joined, it is not; still one row."""
    async with call_rig(tmp_path) as made:
        await made.rig.host(recorded_call())
        await made.rig.pass_time(60)
        (before,) = await made.known()
        assert before.unjoined == (NEVER_CAME,)
        for items in recorded_guest():
            await made.rig.guest(items)
        await made.rig.pass_time(60)
        (after,) = await made.known()
        assert after.traces == before.traces == (CALL,)
        assert after.unjoined == ()
        assert after.spans > before.spans
        assert len(await made.calls.spans(before.key)) == 2


async def test_a_late_part_adds_to_a_call_and_makes_none(tmp_path: Path) -> None:
    """Late spans without any key of a call: added where the trace is a call's, and no call where it is not."""
    async with call_rig(tmp_path) as made:
        await made.rig.host(request(1, call_id="call-of-anna"))
        await made.rig.host(request(2))
        await made.rig.pass_time(15)
        await made.rig.host(request(1, "late", parent=1, error=True))
        await made.rig.host(request(2, "late", parent=1))
        await made.rig.pass_time(15)
        (found,) = await made.known()
        assert (found.spans, found.errors) == (2, 1)


async def test_a_call_that_was_sampled_away_has_its_row(tmp_path: Path) -> None:
    """The decision and what decided, without the spans."""
    async with call_rig(tmp_path, sampling=SamplingPolicy((Drop("drop"),))) as made:
        await made.rig.host(request(1, call_id="call-of-anna"))
        await made.rig.pass_time(15)
        (found,) = await made.known()
        assert (found.kept, found.policy, found.spans) == (False, "drop", 1)
        assert await made.calls.spans(found.key) == []


async def test_a_number_is_no_id(tmp_path: Path) -> None:
    """An app that names its calls by the number that calls: the number is not kept, and two calls are not one."""
    async with call_rig(tmp_path) as made:
        for number in (1, 2):
            await made.rig.host(request(number, call_id="+49301234567", sip_callID="49301234567", call_from=NUMBER))
        await made.rig.pass_time(15)
        found = await made.known()
        assert [one.ids for one in found] == [(), ()]


async def test_a_key_of_the_config_says_an_id_and_no_system(tmp_path: Path) -> None:
    """Keys of one's own stand beside grafter's: what a span gives under them is the call's id, as an app's."""
    keys = replace(KEYS, ids=("call.id", "order.number"))
    async with call_rig(tmp_path, keys=keys) as made:
        await made.rig.host(request(1, call_id="call-of-anna", order_number="order-77", call_sid="call-of-bert"))
        await made.rig.pass_time(15)
        (found,) = await made.known()
        assert [(one.kind, one.value, one.system) for one in found.ids] == [
            ("app", "call-of-anna", ""),
            ("app", "order-77", ""),
        ]


async def test_a_call_is_kept_up_to_date_while_nothing_is_held(tmp_path: Path) -> None:
    """Mode stream: each part of a call adds to its row as it leaves; parts of other traces make none."""
    async with call_rig(tmp_path, GraftPolicy(mode=Mode.STREAM)) as made:
        await made.rig.host(request(1, call_id="call-of-anna"))
        await made.rig.host(request(2))
        await made.rig.pass_time(1)
        for part in (1, 2):
            await made.rig.host(request(part, "more", parent=1, error=True))
            await made.rig.pass_time(1)
        (found,) = await made.known()
        assert (found.spans, found.errors) == (2, 1)
        assert made.rig.count("grafter_calls_written_total") == 2


class Twice:
    """A sink that is told everything twice, the second time after the first was written down, as after a kill between
    the record and the settlement."""

    def __init__(self, calls: SqlCallMap) -> None:
        self._calls = calls

    async def put(self, entries: Sequence[Entry]) -> None:
        for _ in range(2):
            await self._calls.backlog.put(entries)
            await self._calls.backlog.drain_all()


async def test_a_release_that_happens_again_says_the_same(tmp_path: Path) -> None:
    """One row, and no span counted twice."""
    async with call_rig(tmp_path, sink=Twice) as made:
        await made.rig.host(request(1, call_id="call-of-anna"))
        await made.rig.pass_time(15)
        (found,) = await made.known()
        assert found.spans == 1
        assert len(await made.calls.spans(found.key)) == 1
