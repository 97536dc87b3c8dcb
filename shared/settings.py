"""Settings from the environment, read once at start. Each service has one frozen class built from these parts.

Every field's description gives its unit and the reason for its default; the environment variable is the field's
name in capitals.
"""

import os
import socket
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import Unavailable

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
_SERVERS = r"^\s*[^\s,:]+:[0-9]{1,5}\s*(,\s*[^\s,:]+:[0-9]{1,5}\s*)*$"


class Settings(BaseSettings):
    """Base: frozen, empty variables count as unset, unknown variables are none of our business."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    log_level: int = Field(2, ge=0, le=4, description="0 ERROR, 1 WARNING, 2 INFO, 3 DEBUG, 4 TRACE (as DEBUG)")
    startup_deadline_s: Seconds = Field(
        60,
        description="seconds to wait for PostgreSQL and Kafka at start before giving up with one clear line",
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the process environment; `Unavailable` with one line naming each variable at fault."""
        try:
            return cls()
        except ValidationError as error:
            faults = "; ".join(f"{str(fault['loc'][0]).upper()}: {fault['msg'].lower()}" for fault in error.errors())
            raise Unavailable(f"the environment is not right: {faults} (see docs/configuration.md)") from None


class KafkaSettings(Settings):
    kafka_bootstrap_servers: str = Field(pattern=_SERVERS, description="host:port, comma-separated")
    kafka_topic_prefix: str = Field(
        "",
        pattern=r"^[a-zA-Z0-9._-]{0,64}$",
        description="put before every topic and group name, so that several environments can share a cluster",
    )
    kafka_replication_factor: int | None = Field(
        None, ge=1, description="replicas of topics that we create; unset: three, or as many as there are brokers"
    )


class PostgresSettings(Settings):
    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    db_pool_max: Count = Field(100, description="connections per pool at the most; opened lazily")
    db_pool_min: int = Field(10, ge=0, description="idle connections kept once they were needed")


class FlowSettings(Settings):
    """What scheduler and generator both speak of: the contract's three numbers of batch processing, and the lease."""

    concurrent_blogs: Count = Field(50, description="blogs in parallel per worker")
    batch_size: Count = Field(100, description="requests taken up at once")
    max_per_instance: Count = Field(20, description="blogs of one store in flight")
    lease_s: Seconds = Field(60, description="seconds that a claim lasts without a heartbeat (one every third of it)")


def process_name(service: str) -> str:
    """A name for this process that is unique among its peers and readable in a log: service-host-pid."""
    return f"{service}-{socket.gethostname()}-{os.getpid()}"
