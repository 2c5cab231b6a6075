"""A tool that the model may call, a service of its own over HTTP: ``python tool.py calendar``.

``continue_call`` takes the caller's place up from the request's headers, as an instrumentation of the server would. The
calendar also leaves a job for after hours: ``bullmq_options`` puts the place into a BullMQ job that Node works on.
"""

import asyncio
import os
import sys

import tracing
from aiohttp import web
from bullmq import Queue
from opentelemetry.trace import SpanKind

from grafter_propagation import bullmq_options, continue_call

ANSWERS = {
    "records": {"patient": "Maria", "born": 1984},
    "insurance": {"covered": True},
    "calendar": {"booked": "Tuesday 9:30"},
}
SECONDS = {"records": 0.06, "insurance": 0.12, "calendar": 1.6}
"""The calendar is the slow one: what the lookup page's verdict is about."""


def app(name: str) -> web.Application:
    tracer = tracing.start(name)

    async def answer(request: web.Request) -> web.Response:
        with continue_call(request.headers, f"POST /{name}", kind="server"):
            wanted = await request.json()
            with tracer.start_as_current_span(f"SELECT {name}"):
                await asyncio.sleep(SECONDS[name])
            if name == "calendar":
                with tracer.start_as_current_span("add after-hours.confirm", kind=SpanKind.PRODUCER):
                    queue = Queue("after-hours", {"connection": os.environ["REDIS"]})
                    await queue.add("confirm", {"call": wanted["call"]}, bullmq_options())
                    await queue.close()
            return web.json_response(ANSWERS[name])

    made = web.Application()
    made.router.add_post(f"/{name}", answer)
    return made


if __name__ == "__main__":
    web.run_app(app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), print=None)
