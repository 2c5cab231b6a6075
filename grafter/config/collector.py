"""The OpenTelemetry Collector's own keys that a config may bring along and that have nothing to set here.

They are taken, each with a word why, so that a section copied from a Collector's file is a valid one. A key whose loss
would change who may send, what is trusted or where spans go is not among them: it is refused, with what to write in its
place.

Source: opentelemetry-collector, config/configgrpc, confighttp, configtls, configretry and exporter/exporterhelper.
"""

from collections.abc import Mapping

Words = Mapping[str, str]
"""By key: what is said of it."""

_OWN_BUFFERS = "has no meaning here: the buffers of a connection are not set"
_POOL = "has no meaning here: sending_queue.num_consumers is the number of connections"
_KEPT = "has no meaning here: a trace stays in the store until a backend takes it or refuses it for good"
_STORE = "has no meaning here: the queue is the store, and extensions.store sets its size"
_AT_ONCE = "has no meaning here: what is ready leaves at once, in requests of up to batch.max_spans"
_PIPELINE = "has no meaning here: requests pass no middleware"
_METADATA = "has no meaning here: headers of requests are not kept"
_TIMES = "has no meaning here: the times of a connection are not set"

RETRY: Words = {"max_elapsed_time": _KEPT}

QUEUE: Words = {
    "enabled": _STORE,
    "queue_size": _STORE,
    "sizer": _STORE,
    "storage": _STORE,
    "blocking": "has no meaning here: a store that is full refuses at the door, and the sender tries again",
    "block_on_overflow": "has no meaning here: a store that is full refuses at the door, and the sender tries again",
    "wait_for_result": "has no meaning here: an answer at the door means stored",
}

BATCH: Words = {
    "flush_timeout": _AT_ONCE,
    "min_size": _AT_ONCE,
    "max_size": "has no meaning here: max_spans is the most that goes in one request",
    "sizer": "has no meaning here: max_spans counts spans, max_bytes counts bytes",
    "partition": _METADATA,
}

_TLS: Words = {
    "min_version": "has no meaning here: TLS 1.2 and 1.3 are spoken",
    "max_version": "has no meaning here: TLS 1.2 and 1.3 are spoken",
    "cipher_suites": "has no meaning here: the TLS library's own choice is used",
    "curve_preferences": "has no meaning here: the TLS library's own choice is used",
    "reload_interval": "has no meaning here: certificates are read at the start",
}
CLIENT_TLS: Words = {
    **_TLS,
    "include_system_ca_certs_pool": "has no meaning here: with ca_file only its authorities are trusted",
}
SERVER_TLS: Words = {**_TLS, "client_ca_file_reload": "has no meaning here: certificates are read at the start"}

GRPC_CLIENT: Words = {
    "balancer_name": "has no meaning here: one connection is kept, and calls share it",
    "keepalive": "has no meaning here: an idle connection is pinged every five and a half minutes",
    "wait_for_ready": "has no meaning here: a backend that is away is tried again",
    "read_buffer_size": _OWN_BUFFERS,
    "write_buffer_size": _OWN_BUFFERS,
    "middlewares": _PIPELINE,
}
HTTP_CLIENT: Words = {
    "max_idle_conns": _POOL,
    "max_idle_conns_per_host": _POOL,
    "max_conns_per_host": _POOL,
    "idle_conn_timeout": _TIMES,
    "disable_keep_alives": "has no meaning here: connections are kept for the next request",
    "http2_read_idle_timeout": "has no meaning here: HTTP/1.1 is spoken",
    "http2_ping_timeout": "has no meaning here: HTTP/1.1 is spoken",
    "force_attempt_http2": "has no meaning here: HTTP/1.1 is spoken",
    "read_buffer_size": _OWN_BUFFERS,
    "write_buffer_size": _OWN_BUFFERS,
    "compression_params": "has no meaning here: the fastest level is used",
    "cookies": "has no meaning here: no cookies are kept",
    "metrics_endpoint": "has no meaning here: metrics go to endpoint and /v1/metrics",
    "logs_endpoint": "has no meaning here: logs go to endpoint and /v1/logs",
    "profiles_endpoint": "has no meaning here: no profiles are sent",
    "middlewares": _PIPELINE,
}

GRPC_SERVER: Words = {
    "transport": "has no meaning here: TCP is listened at",
    "max_concurrent_streams": "has no meaning here: requests wait for memory, and not for a number",
    "read_buffer_size": _OWN_BUFFERS,
    "write_buffer_size": _OWN_BUFFERS,
    "keepalive": _TIMES,
    "include_metadata": _METADATA,
    "middlewares": _PIPELINE,
}
HTTP_SERVER: Words = {
    "transport": "has no meaning here: TCP is listened at",
    "include_metadata": _METADATA,
    "response_headers": "has no meaning here: answers have the headers that OTLP wants",
    "compression_algorithms": "has no meaning here: gzip, zstd, deflate and none are taken",
    "compression_params": "has no meaning here: answers are not compressed",
    "read_timeout": _TIMES,
    "read_header_timeout": _TIMES,
    "write_timeout": _TIMES,
    "idle_timeout": _TIMES,
    "keep_alives_enabled": "has no meaning here: connections are kept for the next request",
    "middlewares": _PIPELINE,
}
CORS: Words = {"exposed_headers": "has no meaning here: answers have no headers of their own"}

SERVICE: Words = {"extensions": "has no meaning here: an extension runs where it is configured"}
METRICS: Words = {
    "level": "has no meaning here: all metrics are kept",
    "readers": "has no meaning here: metrics are read at telemetry.metrics.endpoint",
    "address": "has no meaning here: metrics are read at telemetry.metrics.endpoint",
}
_LOG = "has no meaning here: the log goes to stderr, one line an event"
LOGS: Words = {
    "development": _LOG,
    "sampling": _LOG,
    "output_paths": _LOG,
    "error_output_paths": _LOG,
    "initial_fields": _LOG,
    "disable_caller": _LOG,
    "disable_stacktrace": _LOG,
    "processors": _LOG,
}

_PEM = "write the PEM into a file and name it in {}_file"
_HEADERS = "write headers: {Authorization: …} instead"
_TOKENS = 'write tokens: ["${env:TOKEN}"] instead'

GRPC_CLIENT_INSTEAD: Words = {"auth": _HEADERS, "authority": "write tls: {server_name_override: …} instead"}
HTTP_CLIENT_INSTEAD: Words = {
    "auth": _HEADERS,
    "proxy_url": "set HTTPS_PROXY or HTTP_PROXY in the environment instead",
}
CLIENT_TLS_INSTEAD: Words = {f"{name}_pem": _PEM.format(name) for name in ("ca", "cert", "key")}
GRPC_SERVER_INSTEAD: Words = {"auth": _TOKENS}
HTTP_SERVER_INSTEAD: Words = {
    "auth": _TOKENS,
    **{f"{signal}_url_path": f"the path is /v1/{signal}" for signal in ("traces", "metrics", "logs")},
}
SERVER_TLS_INSTEAD: Words = {f"{name}_pem": _PEM.format(name) for name in ("cert", "key")}
