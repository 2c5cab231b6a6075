"""What holds for every test."""

import os

from hypothesis import settings

# A time limit an example measures how busy the machine is, not whether the property holds.
# Where a change is judged, the same examples are tried each time; everywhere else new ones are looked for.
settings.register_profile("grafter", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("grafter")

# Keys, endpoints and switches of the machine's own SDKs would change what the tests send, and where.
for _name in [name for name in os.environ if name.startswith(("OPENAI_", "OTEL_", "HONEYCOMB_"))]:
    del os.environ[_name]
