"""Settings of the metrics service."""

import socket
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from shared.runtime.settings import Count, KafkaSettings, Seconds

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


class MetricsSettings(KafkaSettings):
    host: str = Field(
        "127.0.0.1", description="the address to listen on; 0.0.0.0 inside a container"
    )
    metrics_port: int = Field(3001, ge=1, le=65_535, description="the port to listen on")
    metrics_advertised_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+$",
        description="the URL by which other metrics processes reach this one; unset: HOST, or this"
        " machine's address, and port",
    )
    metrics_dir: Path = Field(
        Path(".metrics"), description="the folder of the table's files; each process needs its own"
    )
    worker_silence_s: Seconds = Field(
        10, description="seconds without a report after which a worker counts as gone"
    )
    alert_webhook_url: SecretStr | None = Field(
        None,
        description="the URL that receives alerts in Slack's format; a secret",
    )
    jobs_kept: Count = Field(
        5_000, description="jobs whose events are kept in memory for /api/jobs; about 3 KB each"
    )
    ingest_url: str = Field(
        "http://127.0.0.1:3000", description="the URL of ingest, for an operator's cancel and retry"
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL, to compare the counted jobs with; unset: no comparison",
    )
    reconcile_every_s: Seconds = Field(
        60, description="seconds between two comparisons with PostgreSQL"
    )
    reconcile_settle_s: Seconds = Field(
        5,
        description="seconds that a comparison waits for the events of PostgreSQL's rows",
    )
    lag_every_s: Seconds = Field(
        5, description="seconds between two measurements of the consumer groups' lag"
    )

    @field_validator("alert_webhook_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return url

    @property
    def own_url(self) -> str:
        if self.metrics_advertised_url is not None:
            return self.metrics_advertised_url
        host = _this_machine() if self.host in _EVERYWHERE else self.host
        return (
            f"http://[{host}]:{self.metrics_port}"
            if ":" in host
            else f"http://{host}:{self.metrics_port}"
        )


def _this_machine() -> str:
    """Resolve this machine's host name, as in a container."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"
