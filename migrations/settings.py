"""Settings of migrations: the database, and the logins of the services."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field, SecretStr

from shared.runtime.settings import PostgresSettings

LOGIN_VARIABLES: Mapping[str, Sequence[str]] = {
    "INGEST_DATABASE_URL": ("ingest",),
    "WORKERS_DATABASE_URL": ("scheduler", "generator", "metrics"),
}
"""The services that log in with each address."""


class ServiceLogin(NamedTuple):
    address: str
    """A DSN with user and password."""
    services: Sequence[str]


def select_logins(addresses: Mapping[str, str]) -> list[ServiceLogin]:
    """Return the logins whose addresses are given, by variable name."""
    return [
        ServiceLogin(addresses[name], services)
        for name, services in LOGIN_VARIABLES.items()
        if name in addresses
    ]


class MigrationSettings(PostgresSettings):
    ingest_database_url: SecretStr | None = Field(
        None,
        description="login URL of ingest's role; `migrations up` creates the role and grants its"
        " rights; unset: neither",
    )
    workers_database_url: SecretStr | None = Field(
        None, description="the same for the role of scheduler, generator and metrics"
    )

    def logins(self) -> list[ServiceLogin]:
        """Return the logins whose variables are set."""
        addresses = {
            "INGEST_DATABASE_URL": self.ingest_database_url,
            "WORKERS_DATABASE_URL": self.workers_database_url,
        }
        return select_logins(
            {name: url.get_secret_value() for name, url in addresses.items() if url is not None}
        )
