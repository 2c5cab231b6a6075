"""``receivers.otlp``: its keys, and how its two servers are opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grafter.config import collector
from grafter.config.model import Count, FilledSecret, Model, PositiveSize, revealed
from grafter.config.units import Endpoint, Size
from grafter.receiver.config import Cors, ReceiverConfig, ServerTls, Surroundings


class OtlpGrpc(Model):
    """OTLP over gRPC."""

    collectors_own = collector.GRPC_SERVER
    instead = collector.GRPC_SERVER_INSTEAD

    endpoint: Endpoint = Endpoint("localhost:4317")
    """Where to listen."""
    tls: ServerTls | None = None
    """Null: plaintext."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""
    max_recv_msg_size_mib: Count = 64
    """Largest request in MiB, before and after decompression."""


class OtlpHttp(Model):
    """OTLP over HTTP: protobuf and JSON."""

    collectors_own = collector.HTTP_SERVER
    instead = collector.HTTP_SERVER_INSTEAD

    endpoint: Endpoint = Endpoint("localhost:4318")
    """Where to listen."""
    tls: ServerTls | None = None
    """Null: plaintext."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""
    cors: Cors = Cors()
    """Which web pages may send from a browser."""
    max_request_body_size: PositiveSize = Size.parse("64MiB")
    """Largest request body, before and after decompression."""


class Protocols(Model):
    """Both protocols run; a key left out has its default."""

    grpc: OtlpGrpc = OtlpGrpc()
    """OTLP over gRPC."""
    http: OtlpHttp = OtlpHttp()
    """OTLP over HTTP."""


class OtlpReceiver(ReceiverConfig):
    """The app's own spans, and metrics and logs to be passed through."""

    protocols: Protocols = Protocols()
    """The protocols that it speaks."""

    def describe(self) -> str:
        grpc, http = self.protocols.grpc, self.protocols.http
        return f"grpc {grpc.endpoint}{_brackets(grpc.tls)}, http {http.endpoint}{_brackets(http.tls)}"

    @asynccontextmanager
    async def open(self, name: str, around: Surroundings) -> AsyncIterator[dict[str, int]]:
        """Run both servers; yields ``otlp_grpc`` and ``otlp_http`` with their ports, of ``otlp/x`` ``otlp_grpc/x`` …"""
        from grafter.otlp.split import Splitter
        from grafter.receiver import otlp_grpc, otlp_http
        from grafter.receiver.otlp import Intake

        suffix = name.removeprefix("otlp")
        grpc, http = self.protocols.grpc, self.protocols.http
        splitter = Splitter(around.policy.anchors, around.policy.guest_id_keys, around.policy.rules)
        passing = around.forwarding

        def intake(transport: str) -> Intake:
            return Intake(around.consumer, splitter, around.metrics, transport, passing, passing.signals)

        async with (
            otlp_grpc.listening(
                intake("grpc"),
                endpoint=grpc.endpoint,
                tls=grpc.tls,
                tokens=revealed(grpc.tokens),
                max_bytes=grpc.max_recv_msg_size_mib << 20,
                grace_seconds=around.grace_seconds / 2,
                share_port=around.share_ports,
                in_flight=around.in_flight,
            ) as grpc_port,
            otlp_http.listening(
                intake("http"),
                endpoint=http.endpoint,
                tls=http.tls,
                tokens=revealed(http.tokens),
                cors=http.cors,
                max_bytes=http.max_request_body_size,
                grace_seconds=around.grace_seconds / 2,
                share_port=around.share_ports,
                in_flight=around.in_flight,
            ) as http_port,
        ):
            yield {"otlp_grpc" + suffix: grpc_port, "otlp_http" + suffix: http_port}


def _brackets(tls: ServerTls | None) -> str:
    return f" ({tls})" if tls else ""
