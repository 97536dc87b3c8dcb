"""The variables that the services of one home run with: the caller's own, and what this machine stands in for."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from migrations.settings import LOGIN_VARIABLES
from sandbox.configuration import READERS
from sandbox.system.home import Home, free_port, is_port_free
from shared.domain.errors import Unavailable

_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "SSL_CERT_FILE",
    "HTTPS_PROXY",
    "NO_PROXY",
)
_PLACEHOLDERS = {"OPENAI_API_KEY": "sk-stand-in", "REPLICATE_API_TOKEN": "r8-stand-in"}
"""What stands for a key beside a stand-in; somebody who has sourced a home's variables has set it again."""
STANDIN_ACCOUNT = {"OPENAI_RPM": "5000", "OPENAI_TPM": "4000000", "REPLICATE_RPM": "600"}
"""What the stand-ins' account allows unless the caller says otherwise: a larger account, so that a demo is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    ingest: int
    metrics: int
    standin_openai: int
    standin_replicate: int


def choose_ports(environ: Mapping[str, str], *, any_free: bool) -> Ports:
    """PORT and METRICS_PORT, or 3000 and 3001. One that is taken is replaced when `any_free`, else `Unavailable`."""

    def wanted(name: str, default: int) -> int:
        text = environ.get(name) or str(default)
        if not text.isdecimal() or not 0 < int(text) < 65_536:
            raise Unavailable(f"{name} is {text!r}: a port is a number from 1 to 65535")
        port = int(text)
        if is_port_free(port):
            return port
        if any_free and name not in environ:
            return free_port()
        raise Unavailable(
            f"port {port} is taken; set {name} to another one, or stop what listens there"
        )

    return Ports(
        ingest=wanted("PORT", 3000),
        metrics=wanted("METRICS_PORT", 3001),
        standin_openai=free_port(),
        standin_replicate=free_port(),
    )


def standins_needed(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The providers without a key: stand-ins take their place."""
    return tuple(
        key.split("_")[0].lower()
        for key, placeholder in _PLACEHOLDERS.items()
        if environ.get(key, placeholder) in ("", placeholder)
    )


def _settings() -> set[str]:
    """The variables that services and stand-ins read, but for where they listen and how other brokers are reached."""
    names = {name.upper() for settings in READERS.values() for name in settings.model_fields}
    return {
        name
        for name in names - {"HOST", "METRICS_ADVERTISED_URL", "STANDIN"}
        if not name.startswith("KAFKA_")
    }


def service_environment(
    home: Home,
    ports: Ports,
    *,
    database_url: str,
    bootstrap: str,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """All variables of a running system: what is said here of its own servers, and whatever else the caller has set."""
    standins = standins_needed(environ)
    made: dict[str, str] = {
        "DATABASE_URL": database_url,
        "INGEST_DATABASE_URL": _logged_in_as("blogstream_ingest", database_url),
        "WORKERS_DATABASE_URL": _logged_in_as("blogstream_workers", database_url),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "PORT": str(ports.ingest),
        "METRICS_PORT": str(ports.metrics),
        "METRICS_URL": f"http://127.0.0.1:{ports.metrics}",
        "INGEST_URL": f"http://127.0.0.1:{ports.ingest}",
        "METRICS_DIR": str(home.metrics),
        "IMAGE_DIR": str(home.images),
        "IMAGE_BASE_URL": f"http://127.0.0.1:{ports.ingest}/images",
        "STANDIN_OPENAI_PORT": str(ports.standin_openai),
        "STANDIN_REPLICATE_PORT": str(ports.standin_replicate),
    }
    if "openai" in standins:
        made["OPENAI_API_KEY"] = _PLACEHOLDERS["OPENAI_API_KEY"]
        made["OPENAI_BASE_URL"] = f"http://127.0.0.1:{ports.standin_openai}/v1"
    if "replicate" in standins:
        made["REPLICATE_API_TOKEN"] = _PLACEHOLDERS["REPLICATE_API_TOKEN"]
        made["REPLICATE_BASE_URL"] = f"http://127.0.0.1:{ports.standin_replicate}"
    if standins:
        made["STANDIN"] = "true"
        made |= {
            name: value
            for name, value in STANDIN_ACCOUNT.items()
            if name.split("_")[0].lower() in standins
        }
    choosable = _settings() - (made.keys() - STANDIN_ACCOUNT.keys())
    chosen = {
        name: value
        for name, value in environ.items()
        if value and (name in choosable or name.startswith("OTEL_"))
    }
    return made | chosen


def as_role_of(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process of this service, which logs in as its role, where it has one, and knows no other."""
    of_service = dict(variables)
    for name, services in LOGIN_VARIABLES.items():
        login = of_service.pop(name, None)
        if service in services and login is not None:
            of_service["DATABASE_URL"] = login
    return of_service


def _logged_in_as(role: str, owner: str) -> str:
    """The owner's address for another role. Its password follows from the owner's, and does not tell it."""
    address = urlsplit(owner)
    password = hashlib.sha256(f"{role}:{address.password}".encode()).hexdigest()[:32]
    return address._replace(
        netloc=f"{role}:{password}@{address.netloc.rpartition('@')[2]}"
    ).geturl()


def process_environment(
    variables: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The whole environment of a child: the variables, and what any process needs of ours."""
    return (
        {name: environ[name] for name in _PASSED_ON if name in environ}
        | {"PYTHONUNBUFFERED": "1"}
        | dict(variables)
    )
