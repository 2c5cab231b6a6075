"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

# A time limit an example, or for making some, measures how busy the machine is, not whether the property holds.
_TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Where a change is judged, the same examples are tried each time; everywhere else new ones are looked for.
settings.register_profile("grafter", _TIMELESS, derandomize="CI" in os.environ, max_examples=50)
# Of make soak: many more of them, and new ones each time. A test that names a number of its own keeps it.
settings.register_profile("deep", _TIMELESS, max_examples=1000)
settings.load_profile("grafter")

# Keys, endpoints and switches of the machine's own SDKs would change what the tests send, and where.
for _name in [name for name in os.environ if name.startswith(("OPENAI_", "OTEL_", "HONEYCOMB_"))]:
    del os.environ[_name]
