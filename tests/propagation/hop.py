"""Runs a program of a page of docs/hops and prints what it traced.

python hop.py FILE URL
"""

import asyncio
import importlib
import inspect
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from opentelemetry import trace

from tests.propagation.spans import Spans

spans = Spans()
trace.set_tracer_provider(spans.provider)
program = Path(sys.argv[1])
# As a module of its own name, for a job queue finds a job's function by it.
sys.path.insert(0, str(program.parent))
with redirect_stdout(StringIO()):
    made = importlib.import_module(program.stem).main(sys.argv[2])
    if inspect.iscoroutine(made):
        asyncio.run(made)
print(spans.text())
