"""How many traces a span that was kept stands for, in the two ways in which backends read it.

Consistent probability sampling (OpenTelemetry specification 1.60, tracestate-handling and
tracestate-probability-sampling): a threshold T and a randomness R of 56 bits, kept where R >= T, written as ``ot=th:``
in the trace state. And Honeycomb's attribute ``SampleRate``, a whole number, which beats the threshold where both are.

A weight that came in is never lowered: of two thresholds the stricter one leaves, and two rates without a threshold
multiply. Nothing here reads a span; trace states are bytes, so that what is not ours leaves as it came.
"""

from dataclasses import dataclass

BITS = 56
_ALL = 1 << BITS
_DIGITS = 14
_HEX = frozenset(b"0123456789abcdef")
_LONGEST = 256
"""Characters of the ``ot`` entry's value."""
_MOST_ENTRIES = 32
"""Entries of a trace state (W3C Trace Context)."""
MOST_RATE = (1 << 31) - 1
"""The largest rate that Honeycomb reads."""
_WHOLE = 1e-3
"""How far, relatively, the weight of a threshold of four digits or more lies from the whole number that it means."""


def threshold(one_of: int) -> int:
    """The threshold that keeps one of so many; 0 for 1."""
    return _ALL - (2 * _ALL + one_of) // (2 * one_of)


def weight(t: int) -> float:
    """How many traces one that passed this threshold stands for."""
    return _ALL / (_ALL - t)


def encode(t: int) -> bytes:
    """The value of ``th``: 14 digits with their leading zeros, then without the trailing ones."""
    return (b"%014x" % t).rstrip(b"0") or b"0"


def decode(digits: bytes) -> int | None:
    """The threshold that a value of ``th`` means; None for what is none."""
    if not 1 <= len(digits) <= _DIGITS or not _HEX.issuperset(digits):
        return None
    return int(digits.ljust(_DIGITS, b"0"), 16)


@dataclass(frozen=True, slots=True)
class Ot:
    """The ``ot`` entry of a trace state."""

    th: int | None = None
    rv: int | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()
    """All keys with their values, in order."""
    others: tuple[bytes, ...] = ()
    """The entries of other vendors, in order."""
    odd: bool = False
    """It is there and cannot be read: it leaves as it came, and counts as if it said nothing."""


def read(trace_state: bytes) -> Ot:
    """What a trace state says of sampling. Never raises."""
    if not trace_state:
        return Ot()
    entries = [entry.strip(b" \t") for entry in trace_state.split(b",")]
    own = [entry for entry in entries if entry.startswith(b"ot=")]
    others = tuple(entry for entry in entries if entry and not entry.startswith(b"ot="))
    if not own:
        return Ot(others=others)
    value = own[0][3:]
    pairs = [field.partition(b":") for field in value.split(b";")]
    fields = tuple((key, text) for key, _, text in pairs)
    known = dict(fields)
    th = decode(known[b"th"]) if b"th" in known else None
    rv = known.get(b"rv")
    rv_reads = rv is None or (len(rv) == _DIGITS and _HEX.issuperset(rv))
    whole = len(own) == 1 and len(known) == len(fields) and len(value) <= _LONGEST
    if not whole or not all(key and colon for key, colon, _ in pairs) or (b"th" in known and th is None):
        return Ot(others=others, odd=True)
    return Ot(th, int(rv, 16) if rv is not None and rv_reads else None, fields, others, odd=not rv_reads)


def randomness(trace_id: bytes, rv: int | None = None) -> int:
    """R: the explicit one of the trace state, else the last seven bytes of the trace id."""
    return rv if rv is not None else int.from_bytes(trace_id[-7:])


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a span leaves with."""

    trace_state: bytes | None = None
    """None: as it came."""
    rate: int | None = None
    """``SampleRate``. None: as it came."""
    odd: str = ""
    """What did not fit together: ``tracestate`` (cannot be read) or ``weights`` (threshold and rate differ)."""


def weigh(trace_state: bytes, rate: int | None, one_of: int, *, claim: bool) -> Weighed:
    """The weight of a span that came with this trace state and rate (None: with none) and was kept as one of so many.

    ``one_of`` 1: it was kept for what it is, and what came stays. ``claim``: where nothing came, that says that nothing
    upstream has sampled; then a span that was kept for what it is stands for itself alone.
    """
    ot = read(trace_state)
    odd = "tracestate" if ot.odd else ""
    if ot.th is not None and rate is not None and abs(weight(ot.th) - rate) > 1:
        odd = "weights"
    if one_of == 1:
        return _kept_for_itself(ot, rate, odd, claim=claim)
    own = threshold(one_of)
    if ot.th is None:
        if rate is not None:
            return Weighed(None, min(rate * one_of, MOST_RATE), odd)
        return Weighed(None if ot.odd else _with_threshold(ot, own), one_of, odd)
    out = max(ot.th, own)
    state = _with_threshold(ot, out) if out != ot.th else None
    if odd == "weights" and rate is not None:
        # Which of the two is right cannot be told: each goes on by its own rule.
        return Weighed(state, min(rate * one_of, MOST_RATE), odd)
    return Weighed(state, min(round(weight(out)), MOST_RATE), odd)


def _kept_for_itself(ot: Ot, rate: int | None, odd: str, *, claim: bool) -> Weighed:
    if rate is not None:
        return Weighed(odd=odd)
    if ot.th is not None:
        came = weight(ot.th)
        whole = round(came)
        # A rate of its own would round it: of 99 in 100 the backend's reading of the threshold is the right one.
        return Weighed(rate=whole if abs(came - whole) <= _WHOLE * came and whole <= MOST_RATE else None, odd=odd)
    if not claim:
        return Weighed(odd=odd)
    return Weighed(None if ot.odd else _with_threshold(ot, 0), 1, odd)


def _with_threshold(ot: Ot, t: int) -> bytes | None:
    """The trace state with this threshold, our entry in front, as Trace Context wants of one that was changed.

    None where there is no room for it.
    """
    th = encode(t)
    known = [(key, th if key == b"th" else text) for key, text in ot.fields]
    if ot.th is None:
        known.append((b"th", th))
    value = b";".join(key + b":" + text for key, text in known)
    if len(value) > _LONGEST or len(ot.others) >= _MOST_ENTRIES:
        return None
    return b",".join((b"ot=" + value, *ot.others))
