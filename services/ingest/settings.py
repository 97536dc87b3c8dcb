"""ingest's settings."""

from pathlib import Path

from pydantic import Field, SecretStr

from services.ingest.auth import rules
from services.ingest.submit.rules import LOOPBACK
from shared.runtime.settings import Count, KafkaSettings, PostgresSettings, AdmissionSettings, Seconds


class IngestSettings(AdmissionSettings, KafkaSettings, PostgresSettings):
    host: str = Field(
        "127.0.0.1", description="the address to listen on; 0.0.0.0 inside a container"
    )
    port: int = Field(3000, ge=1, le=65_535, description="the port to listen on")
    metrics_url: str = Field(
        "http://127.0.0.1:3001", description="where /metrics and the limiter's stats come from"
    )
    image_dir: Path | None = Field(
        None, description="serve hero images from this folder; unset when others do"
    )
    max_body_bytes: Count = Field(
        262_144, description="the largest request body; a product with its texts is 20 KB"
    )
    max_bulk_bytes: Count = Field(
        33_554_432, description="the largest body of a bulk call: 10,000 products of 3 KB"
    )
    max_bulk_items: Count = Field(10_000, description="requests in one bulk call")
    bulk_read_s: Seconds = Field(
        60, description="seconds within which the body of a bulk call must have come"
    )
    ticket_s: Seconds = Field(
        60, description="seconds within which a ticket opens a stream of events"
    )
    ticket_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="part of what signs tickets, the same for all ingest processes; without it they are signed with a"
        " key's hash alone, so whoever reads `api_keys` can make some",
    )
    max_streams: Count = Field(1_000, description="streams of events that a process serves at once")
    max_streams_per_store: Count = Field(100, description="of these, as many as one store may have")
    stream_look_s: Seconds = Field(
        15, description="seconds of silence after which a stream looks at its job's row"
    )
    publish_timeout_s: Seconds = Field(
        5, description="seconds for Kafka to acknowledge before the caller gets a 503"
    )
    fresh_wait_s: float = Field(
        1.0, ge=0, description="seconds that GET waits for the row of a job just accepted"
    )
    webhook_allow_loopback: bool = Field(
        False, description="for development: webhooks may go to this machine, by http as well"
    )

    @property
    def ticket_rules(self) -> rules.Rules:
        """What tickets are made and judged by."""
        secret = self.ticket_secret.get_secret_value() if self.ticket_secret is not None else ""
        return rules.Rules(valid_s=self.ticket_s, secret=secret.encode())

    @property
    def judging(self) -> str | None:
        """The context in which requests are judged."""
        return LOOPBACK if self.webhook_allow_loopback else None
