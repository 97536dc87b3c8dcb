"""Combinations of Kafka's security settings, and errors of invalid ones."""

from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner

from shared.domain.errors import Unavailable
from shared.kafka import batches
from shared.kafka.access import client_options, create_tls_context
from shared.runtime.settings import KafkaSettings, PostgresSettings

USER = {"KAFKA_SASL_USERNAME": "blog", "KAFKA_SASL_PASSWORD": "planted-secret"}


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> KafkaSettings:
    for name, value in ({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"} | variables).items():
        monkeypatch.setenv(name, value)
    return KafkaSettings.from_environment()


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            "SASL_SSL lacks KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_USERNAME": "blog"},
            "SASL_PLAINTEXT lacks KAFKA_SASL_PASSWORD",
        ),
        (USER, "PLAINTEXT has no use for KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD"),
        (USER | {"KAFKA_SECURITY_PROTOCOL": "SSL"}, "SSL has no use for KAFKA_SASL_USERNAME"),
        ({"KAFKA_SSL_CA_FILE": "/ca.pem"}, "PLAINTEXT has no use for KAFKA_SSL_CA_FILE"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_FILE": "/k.pem"},
            "SSL lacks KAFKA_SSL_CERT_FILE",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "TLS"},
            "KAFKA_SECURITY_PROTOCOL: input should be 'PLAINTEXT', 'SSL'",
        ),
        (
            USER | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "GSSAPI"},
            "KAFKA_SASL_MECHANISM: input should be 'PLAIN', 'SCRAM-SHA-256'",
        ),
    ],
)
def test_invalid_combination_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], error: str
) -> None:
    with pytest.raises(Unavailable) as refused:
        read(monkeypatch, **variables)
    assert error in str(refused.value)
    assert "planted-secret" not in str(refused.value)


def test_clients_get_only_the_options_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_options(read(monkeypatch)) == {
        "bootstrap_servers": "kafka:9092",
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }
    settings = read(monkeypatch, KAFKA_SECURITY_PROTOCOL="SASL_SSL", **USER)
    options = client_options(settings)
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("PLAIN", "blog")
    assert options["ssl_context"].check_hostname
    assert "planted-secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "content", "variable"),
    [
        ("KAFKA_SSL_CA_FILE", None, "KAFKA_SSL_CA_FILE"),
        ("KAFKA_SSL_CA_FILE", "no certificate", "KAFKA_SSL_CA_FILE"),
        ("KAFKA_SSL_CERT_FILE", "no certificate", "KAFKA_SSL_CERT_FILE"),
    ],
)
def test_unusable_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: str | None, variable: str
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Unavailable, match=f"{variable} {file} cannot be used"):
        create_tls_context(read(monkeypatch, KAFKA_SECURITY_PROTOCOL="SSL", **{name: str(file)}))


def test_secrets_are_secret_fields_and_their_passwords() -> None:
    class Both(KafkaSettings, PostgresSettings):
        pass

    settings = Both.model_validate(
        {
            "kafka_bootstrap_servers": "k:1",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_username": "blog",
            "kafka_sasl_password": "kafka-secret",
            "database_url": "postgresql://blog:db-secret@db:5432/blog",
        }
    )
    assert {"kafka-secret", "db-secret", "postgresql://blog:db-secret@db:5432/blog"} == set(
        settings.secrets()
    )


def test_keys_get_the_partition_of_the_default_partitioner() -> None:
    every = list(range(24))
    keys = [f"store-{number}".encode() for number in range(500)] + [b"", "Käse".encode()]
    default = DefaultPartitioner()
    assert [batches.partition_for_key(key, every, every) for key in keys] == [
        default(key, every, every) for key in keys
    ]
    assert batches.partition_for_key(None, every, [7]) == 7
