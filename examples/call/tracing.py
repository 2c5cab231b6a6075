"""What every Python service of the call does once: say who it is, and send its spans to grafter."""

import logging
import os
from typing import Any

import aiohttp
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from grafter_propagation import CallIds


def start(service: str) -> trace.Tracer:
    """A tracer of this service. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT says where grafter is.

    CallIds lets the gateway write a call's root under the ids that everybody computes; all other spans get random ones.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service}), id_generator=CallIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return trace.get_tracer(service)


async def tell(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    """Say something to grafter itself. A phone call waits two seconds for that at most, and never fails for it."""
    try:
        async with http.post(os.environ["GRAFTER"] + path, json=body, timeout=aiohttp.ClientTimeout(2)):
            pass
    except (aiohttp.ClientError, TimeoutError) as error:
        logging.getLogger(__name__).warning("grafter was not told: %r", error)
