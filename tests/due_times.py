"""When a key is due by the table of waits, as each store works it out."""

from grafter.core.lifecycle import due_kind, due_table
from grafter.core.model import UnixNano
from grafter.core.policy import Waits
from grafter.core.state import TraceState


def due_at(
    state: TraceState, waits: Waits, *, remembered: bool, own_key: bool = False, guest_only: bool | None = None
) -> UnixNano:
    """The earliest moment at which a step could release a key whose latest part has just come."""
    alone = state.host_spans == 0 if guest_only is None else guest_only
    row = due_table(waits)[due_kind(int(state.facts), guest_only=alone, remembered=remembered, own_key=own_key)]
    return UnixNano(min(state.last + row.quiet, state.first + row.longest))
