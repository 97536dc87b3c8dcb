"""Options for connections to Kafka (addresses, TLS, credentials), and checks of them."""

import asyncio
import ssl
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from shared.domain.errors import Unavailable
from shared.runtime.settings import KafkaSettings

_TIMEOUT_S = 5
_CONNECTION_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""TLS errors of a connection that the server closed. They say nothing about certificates."""


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """The options of every aiokafka client. `Unavailable` when a TLS file cannot be used."""
    return {"bootstrap_servers": settings.kafka_bootstrap_servers, **_security(settings)}


def create_tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """The TLS context; `None` without TLS. Brokers' certificates and names are always checked."""
    if not settings.kafka_uses_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(
            f"KAFKA_SSL_CA_FILE {settings.kafka_ssl_ca_file} cannot be used: {error}"
        ) from None
    if settings.kafka_ssl_cert_file is not None:
        files = (settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file)
        try:
            context.load_cert_chain(*files, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            names = " with KAFKA_SSL_KEY_FILE ".join(
                str(file) for file in files if file is not None
            )
            raise Unavailable(f"KAFKA_SSL_CERT_FILE {names} cannot be used: {error}") from None
    return context


async def check_reachable(settings: KafkaSettings) -> None:
    """Raise OSError or KafkaError unless one of the servers accepts a connection.

    A client's own error does not distinguish a refusal from an unavailable server. This check does,
    and logs less.
    """
    if settings.kafka_security_protocol == "PLAINTEXT":
        await check_connects(settings.kafka_bootstrap_servers)
        return
    failure: Exception = OSError("no server named")
    security = _security(settings)
    for host, port in _addresses(settings.kafka_bootstrap_servers):
        try:
            connection = await create_conn(
                host, port, request_timeout_ms=_TIMEOUT_S * 1_000, **security
            )
        except (OSError, KafkaError, TimeoutError) as error:
            failure = error
        else:
            connection.close()
            return
    raise failure


async def check_connects(servers: str) -> None:
    """Raise OSError unless one of the addresses accepts a TCP connection."""
    failure: OSError = OSError("no server named")
    for host, port in _addresses(servers):
        try:
            # Not wait_for: if it is cancelled late, it loses an open connection.
            async with asyncio.timeout(_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            failure = error
        else:
            writer.close()
            return
    raise failure


def explain_refusal(settings: KafkaSettings, error: Exception) -> str | None:
    """One line about the setting to correct; `None` when waiting may help."""
    servers = settings.kafka_bootstrap_servers
    match error:
        case ssl.SSLCertVerificationError():
            reason = f"is not trusted: {error.verify_message}; check KAFKA_SSL_CA_FILE"
            return f"Kafka at {servers} {reason}"
        case ssl.SSLError() if not isinstance(error, _CONNECTION_CLOSED):
            reason = f"{error.reason or error}; check KAFKA_SECURITY_PROTOCOL"
            return f"no TLS with Kafka at {servers}: {reason}"
        case UnsupportedSaslMechanismError():
            return f"Kafka at {servers} refuses the mechanism: {error}; check KAFKA_SASL_MECHANISM"
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            return (
                f"Kafka at {servers} refuses the user {settings.kafka_sasl_username}: {error};"
                " check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )
    return None


def _security(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": create_tls_context(settings),
    }
    if settings.kafka_uses_sasl and settings.kafka_sasl_password is not None:
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism or "PLAIN",
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return options


def _addresses(servers: str) -> list[tuple[str, int]]:
    parts = (server.strip().rpartition(":") for server in servers.split(","))
    return [(host, int(port)) for host, _, port in parts]


def _no_password() -> str:
    """Keeps OpenSSL from asking for a password at the terminal."""
    raise ValueError("the key is encrypted")
