"""One batch's way to a peer that may not take it whole: what to ask for next, and what the answers say of each trace.

No request is made here, and nothing waits: whoever sends asks for the ``next`` group, tells what the peer answered, and
at the end reads the results. Whether a refusal is about its trace or about the peer is for ``core.refusals``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from grafter.consumer import Batch, OutTrace, Result, Verdict
from grafter.core.refusals import Blame, Refusals
from grafter.exporter.answer import Refused
from grafter.exporter.cut import Group, Limits, halved, packed, parted, size_of, weight_of
from grafter.otlp import build
from grafter.otlp.build import LargeEnvelopes

# A peer that finds so little too large does not mean the size (a used-up quota is refused by the same code), and
# cutting on would answer a refusal by thousands of requests.
MIN_CUT_BYTES = 64 << 10

# A refused trace is cut down to the spans that it was refused for. A peer that refuses whatever comes is asked no
# more often than this: in a trace of which it took nothing yet, in any trace, and in a batch.
_UNTAKEN_REFUSALS, _TRACE_REFUSALS, _BATCH_REFUSALS = 16, 64, 256

ACCEPTED = Result(Verdict.ACCEPTED)


class Halving:
    """The groups that are still to be sent, the last first, and what is known of each trace."""

    def __init__(self, batch: Batch, refusals: Refusals, limits: Limits) -> None:
        self.out = False
        """The peer takes nothing: nothing more is to be asked."""
        self.refused = Refused("")
        """The last refusal that is not known to be about its trace."""
        self._batch = batch
        self._refusals = refusals
        self._request_bytes = limits.request_bytes
        whole = list(enumerate(batch.traces))
        fits = batch.spans <= limits.batch_spans and batch.size <= limits.batch_bytes
        self._work = [whole] if fits else packed(whole, limits.batch_spans, limits.batch_bytes)
        self._work.reverse()
        self._suspects: list[Group] = []
        """Traces, or parts of some, that were refused alone while nothing tells whose fault it is."""
        self._found: list[list[Result]] = [[] for _ in batch.traces]
        self._since: int | None = None
        """How many requests the peer had taken when it refused something of this batch first."""
        self._believed: set[int] = set()
        """Traces of which a refusal is believed, by their place in the batch."""
        self._cuts: Counter[int] = Counter()
        self._too_large: dict[bytes, tuple[int, str]] = {}
        """By resource the lightest trace that was refused alone for its size, and the peer's words."""

    @property
    def suspects(self) -> Sequence[OutTrace]:
        """What was refused, and is not known to be at fault."""
        return [trace for group in self._suspects for _, trace in group]

    def next(self) -> tuple[Group, bytes] | None:
        """A group, and the request with it; None when there is no more to ask."""
        while self._work and not self.out:
            group = self._work.pop()
            if self._too_large and not (group := self._small_enough(group)):
                continue
            if len(group) > 1 and self._suspects and self._unproven:
                # More of what was refused as a whole says nothing new; one of them by itself may.
                rest, group = parted(group, self._is_fresh)
                self._work.append(rest)
            body = build.request([trace for _, trace in group])
            halves = halved(group, within_trace=True) if len(body) > self._request_bytes else None
            if halves is None:
                return group, body
            self._work += halves
        return None

    def took(self, group: Group, now: float) -> None:
        """The peer has taken the group."""
        # A part that is taken says nothing of the rest of its trace.
        self._refusals.took([trace.key for i, trace in group if trace is self._batch.traces[i]], now)
        # Now it shows whether it was about them.
        self._work += self._suspects
        self._suspects.clear()
        self._record(group, ACCEPTED)

    def refuse(self, group: Group, size: int, answer: Refused) -> None:
        """The peer has refused the group, a request of ``size`` bytes."""
        if self._since is None:
            self._since = self._refusals.taken
        place, trace = group[0]
        large = answer.too_large and size > MIN_CUT_BYTES
        sure = (
            answer.own or self._batch.letters or place in self._believed or (large and ACCEPTED in self._found[place])
        )
        if large and (halves := self._cut_for_size(group)):
            self._work += halves
        elif len(group) > 1 and self._unproven and not sure:
            self._work.extend(parted(group, self._is_fresh))
        elif len(group) > 1:
            self._work.extend(halved(group, within_trace=False) or ())
        elif sure or (blame := self._refusals.refused(trace.key, since=self._since)) is Blame.TRACE:
            self._believed.add(place)
            cut = not answer.too_large and self._may_cut(place)
            if halves := halved(group, within_trace=cut):
                self._work += halves
            else:
                if large:
                    self._record_too_large(trace, answer)
                self._record(group, Result(Verdict.REFUSED, answer.reason, part=trace))
        else:
            self._suspects.append(group)
            self.refused, self.out = answer, blame is Blame.PEER

    @staticmethod
    def _cut_for_size(group: Group) -> list[Group] | None:
        """Less of what was too large. Where most of it is a resource that all of it has, that is sent again with each
        piece: the lightest trace first, for it decides about the others; and no trace is cut for the little else."""
        if len(group) == 1 and size_of(group[0][1]) <= MIN_CUT_BYTES:
            return None
        envelopes = LargeEnvelopes()
        if sum(envelopes.add_trace(trace) for _, trace in group) > MIN_CUT_BYTES:
            group = sorted(group, key=lambda one: weight_of(one[1]))
        return halved(group, within_trace=True)

    def _record_too_large(self, trace: OutTrace, answer: Refused) -> None:
        """By itself it was too large, so whatever is under the same resource and no lighter is too."""
        weight = weight_of(trace)
        for resource in _large_resources(trace):
            least, _ = self._too_large.get(resource, (weight, ""))
            self._too_large[resource] = min(least, weight), answer.reason

    def _small_enough(self, group: Group) -> Group:
        """The group without what is known to be too large, which is refused for the same reason."""
        left = []
        for one in group:
            place, trace = one
            weight = weight_of(trace)
            known = [self._too_large[each] for each in _large_resources(trace) if each in self._too_large]
            reasons = [reason for least, reason in known if weight >= least]
            if reasons and trace is self._batch.traces[place]:
                self._record([one], Result(Verdict.REFUSED, reasons[0], part=trace))
            else:
                left.append(one)
        return left

    def give_back(
        self, reason: str, wait: float, hint: float, group: Group | None = None, *, unknown: bool = False
    ) -> None:
        """Nothing more is asked. ``hint``: for what was asked without success, ``group`` and suspects; ``wait``
        for what was not asked. ``unknown``: the peer may have taken the group."""
        self._record(group or [], Result(Verdict.LATER, reason, hint, unknown=unknown))
        for suspect in self._suspects:
            self._record(suspect, Result(Verdict.LATER, reason, hint))
        for left in self._work:
            self._record(left, Result(Verdict.LATER, reason, wait))
        self._work, self._suspects = [], []

    def results(self) -> list[Result]:
        """One a trace, when there is no more to ask."""
        return [_together(results, trace) for results, trace in zip(self._found, self._batch.traces, strict=True)]

    @property
    def _unproven(self) -> bool:
        """The peer has taken nothing since it began to refuse."""
        return self._refusals.taken == self._since

    def _is_fresh(self, trace: OutTrace) -> bool:
        return not self._refusals.suspects(trace.key)

    def _may_cut(self, place: int) -> bool:
        """Whether a trace may be cut once more; counts it."""
        self._cuts[place] += 1
        limit = _TRACE_REFUSALS if ACCEPTED in self._found[place] else _UNTAKEN_REFUSALS
        return self._cuts[place] <= limit and self._cuts.total() <= _BATCH_REFUSALS

    def _record(self, group: Group, result: Result) -> None:
        for place, _ in group:
            self._found[place].append(result)


def _large_resources(trace: OutTrace) -> set[bytes]:
    """Those that a peer may find too large by themselves."""
    return {p.envelope.resource for p in trace.pieces if len(p.envelope.resource) > MIN_CUT_BYTES}


def _together(results: Sequence[Result], trace: OutTrace) -> Result:
    """The result of a trace that went in parts."""
    assert results
    accepted = any(result.verdict is Verdict.ACCEPTED for result in results)
    later = [result for result in results if result.verdict is Verdict.LATER]
    if later:
        # What was taken of it goes out once more with the rest, so it must say so.
        unknown = accepted or any(result.unknown for result in later)
        return Result(Verdict.LATER, later[-1].reason, later[-1].retry_after, unknown=unknown)
    refused = [result for result in results if result.verdict is Verdict.REFUSED]
    if not refused:
        return ACCEPTED
    if not accepted:
        return Result(Verdict.REFUSED, refused[0].reason)
    parts = [result.part for result in refused if result.part is not None]
    pieces = tuple(piece for part in parts for piece in part.pieces)
    part = replace(trace, pieces=pieces, spans=sum(part.spans for part in parts))
    return Result(Verdict.REFUSED, f"in part: {refused[0].reason}", part=part)
