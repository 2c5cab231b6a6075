"""Several processes of grafter behind the same ports, and the parent that starts, watches and answers for them.

``supervisor`` is the parent: it holds the ports, restarts what dies, and answers /healthz, /readyz and /metrics once
for all; ``page`` adds up the metrics. ``child`` is what a worker runs. ``channel`` is the protocol between the two.
The parent takes no requests and knows neither gRPC nor the store, so that it has little that can fail.
"""
