"""Receivers from the config: each opens its doors and says at which ports."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from grafter.config.receivers import OpenAIReceiver, OtlpReceiver, Receiver, ServerTls
from grafter.consumer import Consumer
from grafter.core.policy import GraftPolicy
from grafter.forwarding import Forwarding
from grafter.otlp.split import Splitter
from grafter.receiver import (
    admin,
    openai_http,
    otlp_grpc,
    otlp_http,
    realtime_http,
    recorder,
    sessions,
    webhook_http,
)
from grafter.receiver.http_server import TlsFiles
from grafter.receiver.openai_api import Account
from grafter.receiver.recording import Timing
from grafter.receiver.signatures import Signatures
from grafter.receiver.tee import teeing
from grafter.store.base import Store
from grafter.telemetry import Metrics


@asynccontextmanager
async def open_receiver(
    name: str,
    receiver: Receiver,
    consumer: Consumer,
    forwarding: Forwarding,
    policy: GraftPolicy,
    metrics: Metrics,
    grace_seconds: float,
    storing: Consumer | None = None,
    store: Store | None = None,
    *,
    lease_seconds: float = 10.0,
    admin_tokens: Sequence[str] = (),
    share_ports: bool = False,
) -> AsyncIterator[dict[str, int]]:
    """Run one receiver; yields its ports by door.

    ``store`` knows which webhooks came before, and keeps what is to be fetched from OpenAI, each piece of work for
    ``lease_seconds`` with one owner; without it there is no door for webhooks, nothing is fetched, and there is no
    ``/admin/…``, which ``admin_tokens`` open to other machines.

    ``storing`` takes what recorders heard, also when ``consumer`` refuses because a stop has begun.
    With ``share_ports`` the other workers listen at the same ports, which their parent holds.
    Leaving closes its doors one after the other, which takes up to ``grace_seconds`` in all. Raises OSError or
    ValueError when it cannot be opened.
    """
    if isinstance(receiver, OtlpReceiver):
        doors = _otlp(name, receiver, consumer, forwarding, policy, metrics, grace_seconds, share_ports)
    else:
        doors = _openai(
            name,
            receiver,
            consumer,
            storing or consumer,
            policy,
            metrics,
            grace_seconds,
            store,
            lease_seconds,
            admin_tokens,
            share_ports,
        )
    async with doors as ports:
        yield ports


@asynccontextmanager
async def _otlp(
    name: str,
    receiver: OtlpReceiver,
    consumer: Consumer,
    forwarding: Forwarding,
    policy: GraftPolicy,
    metrics: Metrics,
    grace_seconds: float,
    share_ports: bool,
) -> AsyncIterator[dict[str, int]]:
    suffix = name.removeprefix("otlp")
    grpc, http = receiver.protocols.grpc, receiver.protocols.http
    splitter = Splitter(policy.anchors)
    grace_seconds /= 2
    async with (
        otlp_grpc.listening(
            consumer,
            splitter,
            metrics,
            endpoint=grpc.endpoint,
            tls=_tls_files(grpc.tls),
            tokens=[token.get_secret_value() for token in grpc.tokens],
            max_bytes=grpc.max_recv_msg_size_mib << 20,
            grace_seconds=grace_seconds,
            pass_through=forwarding,
            signals=forwarding.signals,
            share_port=share_ports,
        ) as grpc_port,
        otlp_http.listening(
            consumer,
            splitter,
            metrics,
            endpoint=http.endpoint,
            tls=_tls_files(http.tls),
            tokens=[token.get_secret_value() for token in http.tokens],
            cors=otlp_http.Cors(http.cors.allowed_origins, http.cors.allowed_headers, int(http.cors.max_age)),
            max_bytes=http.max_request_body_size,
            grace_seconds=grace_seconds,
            pass_through=forwarding,
            signals=forwarding.signals,
            share_port=share_ports,
        ) as http_port,
    ):
        yield {"otlp_grpc" + suffix: grpc_port, "otlp_http" + suffix: http_port}


@asynccontextmanager
async def _openai(
    name: str,
    receiver: OpenAIReceiver,
    consumer: Consumer,
    storing: Consumer,
    policy: GraftPolicy,
    metrics: Metrics,
    grace_seconds: float,
    store: Store | None,
    lease_seconds: float,
    admin_tokens: Sequence[str],
    share_ports: bool,
) -> AsyncIterator[dict[str, int]]:
    async with AsyncExitStack() as stack:
        # They are left one after the other: the door first, for a request may bring items for the tee or a recorder.
        grace_seconds /= 2 if receiver.ingest.tee is None else 3
        tee = None
        if receiver.ingest.tee is not None:
            config = receiver.ingest.tee
            tee = await stack.enter_async_context(
                teeing(config.endpoint, config.key, metrics, grace_seconds=grace_seconds)
            )
        tokens = [token.get_secret_value() for token in receiver.realtime.tokens]
        recorders = await stack.enter_async_context(
            recorder.recording(
                consumer,
                metrics,
                policy,
                accounts(receiver).get(receiver.default_project),
                projects=accounts(receiver),
                storing=storing,
                timing=Timing(silence=receiver.realtime.silence.seconds),
                grace_seconds=grace_seconds,
            )
        )
        # One address, several doors: each brings its routes.
        routes = [
            *openai_http.ingest_routes(
                consumer,
                metrics,
                policy,
                tokens=[token.get_secret_value() for token in receiver.ingest.tokens],
                tee=tee,
            ),
            *realtime_http.event_routes(recorders.ended_by(consumer), metrics, policy, time.time_ns, tokens=tokens),
            *realtime_http.call_routes(
                recorders, metrics, time.time_ns, store=store, secret=policy.redact.secret, tokens=tokens
            ),
        ]
        if store is not None:
            pulls = await stack.enter_async_context(
                sessions.pulling(
                    store,
                    consumer,
                    accounts(receiver),
                    metrics,
                    policy,
                    kind=pull_kind(name),
                    default=receiver.default_project,
                    lease_seconds=lease_seconds,
                )
            )
            routes += admin.admin_routes(pulls, metrics, tokens=admin_tokens)
            sinks = webhook_http.WebhookSinks(consumer, store, recorders if receiver.realtime.record else None, pulls)
            secrets = {name: project.secrets for name, project in receiver.projects.items()}
            signatures = Signatures(secrets, int(receiver.webhook.tolerance))
            routes += webhook_http.webhook_routes(sinks, signatures, metrics, policy, time.time_ns)
        port = await stack.enter_async_context(
            openai_http.listening(
                routes, endpoint=receiver.endpoint, grace_seconds=grace_seconds, share_port=share_ports
            )
        )
        yield {name: port}


def accounts(receiver: OpenAIReceiver) -> dict[str, Account]:
    """The accounts of the projects that have a key, by project."""
    return {name: Account(project.key, project.base_url) for name, project in receiver.projects.items() if project.key}


def pull_kind(name: str) -> str:
    """What the pulls of the receiver of this id are called in the store."""
    return "session" + name.removeprefix("openai")


def _tls_files(tls: ServerTls | None) -> TlsFiles | None:
    return None if tls is None else TlsFiles(tls.cert_file, tls.key_file, tls.client_ca_file)
