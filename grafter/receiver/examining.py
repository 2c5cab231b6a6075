"""What ``/admin/doctor`` answers: what is known is gathered here, and what it means is decided in ``doctor``."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafter.calls.answers import not_found_lines
from grafter.calls.base import CallMap
from grafter.calls.model import NEVER_CAME, CallRow, Search
from grafter.core.call_latency import Step
from grafter.core.model import JsonObject
from grafter.doctor.answers import call_answer, instance_answer
from grafter.doctor.call_findings import examine_call
from grafter.doctor.instance_findings import examine_instance
from grafter.doctor.model import Call, Guest, Instance
from grafter.otlp.reading import read_spans
from grafter.receiver.calls_admin import kept_documents
from grafter.receiver.explaining import Explainer
from grafter.telemetry import Metrics

_MOST_NAMES = 100
_NO_CALLS = "no call map is kept (extensions.calls), so the spans of a call cannot be looked at once it has left"
_NO_CALL = "the call map knows no call of it, so only OpenAI's side could be looked at"
_HELD = "something of it is still held, so more may come; ask again when it has left: {}"
_SAMPLED = "its spans were sampled away, so they cannot be looked at"
_NOT_KEPT = "its spans are not all kept here (too old or too large), so what is missing cannot be told"


@dataclass(frozen=True, slots=True)
class Examiner:
    """Examines a call, or this grafter; methods raise UnavailableError when the store or the call map is away."""

    explainer: Explainer
    metrics: Metrics
    calls: CallMap | None = None
    alone: bool = True
    """No other process is sent a share of what comes to these endpoints."""

    async def call(self, query: str, who: str) -> JsonObject:
        """By an id of any kind, a trace id or a number. ``known`` says whether anything is known of it."""
        query = query.strip()
        row = await self._row(query, who)
        names = [query]
        if row is not None:
            names += [*(one.value for one in row.ids), *(trace.hex() for trace in row.traces), *row.guests]
        explained = [await self.explainer.explain(name) for name in dict.fromkeys(names[:_MOST_NAMES])]
        held = [line for one in explained if isinstance(one.get("held"), dict) for line in _strings(one["held"])]
        guests = _guests(explained)
        if row is None and not guests and not held and not any("left" in one for one in explained):
            return {"asked": query, "known": False, "lost": False, "findings": [], "lines": not_found_lines(query)}
        documents: list[bytes] = []
        cut = False
        if row is not None and self.calls is not None:
            documents, cut = await kept_documents(self.calls, row.key)
        # A large trace is read beside the event loop.
        spans = await asyncio.to_thread(lambda: list(read_spans(documents)))
        whole = not held and not cut and row is not None and len(spans) >= row.spans
        call = Call(
            query,
            {} if row is None else {one.value: one.kind for one in row.ids},
            spans,
            guests,
            row is not None and NEVER_CAME in row.unjoined,
            self._strays(),
            self.explainer.clock(),
            whole,
            self._is_anchor,
        )
        findings = await asyncio.to_thread(examine_call, call)
        return {**call_answer(call, findings, self._unexamined(row, held, whole)), "known": True}

    async def instance(self, closed: Sequence[tuple[str, str]] = ()) -> JsonObject:
        """``closed``: endpoints at which whoever asks found nobody."""
        stats = self.explainer.store.stats()
        counted: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for metric in self.metrics.registry.collect():
            for sample in metric.samples:
                if not sample.name.endswith(("_created", "_bucket")):
                    name = sample.name.removesuffix("_total")
                    counted.setdefault(name, []).append((sample.labels, sample.value))
        instance = Instance(
            counted,
            stats.bytes,
            stats.limit_bytes,
            stats.unreadable,
            self.alone and stats.own is None,
            closed,
        )
        return instance_answer(examine_instance(instance))

    def _strays(self) -> int:
        return round(
            sum(
                sample.value
                for metric in self.metrics.unlinked_guests.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
            )
        )

    async def _row(self, query: str, who: str) -> CallRow | None:
        if self.calls is None:
            return None
        page = await self.calls.search(Search(text=query, limit=1, who=who))
        return page.calls[0] if page.calls else await self.calls.call(query)

    def _unexamined(self, row: CallRow | None, held: Sequence[str], whole: bool) -> list[str]:
        """What could not be examined, and why."""
        notes = [_HELD.format(line) for line in held]
        if row is None:
            notes.append(_NO_CALLS if self.calls is None else _NO_CALL)
        elif not row.kept:
            notes.append(_SAMPLED)
        elif not whole and not held:
            notes.append(_NOT_KEPT)
        return notes

    def _is_anchor(self, step: Step) -> bool:
        return any(
            (not selector.name or selector.name == step.name)
            and all(str(step.attributes.get(key)) == value for key, value in selector.attributes)
            for selector in self.explainer.policy.anchors
        )


def closed_endpoints(found: Sequence[object]) -> list[tuple[str, str]]:
    """What a command found out about endpoints, as it sends it. Raises ValueError for anything else."""
    endpoints: list[tuple[str, str]] = []
    for each in found:
        match each:
            case [str() as address, str() as key] if len(address) <= 300 and len(key) <= 300:
                endpoints.append((address, key))
            case _:
                raise ValueError("expected pairs of an address and the key that names it under closed")
    return endpoints


def _guests(explained: Sequence[JsonObject]) -> list[Guest]:
    """OpenAI's traces of which a record is kept, each once."""
    found: dict[tuple[str, str], Guest] = {}
    for answer in explained:
        guests = answer.get("guests")
        for each in guests if isinstance(guests, list) else ():
            match each:
                case {"guest": str() as name, "source": str() as source, "trace_id": str() as trace_id}:
                    refused = each.get("refused")
                    why = [reason for _, reason in refused] if isinstance(refused, list) else []
                    found[source, name] = Guest(name, source, trace_id, bool(each.get("anchor")), "malformed" in why)
    return list(found.values())


def _strings(held: object) -> list[str]:
    lines = held.get("lines") if isinstance(held, dict) else None
    return [str(line) for line in lines] if isinstance(lines, list) else []
