"""Exporters from the config."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from grafter.config import exporters as config
from grafter.consumer import Exporter
from grafter.exporter import debug, file, otlp_grpc, otlp_http
from grafter.exporter.gate import RetryPolicy
from grafter.exporter.sending import Limits
from grafter.exporter.tls import TlsClient
from grafter.telemetry import Metrics


@asynccontextmanager
async def open_exporter(name: str, exporter: config.Exporter, metrics: Metrics) -> AsyncIterator[Exporter]:
    """Run one exporter; its peer need not be up. Raises OSError or ValueError when it cannot be opened."""
    opened: AbstractAsyncContextManager[Exporter]
    match exporter:
        case config.OtlpGrpcExporter():
            opened = otlp_grpc.opened(
                name=name,
                endpoint=str(exporter.endpoint),
                metrics=metrics,
                tls=_tls(exporter.tls),
                headers=exporter.request_headers(),
                compression=exporter.effective_compression,
                timeout_seconds=exporter.timeout.seconds,
                retry=_retry(exporter.retry_on_failure),
                limits=_limits(exporter.sending_queue),
            )
        case config.OtlpHttpExporter() | config.HoneycombExporter():
            honeycomb = isinstance(exporter, config.HoneycombExporter)
            opened = otlp_http.opened(
                name=name,
                metrics=metrics,
                endpoint=_base(exporter),
                traces_endpoint=str(exporter.url("traces")),
                encoding="proto" if isinstance(exporter, config.HoneycombExporter) else exporter.encoding,
                tls=_tls(exporter.tls),
                headers=exporter.request_headers(),
                compression=exporter.effective_compression,
                timeout_seconds=exporter.timeout.seconds,
                retry=_retry(exporter.retry_on_failure),
                limits=(_honeycomb_limits if honeycomb else _limits)(exporter.sending_queue),
            )
        case config.DebugExporter():
            opened = debug.opened(name=name, metrics=metrics, stream=sys.stdout, verbosity=exporter.verbosity)
        case config.FileExporter():
            opened = file.opened(
                name=name,
                metrics=metrics,
                path=exporter.path,
            )
    async with opened as running:
        yield running


def _base(exporter: config.OtlpHttpExporter | config.HoneycombExporter) -> str | None:
    """What ``/v1/metrics`` and ``/v1/logs`` are added to; None where only a traces endpoint is configured."""
    if isinstance(exporter, config.OtlpHttpExporter) and exporter.endpoint is None:
        return None
    return exporter.url("metrics").removesuffix("/v1/metrics")


def _tls(tls: config.ClientTls) -> TlsClient:
    return TlsClient(
        insecure=tls.insecure,
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        server_name_override=tls.server_name_override,
        insecure_skip_verify=tls.insecure_skip_verify,
    )


def _retry(retry: config.Retry) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=retry.initial_interval.seconds,
        max_interval=retry.max_interval.seconds,
        multiplier=retry.multiplier,
        randomization_factor=retry.randomization_factor,
        enabled=retry.enabled,
    )


def _limits(queue: config.SendingQueue) -> Limits:
    return Limits(
        num_consumers=queue.num_consumers, batch_spans=queue.batch.max_spans, batch_bytes=queue.batch.max_bytes
    )


def _honeycomb_limits(queue: config.SendingQueue) -> Limits:
    # What Honeycomb's own proxy sends at most: refinery, transmit/direct_transmit.go, apiMaxBatchSize.
    return replace(_limits(queue), request_bytes=5_000_000)
