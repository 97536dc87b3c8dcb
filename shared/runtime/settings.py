"""Settings from the environment, read once at start. Each service combines these parts.

Every field's description gives its unit and the reason for its default. The environment variable is
the field's name in capitals.
"""

import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.domain.errors import Unavailable

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
_HOST_CHARACTERS = 40
_SERVERS = r"^\s*[^\s,:]+:[0-9]{1,5}\s*(,\s*[^\s,:]+:[0-9]{1,5}\s*)*$"


class Settings(BaseSettings):
    """Base class: frozen; empty variables count as unset, unknown variables are ignored."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    log_level: int = Field(
        2, ge=0, le=4, description="0 ERROR, 1 WARNING, 2 INFO, 3 DEBUG, 4 TRACE (as DEBUG)"
    )
    startup_deadline_s: Seconds = Field(
        60,
        description="seconds to wait for PostgreSQL and Kafka at start before giving up with one"
        " clear line",
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment. `Unavailable` with one line that names each variable at fault."""
        try:
            return cls()
        except ValidationError as error:
            faults = "; ".join(_describe_fault(fault) for fault in error.errors())
            raise Unavailable(
                f"the environment is not right: {faults} (see docs/configuration.md)"
            ) from None

    def secrets(self) -> list[str]:
        """Texts that must not be logged: secret fields, and passwords in addresses."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        return [*values, *filter(None, map(_password_in, values))]


def _password_in(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None


def _describe_fault(fault: Any) -> str:
    """Describe a pydantic error briefly. An error about several variables names them itself."""
    text: str = fault["msg"]
    return f"{str(fault['loc'][0]).upper()}: {text[0].lower()}{text[1:]}" if fault["loc"] else text


class TopicSettings(Settings):
    generation_partitions: int = Field(
        24,
        ge=1,
        le=512,
        description="partitions of blog.generation, and so the most workers; a higher number adds"
        " partitions at the next start of a service, a lower one changes nothing",
    )


class KafkaSettings(TopicSettings):
    kafka_bootstrap_servers: str = Field(pattern=_SERVERS, description="host:port, comma-separated")
    kafka_topic_prefix: str = Field(
        "",
        pattern=r"^[a-zA-Z0-9._-]{0,64}$",
        description="put before every topic and group name, so that several environments can share"
        " a cluster",
    )
    kafka_replication_factor: int | None = Field(
        None,
        ge=1,
        description="replicas of topics that we create; unset: three, or as many as there are"
        " brokers",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="whether connections are encrypted (SSL), and whether a user is named (SASL)",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="how the password is proven; unset: PLAIN"
    )
    kafka_sasl_username: str | None = Field(
        None, description="the user, where the protocol has SASL"
    )
    kafka_sasl_password: SecretStr | None = Field(None, description="the user's password")
    kafka_ssl_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that brokers' certificates are from; unset: the"
        " system's",
    )
    kafka_ssl_cert_file: Path | None = Field(
        None,
        description="PEM file of our own certificate, where brokers ask for one, with those up to"
        " its authority",
    )
    kafka_ssl_key_file: Path | None = Field(
        None,
        description="PEM file of its key, not encrypted; unset: it is in the certificate's file",
    )

    @property
    def kafka_uses_tls(self) -> bool:
        return self.kafka_security_protocol.endswith("SSL")

    @property
    def kafka_uses_sasl(self) -> bool:
        return self.kafka_security_protocol.startswith("SASL")

    @model_validator(mode="after")
    def _check_kafka_security(self) -> Self:
        """Require the settings of the protocol and refuse others: a password or certificate that
        is set is meant to be used.
        """
        sasl = ["kafka_sasl_username", "kafka_sasl_password"]
        files = ["kafka_ssl_cert_file", "kafka_ssl_ca_file", "kafka_ssl_key_file"]
        missing = [name for name in sasl if self.kafka_uses_sasl and getattr(self, name) is None]
        missing += (
            ["kafka_ssl_cert_file"]
            if self.kafka_ssl_key_file and not self.kafka_ssl_cert_file
            else []
        )
        unused = [*sasl, "kafka_sasl_mechanism"] if not self.kafka_uses_sasl else []
        unused += files if not self.kafka_uses_tls else []
        unused = [name for name in unused if getattr(self, name) is not None]
        for names, fault in ((missing, "lacks"), (unused, "has no use for")):
            if names:
                raise PydanticCustomError(
                    "kafka_security",
                    "KAFKA_SECURITY_PROTOCOL={protocol} {fault} {names}",
                    {
                        "protocol": self.kafka_security_protocol,
                        "fault": fault,
                        "names": ", ".join(names).upper(),
                    },
                )
        return self


class PostgresSettings(Settings):
    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")
    db_pool_max: Count = Field(100, description="most connections per pool; opened on demand")
    db_pool_min: int = Field(
        10,
        ge=0,
        description="connections a pool may open even when the server allows few; none is opened"
        " in advance",
    )


class ProcessingSettings(Settings):
    """Settings of scheduler and generator: the three limits of batch processing, and the lease."""

    concurrent_blogs: Count = Field(50, description="blogs in parallel per worker")
    batch_size: Count = Field(
        100,
        description="requests admitted, or jobs dispatched, in one batch; read by the scheduler, a"
        " worker only logs it",
    )
    max_per_instance: Count = Field(
        20,
        description="the most jobs of one store in flight while other stores wait; read by the"
        " scheduler, a worker only logs it",
    )
    lease_s: Seconds = Field(
        60, description="seconds that a claim lasts without a heartbeat (one every third of it)"
    )


class AdmissionSettings(Settings):
    """Settings of ingest and scheduler: limits of queues, and the estimate for a first job."""

    max_pending_per_store: Count = Field(
        1_000,
        description="jobs waiting in one store's queue at which intake closes for the store; it"
        " opens again at four fifths of that. A bulk call must fit as a whole",
    )
    max_pending_total: Count = Field(
        50_000,
        description="jobs waiting in all queues at which intake closes for all stores: a failover"
        " reads as many in seconds",
    )
    default_cost_nanousd: Count = Field(
        5_000_000,
        description="billionths of a dollar reserved for the first job of a store; the store's mean"
        " cost replaces it",
    )


def process_name(service: str) -> str:
    """Return a unique and readable name of this process: service-host-pid-random.

    A container that restarts keeps its host name and pid, hence the random part. The name fits into
    the 63 bytes of PostgreSQL's `application_name`; a pod's name is unique at its end.
    """
    host = socket.gethostname()[-_HOST_CHARACTERS:]
    return f"{service}-{host}-{os.getpid()}-{secrets.token_hex(2)}"
