"""The variables that the services of one home run with: the caller's own, and what this machine stands in for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.home import Home, free_port, is_port_free
from shared.errors import Unavailable

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")
_OURS = (
    "LOG_LEVEL", "CONCURRENT_BLOGS", "BATCH_SIZE", "MAX_PER_INSTANCE", "MAX_PENDING_PER_STORE", "MAX_PENDING_TOTAL",
    "DB_POOL_MAX", "DB_POOL_MIN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_RPM", "OPENAI_TPM",
    "REPLICATE_API_TOKEN", "REPLICATE_BASE_URL", "REPLICATE_MODEL", "REPLICATE_RPM", "STANDIN_OPENAI_LATENCY_MS",
    "STANDIN_REPLICATE_LATENCY_MS", "STANDIN_SEED", "LEASE_S", "DRAIN_S", "MAX_ATTEMPTS", "HARD_CAP",
    "FORWARD_TIMEOUT_S", "LEASE_GRACE_S", "ALERT_WEBHOOK_URL",
)  # fmt: skip
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
        raise Unavailable(f"port {port} is taken; set {name} to another one, or stop what listens there")

    return Ports(
        ingest=wanted("PORT", 3000), metrics=wanted("METRICS_PORT", 3001), standin_openai=free_port(),
        standin_replicate=free_port(),
    )  # fmt: skip


def standins_needed(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The providers without a key: stand-ins take their place."""
    keys = {"openai": "OPENAI_API_KEY", "replicate": "REPLICATE_API_TOKEN"}
    return tuple(provider for provider, key in keys.items() if not environ.get(key))


def service_environment(
    home: Home, ports: Ports, *, database_url: str, bootstrap: str, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """All variables of a running system; what the caller has set wins over what is made up here."""
    standins = standins_needed(environ)
    made: dict[str, str] = {
        "DATABASE_URL": database_url,
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
        made["OPENAI_API_KEY"] = "sk-stand-in"
        made["OPENAI_BASE_URL"] = f"http://127.0.0.1:{ports.standin_openai}/v1"
    if "replicate" in standins:
        made["REPLICATE_API_TOKEN"] = "r8-stand-in"  # noqa: S105 - no secret: the stand-in takes any
        made["REPLICATE_BASE_URL"] = f"http://127.0.0.1:{ports.standin_replicate}"
    if standins:
        made["STANDIN"] = "true"
        made |= {name: value for name, value in STANDIN_ACCOUNT.items() if name.split("_")[0].lower() in standins}
    chosen = {name: value for name, value in environ.items() if value and (name in _OURS or name.startswith("OTEL_"))}
    return made | chosen


def process_environment(variables: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a child: the variables, and what any process needs of ours."""
    return {name: environ[name] for name in _PASSED_ON if name in environ} | {"PYTHONUNBUFFERED": "1"} | dict(variables)
