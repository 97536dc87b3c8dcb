"""A broker with authentication: the sandbox's, with two more listeners."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from sandbox.servers import kafka as kafka_server
from sandbox.system.home import free_port
from sandbox.system.process import ProcessSpec
from tests.support.servers import start_server, stop_server

USER, PASSWORD = "blog", "planted-kafka-password"
_SECURED_LISTENERS = """
listeners={listeners},NAMED://127.0.0.1:{named},MUTUAL://127.0.0.1:{mutual}
advertised.listeners={advertised},NAMED://127.0.0.1:{named},MUTUAL://127.0.0.1:{mutual}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,NAMED:SASL_SSL,MUTUAL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/authority.pem
listener.name.mutual.ssl.client.auth=required
listener.name.named.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.named.plain.sasl.jaas.config={plain} required user_{user}="{password}";
listener.name.named.scram-sha-256.sasl.jaas.config={scram} required;
listener.name.named.scram-sha-512.sasl.jaas.config={scram} required;
"""
_MODULES = {
    "plain": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "scram": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredKafka:
    password_address: str
    """The address for a user and a password (SASL_SSL)."""
    certificate_address: str
    """The address for a client certificate (SSL)."""
    authority: Path
    unknown_authority: Path
    """An authority that has signed no certificate of this broker."""
    client: Path
    """A client certificate with its key, for MUTUAL."""

    def password_settings(
        self, mechanism: str = "SCRAM-SHA-512", password: str = PASSWORD
    ) -> dict[str, str]:
        """Settings of a client that logs in with a password, by field."""
        return {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_username": USER,
            "kafka_sasl_password": password,
            "kafka_ssl_ca_file": str(self.authority),
        }

    def certificate_settings(self) -> dict[str, str]:
        return {
            "kafka_security_protocol": "SSL",
            "kafka_ssl_ca_file": str(self.authority),
            "kafka_ssl_cert_file": str(self.client),
        }


@contextmanager
def start_secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    broker = _create_certificates(folder)
    spec, _ = kafka_server.prepare_server(folder / "kafka", print)
    _add_secured_listeners(spec, broker)
    _format_with_users(spec, folder / "kafka" / "data")
    process = start_server(spec, folder / "server.log")
    yield broker
    stop_server(spec, process)


def _create_certificates(folder: Path) -> SecuredKafka:
    authority, other_authority = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    other_authority.cert_pem.write_to_path(str(folder / "other_authority.pem"))
    for name, issued in (("broker", "127.0.0.1"), ("client", "blogstream@example.com")):
        leaf = authority.issue_cert(issued)
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
        written = key.private_bytes(  # Kafka reads only PKCS8
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.pem").write_bytes(
            written + b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        )
    return SecuredKafka(
        password_address=f"127.0.0.1:{free_port()}",
        certificate_address=f"127.0.0.1:{free_port()}",
        authority=folder / "authority.pem",
        unknown_authority=folder / "other_authority.pem",
        client=folder / "client.pem",
    )


def _add_secured_listeners(spec: ProcessSpec, broker: SecuredKafka) -> None:
    """Append properties. Of two lines with the same name, Kafka uses the last."""
    path = Path(spec.argv[-1])
    written = path.read_text()
    known = dict(line.split("=", 1) for line in written.splitlines())
    more = _SECURED_LISTENERS.format(
        listeners=known["listeners"],
        advertised=known["advertised.listeners"],
        named=broker.password_address.split(":")[1],
        mutual=broker.certificate_address.split(":")[1],
        folder=broker.authority.parent,
        user=USER,
        password=PASSWORD,
        **_MODULES,
    )
    path.write_text(written + more)


def _format_with_users(spec: ProcessSpec, data: Path) -> None:
    """Format the data folder again, with the SCRAM users in it."""
    shutil.rmtree(data)
    users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
    tool = (
        "kafka.tools.StorageTool",
        "format",
        "--standalone",
        "--cluster-id=blogstream-secured-00w",
    )
    argv = (
        *spec.argv[:-2],
        *tool,
        "-c",
        spec.argv[-1],
        *(part for user in users for part in ("--add-scram", user)),
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=dict(spec.env))
    assert done.returncode == 0, done.stdout + done.stderr
