"""metrics' settings."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from shared.settings import KafkaSettings, Seconds


class MetricsSettings(KafkaSettings):
    host: str = Field("127.0.0.1", description="the address to listen on; 0.0.0.0 inside a container")
    metrics_port: int = Field(3001, ge=1, le=65_535, description="the port to listen on")
    metrics_dir: Path = Field(Path(".metrics"), description="the folder of the tables' stores; one process each")
    worker_silence_s: Seconds = Field(10, description="seconds without a report after which a worker counts as gone")
    alert_webhook_url: SecretStr | None = Field(
        None, description="where alerts are posted as Slack takes them; whoever knows it may post there: a secret"
    )

    @field_validator("alert_webhook_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return url
