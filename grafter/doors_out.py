"""Exporters from the config."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from grafter.config import exporters as config
from grafter.consumer import Exporter
from grafter.core.retry import RetryPolicy
from grafter.exporter import debug, file, otlp_grpc, otlp_http
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
        case config.OtlpHttpExporter():
            opened = otlp_http.opened(
                name=name,
                metrics=metrics,
                endpoint=str(exporter.endpoint) if exporter.endpoint else None,
                traces_endpoint=str(exporter.url("traces")),
                encoding=exporter.encoding,
                tls=_tls(exporter.tls),
                headers=exporter.request_headers(),
                compression=exporter.effective_compression,
                timeout_seconds=exporter.timeout.seconds,
                retry=_retry(exporter.retry_on_failure),
                limits=_limits(exporter.sending_queue),
            )
        case config.HoneycombExporter():
            opened = otlp_http.honeycomb(
                name=name,
                metrics=metrics,
                api_key=exporter.api_key.get_secret_value(),
                region=exporter.region,
                dataset=exporter.dataset,
                endpoint=str(exporter.endpoint) if exporter.endpoint else None,
                tls=_tls(exporter.tls),
                headers=exporter.request_headers(),
                compression=exporter.effective_compression,
                timeout_seconds=exporter.timeout.seconds,
                retry=_retry(exporter.retry_on_failure),
                limits=_limits(exporter.sending_queue),
            )
        case config.DebugExporter():
            opened = debug.opened(name=name, metrics=metrics, stream=sys.stdout, verbosity=exporter.verbosity)
        case config.FileExporter():
            opened = file.opened(name=name, metrics=metrics, path=exporter.path, fsync=exporter.fsync)
    async with opened as running:
        yield running


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
