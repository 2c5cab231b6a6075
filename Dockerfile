# Stage one has a compiler and builds an environment of its own; stage two takes only that, without pip's caches or the
# sources.
FROM python:3.12 AS build
WORKDIR /src
RUN python -m venv /opt/grafter
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY grafter grafter
RUN /opt/grafter/bin/python -m pip install --no-cache-dir --constraint constraints.txt pip setuptools \
 && /opt/grafter/bin/python -m pip install --no-cache-dir --constraint constraints.txt --no-build-isolation .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/grafter --create-home --shell /usr/sbin/nologin grafter
COPY --from=build /opt/grafter /opt/grafter
ENV PATH=/opt/grafter/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/grafter
VOLUME /var/lib/grafter

# OTLP over gRPC and HTTP, the Agents SDKs' traces, own metrics, health.
EXPOSE 4317 4318 4319 8888 13133
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:13133/healthz', timeout=2).close()"]

# Without a file grafter listens on localhost, which nobody outside a container reaches. A file of your own
# replaces these lines: docker run … grafter run --config /etc/grafter/config.yaml
ENTRYPOINT ["grafter"]
CMD ["run", \
     "--set", "receivers.otlp.protocols.grpc.endpoint=0.0.0.0:4317", \
     "--set", "receivers.otlp.protocols.http.endpoint=0.0.0.0:4318", \
     "--set", "receivers.openai.endpoint=0.0.0.0:4319", \
     "--set", "extensions.health_check.endpoint=0.0.0.0:13133", \
     "--set", "service.telemetry.metrics.endpoint=0.0.0.0:8888"]
