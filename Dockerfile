# One image for the services, the migrations and operators: `docker run IMAGE services.generator`, `… migrations up`,
# `… shared.admin keys create STORE`.
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
# The loop of a service touches its heartbeat; one that hangs stops doing so.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-m", "shared.health"]
ENTRYPOINT ["python", "-m"]
CMD ["services.ingest"]
