"""Builds the environment variables of the processes of one home."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from migrations.settings import LOGIN_VARIABLES
from sandbox.configuration import READERS
from sandbox.system.home import Home, free_port, is_port_free
from shared.domain.errors import Unavailable
from shared.domain.providers_file import load_providers_file

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
_FALSE = {"off", "false", "no", "n", "f", "0"}
"""The words that the settings read as false."""
PLACEHOLDERS = {
    "openai": ("OPENAI_API_KEY", "sk-stand-in"),
    "replicate": ("REPLICATE_API_TOKEN", "r8-stand-in"),
}
"""The variable of each provider's key, and its value with a stand-in.

A caller who sourced a home's env file passes the values in again.
"""
_VENDORS = {"openai": "OpenAI", "replicate": "Replicate"}
_SUBSTITUTES = {"openai": "texts are samples", "replicate": "images are drawn by a program"}
STANDIN_LIMITS = {"OPENAI_RPM": "5000", "OPENAI_TPM": "4000000", "REPLICATE_RPM": "600"}
"""Default rate limits of the stand-ins: those of a large account, to keep the demo short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    ingest: int
    metrics: int
    standin_openai: int
    standin_replicate: int


def choose_ports(environ: Mapping[str, str], *, any_free: bool) -> Ports:
    """Choose PORT and METRICS_PORT, by default 3000 and 3001.

    With `any_free`, a free port replaces a default port that is taken. Otherwise a port that is
    taken raises `Unavailable`.
    """

    def choose(name: str, default: int) -> int:
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
        ingest=choose("PORT", 3000),
        metrics=choose("METRICS_PORT", 3001),
        standin_openai=free_port(),
        standin_replicate=free_port(),
    )


def standins_needed(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the providers that are used without an API key: stand-ins replace them.

    The accounts of `PROVIDERS_FILE` have keys.
    """
    if environ.get("PROVIDERS_FILE"):
        return ()
    return tuple(
        provider
        for provider in _used_providers(environ)
        if environ.get(PLACEHOLDERS[provider][0]) in (None, "", PLACEHOLDERS[provider][1])
    )


def describe_providers(environ: Mapping[str, str]) -> list[str]:
    """Return one line for each provider that is used: a stand-in, or the real one."""
    if file := environ.get("PROVIDERS_FILE"):
        return [f"the provider accounts of {file} are called and may charge for it"]
    standins = standins_needed(environ)
    return [
        f"{PLACEHOLDERS[provider][0]} is not set: a stand-in replaces {_VENDORS[provider]};"
        f" {_SUBSTITUTES[provider]} and cost nothing"
        if provider in standins
        else f"{PLACEHOLDERS[provider][0]} is set: {_describe_real_calls(provider, environ)}"
        for provider in _used_providers(environ)
    ]


def describe_standins(standins: Sequence[str]) -> list[str]:
    """Return one sentence for each stand-in, without the reason."""
    return [
        f"a stand-in replaces {_VENDORS[name]}: {_SUBSTITUTES[name]} and cost nothing"
        for name in standins
    ]


def read_standins(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the stand-ins of a running system from its variables."""
    return tuple(filter(None, variables.get("STANDINS", "").split(",")))


def _describe_real_calls(provider: str, environ: Mapping[str, str]) -> str:
    address = environ.get(f"{provider.upper()}_BASE_URL")
    target = f"the server at {address}" if address else _VENDORS[provider]
    return f"{target} is called and may charge for it"


def _used_providers(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the providers that are called: with `IMAGES=off`, no provider of images."""
    without_images = environ.get("IMAGES", "").lower() in _FALSE
    return ("openai",) if without_images else ("openai", "replicate")


def _setting_names() -> set[str]:
    """Return the variables that services and stand-ins read, without addresses and Kafka access."""
    names = {name.upper() for settings in READERS.values() for name in settings.model_fields}
    return {
        name
        for name in names - {"HOST", "METRICS_ADVERTISED_URL", "STANDIN", "STANDINS"}
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
    """Return all variables of a running system: its own addresses, then the caller's settings."""
    standins = standins_needed(environ)
    own: dict[str, str] = {
        "DATABASE_URL": database_url,
        "INGEST_DATABASE_URL": _login_url("blogstream_ingest", database_url),
        "WORKERS_DATABASE_URL": _login_url("blogstream_workers", database_url),
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
    own |= dict(PLACEHOLDERS[provider] for provider in standins)
    if "openai" in standins:
        own["OPENAI_BASE_URL"] = f"http://127.0.0.1:{ports.standin_openai}/v1"
    if "replicate" in standins:
        own["REPLICATE_BASE_URL"] = f"http://127.0.0.1:{ports.standin_replicate}"
    if standins:
        own |= {"STANDIN": "true", "STANDINS": ",".join(standins)}
        own |= {
            name: value
            for name, value in STANDIN_LIMITS.items()
            if name.split("_")[0].lower() in standins
        }
    overridable = _setting_names() | _key_variables(environ)
    overridable -= own.keys() - STANDIN_LIMITS.keys()
    overrides = {
        name: value
        for name, value in environ.items()
        if value and (name in overridable or name.startswith("OTEL_"))
    }
    return own | overrides


def _key_variables(environ: Mapping[str, str]) -> set[str]:
    """Return the variables that hold the keys of the accounts in `PROVIDERS_FILE`."""
    file = environ.get("PROVIDERS_FILE")
    if not file:
        return set()
    accounts = load_providers_file(Path(file))
    return {account.key for account in (*accounts.text, *accounts.image)}


def with_service_login(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return a service's variables: DATABASE_URL is its role's login, other logins are removed."""
    of_service = dict(variables)
    for name, services in LOGIN_VARIABLES.items():
        login = of_service.pop(name, None)
        if service in services and login is not None:
            of_service["DATABASE_URL"] = login
    return of_service


def _login_url(role: str, owner: str) -> str:
    """Return the owner's URL for another role, with a password hashed from the owner's."""
    address = urlsplit(owner)
    password = hashlib.sha256(f"{role}:{address.password}".encode()).hexdigest()[:32]
    return address._replace(
        netloc=f"{role}:{password}@{address.netloc.rpartition('@')[2]}"
    ).geturl()


def process_environment(
    variables: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the full environment of a child process: `variables` plus PATH, locale, proxies."""
    return (
        {name: environ[name] for name in _PASSED_ON if name in environ}
        | {"PYTHONUNBUFFERED": "1"}
        | dict(variables)
    )
