# One image for services, migrations and operators' commands: `docker run IMAGE services.generator`,
# `docker run IMAGE migrations up`, `docker run IMAGE shared.admin keys create STORE`.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv /venv
COPY requirements/services.txt /tmp/services.txt
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/services.txt

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin blogstream \
    && mkdir -p /var/lib/blogstream/images /var/lib/blogstream/metrics \
    && chown -R blogstream /var/lib/blogstream
COPY --from=build /venv /venv
WORKDIR /app
COPY shared shared
COPY admin admin
COPY migrations migrations
COPY services services
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 HEARTBEAT_FILE=/tmp/heartbeat \
    IMAGE_DIR=/var/lib/blogstream/images METRICS_DIR=/var/lib/blogstream/metrics
# A service's event loop touches the heartbeat file; a service that hangs does not.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-m", "shared.health"]
ENTRYPOINT ["python", "-m"]
CMD ["services.ingest"]
