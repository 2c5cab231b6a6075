"""Runs a program of a page of docs/hops and prints what it traced.

python hop.py FILE URL
"""

import asyncio
import inspect
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO

from opentelemetry import trace

from tests.propagation.spans import Spans

spans = Spans()
trace.set_tracer_provider(spans.provider)
with redirect_stdout(StringIO()):
    made = runpy.run_path(sys.argv[1])["main"](sys.argv[2])
    if inspect.iscoroutine(made):
        asyncio.run(made)
print(spans.text())
