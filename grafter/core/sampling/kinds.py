"""Which policies there are: a room each, and a line here.

A policy that is listed can be chosen in a config, by its type and its keys. A key that no policy has had before needs
its values, and what it means, in ``processor/tail_sampling.py`` too.
"""

from collections.abc import Mapping

from grafter.core.sampling import (
    attribute,
    barge_in,
    error,
    everything,
    first_token,
    guest,
    latency,
    probabilistic,
    rate_limit,
    span_count,
)
from grafter.core.sampling.policy import Kind

KINDS: Mapping[str, Kind] = {
    kind.type: kind
    for kind in (
        error.KIND,
        first_token.KIND,
        latency.KIND,
        attribute.KIND,
        span_count.KIND,
        guest.KIND,
        barge_in.KIND,
        probabilistic.KIND,
        rate_limit.KIND,
        everything.ALWAYS,
        everything.DROP,
    )
}
"""By type, in the order in which they are named to people."""
