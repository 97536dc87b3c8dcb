"""ingest's settings."""

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.ingest.auth.rules import TicketPolicy
from services.ingest.submit.rules import RequestPolicy
from shared.domain.providers_file import load_providers_file
from shared.runtime.settings import (
    AdmissionSettings,
    Count,
    KafkaSettings,
    PostgresSettings,
    Seconds,
)


class IngestSettings(AdmissionSettings, KafkaSettings, PostgresSettings):
    host: str = Field(
        "127.0.0.1", description="the address to listen on; 0.0.0.0 inside a container"
    )
    port: int = Field(3000, ge=1, le=65_535, description="the port to listen on")
    metrics_url: str = Field(
        "http://127.0.0.1:3001",
        description="the metrics service behind /metrics and /api/rate-limiter/stats",
    )
    image_dir: Path | None = Field(
        None, description="the folder of hero images to serve; unset when another server does"
    )
    max_body_bytes: Count = Field(
        262_144, description="the largest request body; a product with its texts is 20 KB"
    )
    max_bulk_bytes: Count = Field(
        33_554_432, description="the largest body of a bulk call: 10,000 products of 3 KB"
    )
    max_bulk_items: Count = Field(10_000, description="the most requests in one bulk call")
    bulk_read_s: Seconds = Field(
        60, description="seconds in which the body of a bulk call must arrive"
    )
    ticket_s: Seconds = Field(
        60, description="seconds in which an events ticket may open an event stream"
    )
    ticket_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="signs events tickets, together with a key's hash; the same for all ingest"
        " processes. When unset, the hash alone signs, so a reader of `api_keys` can make tickets",
    )
    max_streams: Count = Field(1_000, description="the most event streams of one process")
    max_streams_per_store: Count = Field(
        100, description="the most event streams of one store in one process"
    )
    stream_look_s: Seconds = Field(
        15, description="seconds of silence after which an event stream reads its job's row"
    )
    publish_timeout_s: Seconds = Field(
        5, description="seconds for Kafka to acknowledge before the client gets a 503"
    )
    fresh_wait_s: float = Field(
        1.0, ge=0, description="seconds that GET waits for the row of a job accepted just before"
    )
    webhook_allow_loopback: bool = Field(
        False, description="for development: allows webhooks to this machine, also by http"
    )

    providers_file: Path | None = Field(
        None,
        description="the provider accounts (TOML), whose models a request may name; unset: none."
        " The same file as the generators'",
    )

    @property
    def ticket_policy(self) -> TicketPolicy:
        """Return the parameters of events tickets."""
        secret = self.ticket_secret.get_secret_value() if self.ticket_secret is not None else ""
        return TicketPolicy(valid_s=self.ticket_s, secret=secret.encode())

    @cached_property
    def request_policy(self) -> RequestPolicy:
        """What requests may contain. Raises `Unavailable` if `PROVIDERS_FILE` is not right."""
        if self.providers_file is None:
            return RequestPolicy(loopback=self.webhook_allow_loopback)
        file = load_providers_file(self.providers_file)
        return RequestPolicy(
            loopback=self.webhook_allow_loopback,
            models=file.models,
            pinned_models=file.pinned_models,
        )

    @model_validator(mode="after")
    def _read_providers_file(self) -> Self:
        """Read the file at start, and not with the first request."""
        assert self.request_policy is not None
        return self
