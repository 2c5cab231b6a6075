"""The yardsticks: a null sink, a raw proxy (receives bytes, sends the same bytes) and the sink behind every system.

``python -m bench.servers null|proxy|sink --port P [--to P]``. The sink keeps what it gets and answers ``/bench/Report``
with the number of spans and a hash over the set of (trace id, span id), so that a run can prove what came out.
"""

import argparse
import asyncio
import gc
import hashlib
import json
from collections.abc import Iterable

import grpc
import grpc.aio
import uvloop

from grafter.otlp import shallow_pb2 as shallow

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
OPTIONS = [("grpc.max_receive_message_length", 128 << 20), ("grpc.max_send_message_length", 128 << 20)]


def digest(requests: Iterable[bytes]) -> dict[str, object]:
    """Spans, distinct ids, and an order-free hash over the distinct ids of these requests."""
    ids: set[bytes] = set()
    spans = 0
    for request in requests:
        for resource_run in shallow.HeadRequest.FromString(request).resource_spans:
            for scope_run in resource_run.scope_spans:
                for head in scope_run.spans:
                    spans += 1
                    ids.add(head.trace_id + head.span_id)
    total = 0
    for one in ids:
        total ^= int.from_bytes(hashlib.blake2b(one, digest_size=8).digest(), "big")
    return {"spans": spans, "ids": len(ids), "hash": f"{total:016x}"}


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, kind: str, to: int) -> None:
        self._kept: list[bytes] = []
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{to}", options=OPTIONS) if kind == "proxy" else None
        self._forward = self._channel.unary_unary(EXPORT) if self._channel else None
        export = {"null": self._null, "proxy": self._proxy, "sink": self._keep}[kind]
        self._export = grpc.unary_unary_rpc_method_handler(export)
        self._report = grpc.unary_unary_rpc_method_handler(self._tell)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method == EXPORT:
            return self._export
        return self._report if details.method == "/bench/Report" else None

    async def _null(self, request: bytes, _context: object) -> bytes:
        return b""

    async def _proxy(self, request: bytes, _context: object) -> bytes:
        assert self._forward is not None
        answer = await self._forward(request)
        assert isinstance(answer, bytes)
        return answer

    async def _keep(self, request: bytes, _context: object) -> bytes:
        self._kept.append(request)
        return b""

    async def _tell(self, request: bytes, _context: object) -> bytes:
        if request == b"bytes":
            return str(sum(map(len, self._kept))).encode()
        return json.dumps(digest(self._kept)).encode()


async def _serve(kind: str, port: int, to: int) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_Handlers(kind, to),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    gc.freeze()
    await server.wait_for_termination()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["null", "proxy", "sink"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, default=0)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(args.kind, args.port, args.to))


if __name__ == "__main__":
    main()
